#!/usr/bin/env bash
# Builds the embedded world model from nothing: episodes, denoiser, reward head, initial frames.
# Every step resumes, so the same command goes on where it was stopped.
set -eu
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
run() { .venv/bin/python -m "training.$1" "${@:2}"; }
tasks="coffee-pull soccer hammer door-lock lever-pull handle-pull"

training/collect_default.sh
run collect_episodes --behaviour start --episodes 400 --seed-offset 50000

# Of the weakest clones, which are what users refine, also what refinement in an earlier world model
# made of them: that is where a policy goes that exploits imagination.
for task in $tasks; do
  [ -e "runs/refined-5/$task/curve.json" ] ||
    run refine_policy --policy "runs/clone-5/$task" --out "runs/refined-5/$task" \
      --episodes world4rl_gym/assets/demonstrations --demonstrations 5
done
rollouts() { run collect_episodes --behaviour policy --policy "runs/$1/{task}" "${@:2}"; }
rollouts refined-5 --episodes 30 --seed-offset 41000 --deterministic
rollouts refined-5 --episodes 20 --seed-offset 41500
rollouts refined-5 --episodes 10 --seed-offset 41000 --deterministic --split validation
rollouts clone-5 --episodes 50 --seed-offset 200000 --deterministic --split validation

# One process a core is a sixth faster than one process on both.
ACCELERATE_USE_CPU=1 OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone \
  --nproc_per_node "$(nproc)" -m training.train_world_model --out runs/denoiser \
  --checkpoint-every 250 --picture-every 3000
run train_reward_head --out runs/reward_head-real --steps 2500
run train_reward_head --out runs/reward_head --init runs/reward_head-real --denoiser runs/denoiser \
  --steps 800 --learning-rate 5e-4 --checkpoint-every 800 \
  --closed-loop "runs/clone-5/{task}@200000"
run assemble_world_model --denoiser runs/denoiser --reward-head runs/reward_head \
  --contexts 10 --out world4rl_gym/assets/world_model \
  --demonstrations world4rl_gym/assets/demonstrations
run evaluate_world_model --out results --most-steps 5
run model_card --folder world4rl_gym/assets/world_model --report results/world_model.json

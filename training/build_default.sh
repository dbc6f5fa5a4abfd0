#!/usr/bin/env bash
# Builds the embedded world model from nothing: episodes, denoiser, reward head, initial frames.
# Every step resumes, so the same command goes on where it was stopped.
set -eu
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
run() { .venv/bin/python -m "training.$1" "${@:2}"; }
tasks="coffee-pull soccer hammer door-lock lever-pull handle-pull"

# Experts, disturbed experts, and random actions (drawn anew each decision, or held for five).
run collect_episodes --behaviour expert --episodes 50
run collect_episodes --behaviour noisy-expert --episodes 40 --seed-offset 10000 --hold 4
# A disturbance held throughout makes the hand pass beside what it should touch: near-misses.
run collect_episodes --behaviour noisy-expert --episodes 30 --seed-offset 12000 --hold 50
run collect_episodes --behaviour random --episodes 15 --seed-offset 20000
run collect_episodes --behaviour random --episodes 25 --seed-offset 21000 --hold 5
for split in validation test; do
  run collect_episodes --behaviour expert --episodes 10 --split $split
  run collect_episodes --behaviour random --episodes 10 --seed-offset 20000 --split $split
  run collect_episodes --behaviour noisy-expert --episodes 10 --seed-offset 10000 --hold 4 \
    --split $split
done
run collect_episodes --behaviour start --episodes 400 --seed-offset 50000

# Cloned policies of three strengths, sampled and deterministic, so that failures are covered; of
# the weakest, which are what users refine, also what refinement in an earlier world model made of
# them: that is where a policy goes that exploits imagination.
clone() {
  [ -e "runs/$1/$2/policy.json" ] ||
    run clone_policy --task "$2" --out "runs/$1/$2" --demonstrations "$3" --steps "$4" "${@:5}"
}
for task in $tasks; do
  clone clone-5 "$task" 5 1000 --episodes world4rl_gym/assets/demonstrations
  clone clone-10 "$task" 10 800
  clone clone-50 "$task" 50 1500
  [ -e "runs/refined-5/$task/curve.json" ] ||
    run refine_policy --policy "runs/clone-5/$task" --out "runs/refined-5/$task" \
      --episodes world4rl_gym/assets/demonstrations --demonstrations 5
done
rollouts() { run collect_episodes --behaviour policy --policy "runs/$1/{task}" "${@:2}"; }
rollouts clone-10 --episodes 40 --seed-offset 30000
rollouts clone-10 --episodes 30 --seed-offset 31000 --deterministic
rollouts clone-50 --episodes 45 --seed-offset 32000
rollouts clone-50 --episodes 35 --seed-offset 33000 --deterministic
rollouts clone-5 --episodes 30 --seed-offset 40000
rollouts clone-5 --episodes 20 --seed-offset 40500 --deterministic
rollouts refined-5 --episodes 30 --seed-offset 41000 --deterministic
rollouts refined-5 --episodes 20 --seed-offset 41500
rollouts refined-5 --episodes 10 --seed-offset 41000 --deterministic --split validation
rollouts clone-5 --episodes 50 --seed-offset 200000 --deterministic --split validation
for split in validation test; do
  rollouts clone-10 --episodes 10 --seed-offset 30000 --split $split
  rollouts clone-50 --episodes 10 --seed-offset 32000 --split $split --deterministic
done
for probe in zero open-gripper reversed shuffled; do
  run collect_episodes --behaviour $probe --episodes 10 --split test
done

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

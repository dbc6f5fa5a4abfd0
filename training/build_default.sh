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
run collect_episodes --behaviour random --episodes 15 --seed-offset 20000
run collect_episodes --behaviour random --episodes 25 --seed-offset 21000 --hold 5
for split in validation test; do
  run collect_episodes --behaviour expert --episodes 10 --split $split
  run collect_episodes --behaviour random --episodes 10 --seed-offset 20000 --split $split
  run collect_episodes --behaviour noisy-expert --episodes 10 --seed-offset 10000 --hold 4 \
    --split $split
done
run collect_episodes --behaviour start --episodes 150 --seed-offset 50000

# Cloned policies of two strengths, sampled and deterministic, so that failures are covered.
for task in $tasks; do
  [ -e "runs/clone-10/$task/policy.json" ] ||
    run clone_policy --task "$task" --demonstrations 10 --steps 800 --out "runs/clone-10/$task"
  [ -e "runs/clone-50/$task/policy.json" ] ||
    run clone_policy --task "$task" --demonstrations 50 --steps 1500 --out "runs/clone-50/$task"
done
rollouts() { run collect_episodes --behaviour policy --policy "runs/$1/{task}" "${@:2}"; }
rollouts clone-10 --episodes 40 --seed-offset 30000
rollouts clone-10 --episodes 30 --seed-offset 31000 --deterministic
rollouts clone-50 --episodes 45 --seed-offset 32000
rollouts clone-50 --episodes 35 --seed-offset 33000 --deterministic
for split in validation test; do
  rollouts clone-10 --episodes 10 --seed-offset 30000 --split $split
  rollouts clone-50 --episodes 10 --seed-offset 32000 --split $split --deterministic
done

# Most steps at noise levels that still show the motion, then some where sampling starts from: at
# sigma 5 the network leans on what it sees through the noise, which sampling from noise lacks.
run train_world_model --out runs/denoiser-base --until 5500
run train_world_model --out runs/denoiser-tuned --init runs/denoiser-base --steps 1200 --warmup 50 \
  --learning-rate 3e-4 --autoregressive-from 0 --autoregressive-steps 5 \
  --autoregressive-batch-size 14 --log-sigma-mean 4.0 --log-sigma-deviation 0.6 --ema 0.99 \
  --checkpoint-every 200 --picture-every 400
run train_reward_head --out runs/reward_head-base --steps 2500
run train_reward_head --out runs/reward_head --init runs/reward_head-base \
  --denoiser runs/denoiser-tuned --steps 800 --learning-rate 5e-4 --checkpoint-every 800

# One process a core is a sixth faster than one process on both.
ACCELERATE_USE_CPU=1 OMP_NUM_THREADS=1 .venv/bin/torchrun --standalone --nproc_per_node 2 \
  -m training.train_world_model --out runs/denoiser --init runs/denoiser-tuned --steps 1800 \
  --warmup 50 --learning-rate 5e-4 --autoregressive-from 0 --autoregressive-batch-size 16 \
  --log-sigma-mean 4.0 --log-sigma-deviation 0.6 --ema 0.99 --checkpoint-every 200 \
  --picture-every 0
run assemble_world_model --denoiser runs/denoiser --reward-head runs/reward_head \
  --out world4rl_gym/assets/world_model --demonstrations world4rl_gym/assets/demonstrations
run evaluate_world_model --out results

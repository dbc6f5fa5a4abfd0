#!/usr/bin/env bash
# Builds the embedded world model from nothing: episodes, eyes, a memory a task, the denoiser.
# One process a core; every step resumes, so the same command goes on where it was stopped.
#   training/build_default.sh [TASK ...]
set -eu
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
out="${OUT:-world4rl_gym/assets/world_model}"
tasks="${*:-coffee-pull soccer hammer door-lock lever-pull handle-pull}"
run() { .venv/bin/python -m "training.$1" "${@:2}"; }
# shellcheck disable=SC2086  # one word a task
collect() { run collect_episodes --tasks $tasks --workers "$(nproc)" --behaviour "$@"; }
# shellcheck disable=SC2086
each_task() { printf '%s\n' $tasks | xargs -P "$(nproc)" -I TASK .venv/bin/python -m "training.$@"; }

# First frames alone, for the eyes; then whole episodes of experts and of random actions.
collect start --episodes 2000
collect start --episodes 200 --split validation
collect expert --episodes 50 --seed-offset 10000
collect random --episodes 30 --seed-offset 20000 --hold 5
for task in $tasks; do  # coffee-pull's goal is a green mark of two pixels, which degraded frames lose
  if [ "$task" = coffee-pull ]; then echo "$task --whiten --no-degrade"; else echo "$task"; fi
done | xargs -P "$(nproc)" -L 1 .venv/bin/python -m training.train_eyes --task

# Clones, their rollouts, perturbed replays, and rounds of plans, each done in the real env.
each_task train_task_memory --task TASK

# shellcheck disable=SC2086
run train_denoiser --tasks $tasks --steps 5000
# shellcheck disable=SC2086
run assemble_world_model --tasks $tasks --out "$out"
for task in $tasks; do  # what the demo clones
  place="training/data/demonstrations/$task/train"
  mkdir -p "$place"
  cp "data/episodes/$task/train/expert-001000"[0-4].npz "$place"
done

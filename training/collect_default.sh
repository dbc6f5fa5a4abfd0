#!/usr/bin/env bash
# Collects the episodes that the embedded world model is built from, and those that measure it; of
# all tasks, or of those named: `training/collect_default.sh hammer soccer`. It resumes.
set -eu
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-0}"
run() { .venv/bin/python -m "training.$1" "${@:2}"; }
tasks="${*:-coffee-pull soccer hammer door-lock lever-pull handle-pull}"
# shellcheck disable=SC2086  # one word a task
collect() { run collect_episodes --tasks $tasks --behaviour "$@"; }

# Experts, disturbed experts, and random actions (drawn anew each decision, or held for five).
collect expert --episodes 50
collect noisy-expert --episodes 40 --seed-offset 10000 --hold 4
# A disturbance held throughout makes the hand pass beside what it should touch: near-misses.
collect noisy-expert --episodes 30 --seed-offset 12000 --hold 50
collect random --episodes 15 --seed-offset 20000
collect random --episodes 25 --seed-offset 21000 --hold 5
for split in validation test; do
  collect expert --episodes 10 --split $split
  collect random --episodes 10 --seed-offset 20000 --split $split
  collect noisy-expert --episodes 10 --seed-offset 10000 --hold 4 --split $split
done

# Cloned policies of three strengths, sampled and deterministic, so that failures are covered.
clone() {
  [ -e "runs/$1/$2/policy.json" ] ||
    run clone_policy --task "$2" --out "runs/$1/$2" --demonstrations "$3" --steps "$4" "${@:5}"
}
for task in $tasks; do
  clone clone-5 "$task" 5 1000 --episodes world4rl_gym/assets/demonstrations
  clone clone-10 "$task" 10 800
  clone clone-50 "$task" 50 1500
done
rollouts() { collect policy --policy "runs/$1/{task}" "${@:2}"; }
rollouts clone-10 --episodes 40 --seed-offset 30000
rollouts clone-10 --episodes 30 --seed-offset 31000 --deterministic
rollouts clone-50 --episodes 45 --seed-offset 32000
rollouts clone-50 --episodes 35 --seed-offset 33000 --deterministic
rollouts clone-5 --episodes 30 --seed-offset 40000
rollouts clone-5 --episodes 20 --seed-offset 40500 --deterministic
for split in validation test; do
  rollouts clone-10 --episodes 10 --seed-offset 30000 --split $split
  rollouts clone-50 --episodes 10 --seed-offset 32000 --split $split --deterministic
done
for probe in zero open-gripper reversed shuffled; do
  collect $probe --episodes 10 --split test
done

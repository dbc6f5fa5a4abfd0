"""Real success of a policy of any library, from the starts of results/table.md."""

from __future__ import annotations

from training.envs.real_env import TABLE_OFFSET, require_real_env, split_seeds
from training.envs.rollouts import Actor, make_real_env, real_outcomes
from training.evaluation.formatting import format_rate
from training.evaluation.metrics import rate
from training.runs.threads import one_thread
from world4rl_gym.world_model import WorldModel


def real_success(policy: Actor, world_model: WorldModel, task: str, episodes: int) -> str:
    """Plays `episodes` episodes in real Meta-World; returns the success with its 95 % interval."""
    one_thread()
    require_real_env()
    env, seeds = make_real_env(task), split_seeds("test", episodes, TABLE_OFFSET)
    solved = real_outcomes(env, policy, world_model, seeds)
    env.close()
    return format_rate(rate(solved))

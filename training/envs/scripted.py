"""Who acts in Meta-World without having learned: experts, chance, and probes of optimism."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from training.envs.real_env import RealEnv
from training.envs.rollouts import record

Behaviour = Literal[
    "expert", "noisy-expert", "random", "zero", "open-gripper", "reversed", "shuffled"
]
"""The last four probe a world model for optimism: no action at all, the expert with an open
gripper, and the expert's actions of the same start, backwards or in any order."""


def scripted(
    behaviour: Behaviour, env: RealEnv, seed: int, noise: float = 0.5, hold: int = 1
) -> Callable[[Any, int], np.ndarray]:
    """Returns who acts in one episode of `env`, as `record` takes it: `(4,)` float32 in [-1, 1].

    Args:
        behaviour: Who.
        env: Where.
        seed: Of the episode; all randomness comes from it.
        noise: Deviation of a noisy expert's noise: from none to twice that, drawn an episode.
        hold: Decisions for which a random or noise draw is held.
    """
    rng = np.random.default_rng([seed, 1])
    held = np.zeros(4, np.float32)

    def draw(decision: int, sample: Callable[[], np.ndarray]) -> np.ndarray:
        nonlocal held
        if decision % hold == 0:
            held = sample().astype(np.float32)
        return held

    if behaviour == "random":
        return lambda _, t: draw(t, lambda: rng.uniform(-1, 1, 4))
    if behaviour == "noisy-expert":
        scale = rng.uniform(0, 2 * noise)  # some episodes nearly clean, some badly off
        return lambda _, t: np.clip(
            env.expert_action() + draw(t, lambda: rng.normal(0, scale, 4)), -1, 1
        ).astype(np.float32)
    if behaviour == "zero":
        return lambda _, t: np.zeros(4, np.float32)
    if behaviour == "open-gripper":
        return lambda _, t: np.append(env.expert_action()[:3], np.float32(-1))
    if behaviour in ("reversed", "shuffled"):
        plan = record(env, seed, "expert", lambda _, t: env.expert_action()).actions
        plan = plan[::-1] if behaviour == "reversed" else rng.permutation(plan)
        return lambda _, t: plan[t]
    return lambda _, t: env.expert_action()

"""A pretrained diffusion world model of robot manipulation as a Gymnasium environment.

Importing this package registers `World4RL-Imagined-v0` and imports neither torch nor any RL
library; everything else is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import gymnasium

__version__ = "0.1.0"

ENV_ID = "World4RL-Imagined-v0"

_HOMES = {
    "ImaginedEnv": "env",
    "ImaginedVectorEnv": "vector_env",
    "ImaginedVecEnv": "sb3",
    "Imagination": "imagination",
    "InitialFrames": "initial_frames",
    "MemoryFeatures": "features",
    "WorldModel": "world_model",
    "WorldModelConfig": "world_model",
    "WorldModelError": "reading",
    "list_pretrained": "pretrained",
}

__all__ = ["ENV_ID", "__version__", *_HOMES]

if ENV_ID not in gymnasium.registry:
    gymnasium.register(
        id=ENV_ID,
        entry_point="world4rl_gym.env:ImaginedEnv",
        vector_entry_point="world4rl_gym.vector_env:ImaginedVectorEnv",
        max_episode_steps=None,  # truncation is the env's own, alike through make and make_vec
        order_enforce=True,
    )


def _use_one_thread() -> None:
    """Keeps torch from waiting for ever, in a forked process, for threads that only its parent has.

    OpenMP's threads do not survive a fork.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

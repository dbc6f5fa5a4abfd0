"""A pretrained diffusion world model of robot manipulation as a Gymnasium environment.

Importing this package registers `World4RL-Imagined-v0` and imports neither torch nor any RL
library; everything else is loaded when it is first used.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import sys
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec

__version__ = "0.1.0"

ENV_ID = "World4RL-Imagined-v0"

_HOMES = {
    "ImaginedEnv": "env",
    "ImaginedVectorEnv": "vector_env",
    "ImaginedVecEnv": "sb3",
    "Imagination": "imagination",
    "InitialFrames": "initial_frames",
    "MemoryFeatures": "features",
    "Policy": "policy",
    "WorldModel": "world_model",
    "WorldModelConfig": "world_model",
    "WorldModelError": "reading",
    "list_pretrained": "pretrained",
}

__all__ = ["ENV_ID", "__version__", *_HOMES]


class _Spec(EnvSpec):
    """A spec whose copies have no wrappers: `gym.make_vec` copies it, and would refuse them."""

    def __deepcopy__(self, memo: dict[int, Any]) -> EnvSpec:
        fields = {
            field.name: copy.deepcopy(getattr(self, field.name), memo)
            for field in dataclasses.fields(self)
            if field.init
        }
        return EnvSpec(**{**fields, "additional_wrappers": ()})


if ENV_ID not in gymnasium.registry:
    gymnasium.registry[ENV_ID] = _Spec(
        id=ENV_ID,
        entry_point="world4rl_gym.env:ImaginedEnv",
        vector_entry_point="world4rl_gym.vector_env:ImaginedVectorEnv",
        max_episode_steps=None,  # truncation is the env's own, alike through make and make_vec
        additional_wrappers=(WrapperSpec("Horizon", "world4rl_gym.env:Horizon", {}),),
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

"""A flow-matching policy, and steering it by its noise.

The flow policy stays as it was cloned. What is refined chooses its noise, so that it only does what
the demonstrations could have shown: DSRL (Wagenmaker et al., arXiv 2506.15799).
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from diffusers import ConfigMixin, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from world4rl_gym.arguments import check_name, composed, require_integers
from world4rl_gym.components import load_component, write_component
from world4rl_gym.features import feature_size
from world4rl_gym.policy import Policy, PolicyConfig
from world4rl_gym.reading import StrictFolder, WorldModelError
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import replaced_folder

NOISE_SCALE = 2.0
"""Noise at the bounds, -1 and 1, of what a steering policy chooses."""


@dataclasses.dataclass(frozen=True)
class FlowPolicyConfig:
    """Shape of `FlowPolicy`.

    Attributes:
        task: The task's name.
        vector_size: Numbers of features F.
        action_size: Action components A.
        width: Units of its three hidden layers.
        num_inference_steps: Steps from noise to an action.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    task: str = "task"
    vector_size: int = 1
    action_size: int = 4
    width: int = 256
    num_inference_steps: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", check_name("task", self.task))
        require_integers(self, vector_size=(1, 1024), action_size=(1, 64), width=(1, 1024))
        require_integers(self, num_inference_steps=(1, 100))


class FlowPolicy(ModelMixin, ConfigMixin):
    """Turns noise into actions, given features, by flow matching (Lipman et al., arXiv 2210.02747).

    Args:
        task: As `FlowPolicyConfig`, like all arguments.
        vector_size: As above.
        action_size: As above.
        width: As above.
        num_inference_steps: As above.
    """

    @register_to_config
    def __init__(
        self,
        task: str = "task",
        vector_size: int = 1,
        action_size: int = 4,
        width: int = 256,
        num_inference_steps: int = 4,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (vector_size + action_size + 1, width, width):
            layers += [nn.Linear(size, width), nn.SiLU()]
        self.velocity = nn.Sequential(*layers, nn.Linear(width, action_size))
        self.float()  # whatever torch's default dtype is

    def forward(self, features: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The velocity from action to noise, `(B, A)`.

        Args:
            features: `(B, F)` float32.
            noisy: `(B, A)`, an action of which the share `sigma` is noise.
            sigma: `(B,)` in [0, 1].
        """
        return self.velocity(torch.cat([features, noisy, sigma[:, None]], dim=1))

    @torch.no_grad()
    def decode(self, features: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Turns `(B, A)` noise, float32, into actions `(B, A)` float32 in [-1, 1]."""
        scheduler = FlowMatchEulerDiscreteScheduler()
        count = self.config.num_inference_steps
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / count, count).tolist())
        seen, sample = torch.as_tensor(features), torch.as_tensor(noise)
        for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            velocity = self(seen, sample, sigma.expand(len(sample)))
            sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]
        return sample.clamp(-1, 1).numpy()

    def steered(self, features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """`decode` of noise `(B, A)` in units of `NOISE_SCALE`, as a steering policy chooses it."""
        return self.decode(features, NOISE_SCALE * np.asarray(chosen, np.float32))


class NoiseSteering(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Takes noise in place of actions, in any env that is observed as features.

    The action space becomes `Box(-1, 1, (A,), float32)`, in units of `NOISE_SCALE`. Works for
    `World4RL-Imagined-v0` with `obs_type="features"` and for a real env behind `MemoryFeatures`.

    Args:
        env: The env.
        flow: Turns noise into actions in [-1, 1], which are stretched to the env's bounds.

    Raises:
        ValueError: The env's spaces do not suit the flow policy.
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray], flow: FlowPolicy) -> None:
        super().__init__(env)
        bounds, config = env.action_space, flow.config
        for name, space, size in (
            ("observation_space", env.observation_space, config.vector_size),
            ("action_space", bounds, config.action_size),
        ):
            if not isinstance(space, gym.spaces.Box) or space.shape != (size,):
                raise ValueError(f"{name}: expected a Box of shape ({size},), got {space}")
        assert isinstance(bounds, gym.spaces.Box)
        self.flow, self._bounds = flow, bounds
        self.action_space = gym.spaces.Box(-1, 1, bounds.shape, np.float32)
        self._seen: np.ndarray | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins an episode; arguments and result are the env's."""
        self._seen, info = self.env.reset(seed=seed, options=options)
        return self._seen, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Steps by what the noise, `(A,)` in [-1, 1], becomes; the result is the env's."""
        if self._seen is None:
            raise gym.error.ResetNeeded("reset() must be called before step()")
        done = self.flow.steered(self._seen[None], action[None])[0]
        low, high = self._bounds.low, self._bounds.high
        result = self.env.step((low + (done + 1) / 2 * (high - low)).astype(np.float32))
        self._seen = result[0]
        return result  # type: ignore[return-value]


class SteeredPolicy:
    """A flow policy whose noise another policy chooses; it acts as a `Policy` on features does.

    Args:
        flow: Cloned, and left as it is.
        steering: A policy on features whose actions, times `NOISE_SCALE`, are the noise; with None
            the noise is zero.
    """

    obs_type = "features"

    def __init__(self, flow: FlowPolicy, steering: Policy | None = None) -> None:
        self.flow, self.steering = flow, steering
        self.name = "flow" if steering is None else "steered"
        """What recordings call it; its folder's name, where it has one."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Features `(B, F)` float32 to actions `(B, A)` float32 in [-1, 1]."""
        if self.steering is not None:
            return self.flow.steered(observation, self.steering.act(observation))
        return self.flow.decode(
            observation, np.zeros((len(observation), self.flow.config.action_size), np.float32)
        )

    def check_fits(self, world_model: WorldModel, task: str | None = None) -> None:
        """Raises WorldModelError, naming the field, unless it can act in the world model."""
        sizes = {"vector_size": feature_size(world_model), "action_size": world_model.action_size}
        for field, expected in sizes.items():
            if self.flow.config[field] != expected:
                raise WorldModelError(
                    f"policy: {field}: the world model has {expected}, the policy "
                    f"{self.flow.config[field]}"
                )
        if task is not None and composed(task) != self.flow.config.task:
            raise WorldModelError(
                f"policy: task: expected {task!r}, got one of {self.flow.config.task!r}"
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes its networks, `flow` and, where there is one, `steering`, whole or not at all.

        Raises:
            WorldModelError: It cannot be written.
        """
        with replaced_folder(Path(folder), ("flow", "steering")) as fresh:
            for name, part in (("flow", self.flow), ("steering", self.steering)):
                if part is not None:
                    (fresh / name).mkdir()
                    write_component(part, fresh / name)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> SteeredPolicy:
        """Loads a folder that `save_pretrained` wrote; every file is checked before it is used.

        Raises:
            WorldModelError: It cannot be loaded; the message names the file and the field.
        """
        files = StrictFolder(Path(folder))
        steered = (Path(folder) / "steering").is_dir()
        policy = cls(
            load_component(files, "flow", FlowPolicy, FlowPolicyConfig),
            load_component(files, "steering", Policy, PolicyConfig) if steered else None,
        )
        if policy.steering is not None:
            own, flow = policy.steering.shape, policy.flow.config
            for field in ("task", "vector_size", "action_size"):
                if getattr(own, field) != flow[field]:
                    raise WorldModelError(
                        f"{folder}: steering: {field}: the flow policy has {flow[field]!r}, got "
                        f"{getattr(own, field)!r}"
                    )
        policy.name = Path(folder).resolve().name
        return policy

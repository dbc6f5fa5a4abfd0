"""The Gaussian CNN policy: what is cloned, refined, evaluated and saved.

It is an SB3 actor-critic policy, so that PPO refines the very module that was cloned, and it is
stored as safetensors and JSON rather than as one of SB3's zips, which hold pickles.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

POLICY_FORMAT = 1


class PolicyError(ValueError):
    """A saved policy is missing, broken or unfit; the message names the file and the field."""


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """What a policy is built from; saved beside its weights.

    Attributes:
        task: The task that it was cloned for.
        frame_size: Height and width of its frames in pixels.
        action_size: Number of action components.
        features: Width of the encoder's output.
        hidden: Width of the actor's and of the critic's hidden layer.
    """

    task: str
    frame_size: int = 64
    action_size: int = 4
    features: int = 128
    hidden: int = 128


class FrameEncoder(BaseFeaturesExtractor):
    """Four strided convolutions and a linear layer: `(B, 3, H, W)` float in [0, 1] -> `(B, F)`."""

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        side = observation_space.shape[1] // 16
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * side * side, features_dim),
            nn.LayerNorm(features_dim),
            nn.Tanh(),
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            features = self.layers(observations - 0.5)
        return features.float()


class GaussianCnnPolicy(ActorCriticPolicy):
    """Gaussian policy on frames whose deviation never exceeds 1.

    World4RL caps the deviation at sigma <= e^0 (common code allows e^2); here the learned log
    deviation is clipped at 0 wherever a distribution is made of it.
    """

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Distribution:
        assert isinstance(self.action_dist, DiagGaussianDistribution)
        mean = self.action_net(latent_pi)
        return self.action_dist.proba_distribution(mean, self.log_std.clamp(max=0.0))


def policy_arguments(config: PolicyConfig) -> dict[str, Any]:
    """Returns the `policy_kwargs` that make SB3 build the same network as `make_policy`."""
    return {
        "features_extractor_class": FrameEncoder,
        "features_extractor_kwargs": {"features_dim": config.features},
        "net_arch": {"pi": [config.hidden], "vf": [config.hidden]},
        "log_std_init": -1.0,
    }


def make_policy(
    config: PolicyConfig, lr_schedule: Callable[[float], float] = lambda _: 3e-4
) -> GaussianCnnPolicy:
    """Builds an untrained policy; observations `(3, H, W)` uint8, actions `(A,)` in [-1, 1]."""
    size = config.frame_size
    return GaussianCnnPolicy(
        gym.spaces.Box(0, 255, (3, size, size), np.uint8),
        gym.spaces.Box(-1.0, 1.0, (config.action_size,), np.float32),
        lr_schedule,
        **policy_arguments(config),
    )


def sample_actions(
    policy: ActorCriticPolicy, frames: np.ndarray, rng: np.random.Generator | None
) -> np.ndarray:
    """Acts on a batch of frames without touching the global generators.

    Args:
        policy: The policy.
        frames: `(B, H, W, 3)` uint8.
        rng: Source of the sampling noise; None takes the mean action.

    Returns:
        `(B, A)` float32, clipped to [-1, 1].
    """
    pixels = torch.as_tensor(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        gaussian = policy.get_distribution(pixels.to(policy.device)).distribution
    actions = gaussian.mean.cpu().numpy()
    if rng is not None:
        actions = actions + gaussian.stddev.cpu().numpy() * rng.standard_normal(actions.shape)
    return np.clip(actions, -1, 1).astype(np.float32)


def save_policy(
    policy: ActorCriticPolicy, config: PolicyConfig, folder: str | os.PathLike[str]
) -> None:
    """Writes `policy.safetensors` and `policy.json`; each file appears whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in _weights(policy).items()}
    partial = folder / f".policy.safetensors.{os.getpid()}.partial"
    save_file(weights, partial)
    os.replace(partial, folder / "policy.safetensors")
    partial = folder / f".policy.json.{os.getpid()}.partial"
    record = {"format_version": POLICY_FORMAT, **dataclasses.asdict(config)}
    partial.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(partial, folder / "policy.json")


def load_policy_config(folder: str | os.PathLike[str]) -> PolicyConfig:
    """Reads a saved policy's configuration.

    Raises:
        PolicyError: The file is missing or a field is missing, unknown or of the wrong type.
    """
    path = Path(folder) / "policy.json"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise PolicyError(f"{path}: no such file; is {folder} a saved policy?") from None
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path}: not readable JSON ({error})") from None
    fields = {f.name: f.type for f in dataclasses.fields(PolicyConfig)}
    if not isinstance(record, dict) or record.pop("format_version", None) != POLICY_FORMAT:
        raise PolicyError(f"{path}: format_version: expected {POLICY_FORMAT}")
    if set(record) != set(fields):
        odd = sorted(set(record) ^ set(fields))
        raise PolicyError(f"{path}: field {odd[0]!r} is missing or unknown")
    for name, value in record.items():
        wanted = str if name == "task" else int
        if type(value) is not wanted or (wanted is int and not 1 <= value <= 4096):
            raise PolicyError(f"{path}: {name}: expected {wanted.__name__}, got {value!r}")
    return PolicyConfig(**record)


def load_policy(folder: str | os.PathLike[str]) -> GaussianCnnPolicy:
    """Loads a saved policy on the CPU, in evaluation mode.

    Raises:
        PolicyError: A file is missing or broken, or the weights do not fit the configuration.
    """
    config = load_policy_config(folder)
    path = Path(folder) / "policy.safetensors"
    try:
        weights = load_file(path)
    except FileNotFoundError:
        raise PolicyError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"{path}: not readable safetensors ({error})") from None
    policy = make_policy(config)
    expected = _weights(policy)
    for name in sorted(set(expected) ^ set(weights)):
        raise PolicyError(f"{path}: tensor {name!r} is missing or unknown")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            raise PolicyError(
                f"{path}: tensor {name!r}: expected {tuple(expected[name].shape)} "
                f"{expected[name].dtype}, got {tuple(tensor.shape)} {tensor.dtype}"
            )
        if not tensor.isfinite().all():
            raise PolicyError(f"{path}: tensor {name!r}: holds NaN or infinity")
    for name, tensor in expected.items():
        tensor.copy_(weights[name])
    policy.set_training_mode(False)
    return policy


def _weights(policy: ActorCriticPolicy) -> dict[str, torch.Tensor]:
    """The policy's weights, each once; SB3 lists the encoder that actor and critic share thrice."""
    twins = ("pi_features_extractor.", "vf_features_extractor.")
    return {k: v for k, v in policy.state_dict().items() if not k.startswith(twins)}

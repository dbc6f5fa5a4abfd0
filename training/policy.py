"""The Gaussian CNN policy: what is cloned, refined, evaluated and saved.

It is an SB3 actor-critic policy, so that PPO refines the very module that was cloned, and it is
stored as safetensors and JSON rather than as one of SB3's zips, which hold pickles.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors.torch
import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from training.policy_network import MOST_MEMBERS, FrameEncoder, MemberLinear, PolicyConfig
from world4rl_gym.hub import find_folder, upload
from world4rl_gym.reading import StrictFolder, WorldModelError, make_config, shown
from world4rl_gym.writing import write_whole

POLICY_FORMAT = 3
POLICY_FILE = "policy.json"
POLICY_FILES = (POLICY_FILE, "policy.safetensors", "policy-*.safetensors", "README.md")
"""What a policy's folder on the Hub may hold, as patterns; nothing else is downloaded."""


class PolicyError(ValueError):
    """A saved policy is missing, broken or unfit; the message names the file and the field."""


class GaussianCnnPolicy(ActorCriticPolicy):
    """Gaussian policy on frames whose deviation never exceeds 1.

    World4RL caps the deviation at sigma <= e^0 (common code allows e^2); here the learned log
    deviation is clipped at 0 wherever a distribution is made of it.

    Args:
        *args: As SB3's `ActorCriticPolicy`.
        task: The task that it is for; saved with it.
        **kwargs: As SB3's `ActorCriticPolicy`.
    """

    features_extractor: FrameEncoder

    def __init__(self, *args: Any, task: str = "any", **kwargs: Any) -> None:
        self.task = task
        super().__init__(*args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "task": self.task}

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        members = self.features_extractor.members
        if members > 1:
            assert isinstance(self.net_arch, dict)
            features = self.features_extractor.features_dim // members
            for net, name in (("policy_net", "pi"), ("value_net", "vf")):
                layer = MemberLinear(members, features, self.net_arch[name][0] // members)
                getattr(self.mlp_extractor, net)[0] = layer.to(self.device)

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Distribution:
        assert isinstance(self.action_dist, DiagGaussianDistribution)
        mean = self.action_net(latent_pi)
        return self.action_dist.proba_distribution(mean, self.log_std.clamp(max=0.0))

    @property
    def config(self) -> PolicyConfig:
        """What it was built from."""
        assert isinstance(self.net_arch, dict)
        assert isinstance(self.action_space, gym.spaces.Box)
        members = self.features_extractor.members
        return PolicyConfig(
            self.task,
            self.observation_space.shape[1],  # type: ignore[index]
            self.action_space.shape[0],
            self.features_extractor.features_dim // members,
            self.net_arch["pi"][0] // members,
            members,
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Writes configuration and weights into `folder`, both or neither.

        The weights' file is named after its content and `policy.json` names it, so that replacing
        that one file replaces the policy. Other files of the folder are left alone.

        Args:
            folder: Where to; made where it is missing.

        Raises:
            PolicyError: It cannot be written, or a weight is NaN; what was there is untouched.
        """
        save_policy(self, self.config, folder)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> GaussianCnnPolicy:
        """Loads a policy on the CPU, in evaluation mode, without touching the global generators.

        Args:
            source: A folder, or `owner/name` on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            local_files_only: Use the Hub's cache alone, without any network call.

        Raises:
            PolicyError: A file is missing, broken or too large, or the weights do not fit the
                configuration; the message names the file and the field.
        """
        with _as_policy_errors():
            if source is None:
                raise WorldModelError("policy: expected a folder or a Hub id, got None")
            folder = find_folder(source, revision, local_files_only, POLICY_FILES)
            files = StrictFolder(folder)
            config, weights_file, digest = _read_record(files)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # an ensemble's critic is not in its file
                policy = make_policy(config)
            own = _weights(policy)
            shapes = {name: tuple(value.shape) for name, value in own.items()}
            tensors = files.read_tensors(weights_file, shapes, ("F16", "F32"))
            if digest not in (None, files.digests[weights_file]):
                raise WorldModelError(
                    f"{folder / weights_file}: its SHA-256 is not the one that {POLICY_FILE} keeps"
                )
        for name, value in own.items():
            value.copy_(tensors[name])
        policy.set_training_mode(False)
        return policy

    def push_to_hub(
        self, repo_id: str, *, revision: str | None = None, private: bool = False
    ) -> str:
        """Uploads the policy to the Hugging Face Hub as one commit and returns its hash.

        Args:
            repo_id: `owner/name`; the repository is made where it is missing.
            revision: Branch; None is the main branch.
            private: Whether a new repository is private.

        Raises:
            PolicyError: The Hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as parent, _as_policy_errors():
            self.save_pretrained(parent)
            names = sorted(path.name for path in Path(parent).iterdir())
            return upload(Path(parent), names, repo_id, revision=revision, private=private)


def policy_arguments(config: PolicyConfig) -> dict[str, Any]:
    """Returns the `policy_kwargs` that make SB3 build the same network as `make_policy`."""
    return {
        "features_extractor_class": FrameEncoder,
        "features_extractor_kwargs": {"features_dim": config.features, "members": config.members},
        "net_arch": {name: [config.hidden * config.members] for name in ("pi", "vf")},
        "log_std_init": -1.0,
        "task": config.task,
    }


def make_policy(
    config: PolicyConfig, lr_schedule: Callable[[float], float] = lambda _: 3e-4
) -> GaussianCnnPolicy:
    """Builds an untrained policy; observations `(3, H, W)` uint8, actions `(A,)` in [-1, 1]."""
    size = config.frame_size
    policy = GaussianCnnPolicy(
        gym.spaces.Box(0, 255, (3, size, size), np.uint8),
        gym.spaces.Box(-1.0, 1.0, (config.action_size,), np.float32),
        lr_schedule,
        **policy_arguments(config),
    )
    return policy.float()  # whatever torch's default dtype is


def ensemble(policies: Sequence[GaussianCnnPolicy]) -> GaussianCnnPolicy:
    """One policy whose mean action is the mean of several's, all members counting alike.

    Its log deviation is their mean as well. Policies trained apart err apart, so that their mean
    errs less (Lakshminarayanan et al., arXiv 1612.01474, average networks of different seeds).

    Args:
        policies: Policies of one task and size.

    Raises:
        PolicyError: They differ in task or size, or have more than `MOST_MEMBERS` members.
    """
    configs = [dataclasses.replace(policy.config, members=1) for policy in policies]
    counts = [policy.config.members for policy in policies]
    total = sum(counts)
    if any(config != configs[0] for config in configs):
        raise PolicyError(f"ensemble: expected policies of one kind, got {configs}")
    if total > MOST_MEMBERS:
        raise PolicyError(f"members: expected at most {MOST_MEMBERS}, got {total}")
    with torch.random.fork_rng(devices=[]):
        made = make_policy(dataclasses.replace(configs[0], members=total))
    own = [policy.state_dict() for policy in policies]
    state = {}
    for name in made.state_dict():
        parts = [one[name] for one in own]
        if name == "log_std" or name.startswith(("action_net.", "value_net.")):  # what is averaged
            parts = [part * count / total for part, count in zip(parts, counts, strict=True)]
            state[name] = torch.cat(parts, 1) if parts[0].ndim > 1 else torch.stack(parts).sum(0)
        else:
            state[name] = torch.cat(parts)
    made.load_state_dict(state)
    made.set_training_mode(False)
    return made


def actor_parameters(policy: ActorCriticPolicy) -> dict[str, nn.Parameter]:
    """The parameters that the action's mean and deviation come from, by name.

    An encoder that actor and critic share is among them; one of the critic's own is not.
    """
    return {
        name: parameter
        for name, parameter in policy.named_parameters()
        if "value" not in name and not name.startswith("vf_")
    }


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
        gaussian: Any = policy.get_distribution(pixels.to(policy.device)).distribution
    actions = gaussian.mean.cpu().numpy()
    if rng is not None:
        actions = actions + gaussian.stddev.cpu().numpy() * rng.standard_normal(actions.shape)
    return np.clip(actions, -1, 1).astype(np.float32)


def save_policy(
    policy: ActorCriticPolicy,
    config: PolicyConfig,
    folder: str | os.PathLike[str],
    *,
    half: bool = False,
) -> None:
    """Does what `GaussianCnnPolicy.save_pretrained` does, with a configuration of one's own.

    Args:
        policy: The policy.
        config: What it is built from.
        folder: Where to.
        half: Round the weights to float16, for a file of half the size.

    Raises:
        PolicyError: As `save_pretrained`, or a weight is beyond float16.
    """
    folder = Path(folder)
    dtype = torch.float16 if half else torch.float32
    weights = {
        k: v.detach().cpu().to(dtype, copy=True).contiguous() for k, v in _weights(policy).items()
    }
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise PolicyError(f"{folder}: tensor {name!r}: holds NaN or infinity")
    data = safetensors.torch.save(weights)
    digest = hashlib.sha256(data).hexdigest()
    weights_file = f"policy-{digest[:12]}.safetensors"
    record = {
        "_class_name": GaussianCnnPolicy.__name__,
        "format_version": POLICY_FORMAT,
        **dataclasses.asdict(config),
        "weights": weights_file,
        "sha256": digest,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / weights_file, data)
        write_whole(folder / POLICY_FILE, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise PolicyError(f"{folder}: cannot be written ({error.strerror or error})") from None
    for path in folder.iterdir():
        if path.name != weights_file and _is_weights_file(path.name):
            path.unlink(missing_ok=True)


def load_policy_config(folder: str | os.PathLike[str]) -> PolicyConfig:
    """Reads a saved policy's configuration.

    Raises:
        PolicyError: The file is missing or a field is missing, unknown or of the wrong type.
    """
    with _as_policy_errors():
        return _read_record(StrictFolder(Path(folder)))[0]


def load_policy(folder: str | os.PathLike[str]) -> GaussianCnnPolicy:
    """Loads a saved policy; the same as `GaussianCnnPolicy.from_pretrained(folder)`."""
    return GaussianCnnPolicy.from_pretrained(folder)


def _weights(policy: ActorCriticPolicy) -> dict[str, torch.Tensor]:
    """The policy's weights, each once; SB3 lists the encoder that actor and critic share thrice.

    Of an ensemble they are the actor's alone: what its members' critics foretold is not true of it.
    """
    left_out = ["pi_features_extractor.", "vf_features_extractor."]
    if getattr(policy.features_extractor, "members", 1) > 1:
        left_out += ["mlp_extractor.value_net.", "value_net."]
    return {k: v for k, v in policy.state_dict().items() if not k.startswith(tuple(left_out))}


def _read_record(files: StrictFolder) -> tuple[PolicyConfig, str, str | None]:
    """Reads `policy.json`: the configuration, the weights' file, and its SHA-256 if it has one."""
    path = files.folder / POLICY_FILE
    record = files.read_json(POLICY_FILE)
    version = record.pop("format_version", None)
    if type(version) is not int or not 1 <= version <= POLICY_FORMAT:
        raise WorldModelError(
            f"{path}: format_version: this release reads 1 to {POLICY_FORMAT}, got {shown(version)}"
        )
    if version < 3:  # every policy was a single network
        record.setdefault("members", 1)
    if version == 1:  # weights under a fixed name, without a digest
        return make_config(PolicyConfig, record, path, None), "policy.safetensors", None
    weights_file, digest = record.pop("weights", None), record.pop("sha256", None)
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise WorldModelError(f"{path}: sha256: expected 64 hexadecimal digits")
    if weights_file != f"policy-{digest[:12]}.safetensors":
        raise WorldModelError(f"{path}: weights: {shown(weights_file)} is not named after sha256")
    config = make_config(PolicyConfig, record, path, GaussianCnnPolicy.__name__)
    return config, weights_file, digest


def _is_weights_file(name: str) -> bool:
    return bool(re.fullmatch(r"policy(-[0-9a-f]{12})?\.safetensors", name))


@contextlib.contextmanager
def _as_policy_errors() -> Iterator[None]:
    """The strict reading's refusals, told as those of a policy."""
    try:
        yield
    except WorldModelError as error:
        raise PolicyError(str(error)) from None

"""How often policies succeed in both worlds, from the same starts, kept policy by policy."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from training.metrics import Rate, share
from training.real_env import TASKS
from training.settings import SettingsError
from world4rl_gym.world_model import WorldModel

K = TypeVar("K")


def contents(world_model: WorldModel) -> str:
    """What two world models share where they begin, imagine and judge alike, wherever they lie.

    Returns:
        16 hexadecimal digits.
    """
    starts = world_model.initial_frames
    parts = (world_model.denoiser, world_model.reward_head)
    own = dataclasses.replace(world_model.config, provenance={})
    configs = (own, world_model.scheduler, *(part.config for part in parts))
    digest = hashlib.sha256(repr(configs).encode())
    tensors = [value for part in parts for value in part.state_dict().values()]
    frames = (starts.frames_of(some) for some in torch.arange(len(starts)).split(64))
    for tensor in itertools.chain(
        tensors, frames, [starts.actions, starts.task_ids, starts.is_start]
    ):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one policy: episodes solved in reality and in imagination.

    Attributes:
        task: Its task.
        demonstrations: How many its clone was made of.
        seed: Of cloning and of what came after.
        method: What made it: "cloned", "refined", or another of `training.methods`.
        recipe: Settings that whatever stands beside it in a table must share.
        world_model: Contents of the world model that it was made and imagined in.
        episodes: Real episodes, and as many imagined ones.
        real: How many of them were solved.
        imagined: The same in imagination.
        imagined_steps: How long PPO ran; of "refined" ones alone, as is the next.
        kept: After how many imagined steps of PPO it was kept; None means that it is the clone.
    """

    task: str
    demonstrations: int
    seed: int
    method: str
    recipe: dict[str, float]
    world_model: str
    episodes: int
    real: int
    imagined: int
    imagined_steps: int = 0
    kept: int | None = None

    @property
    def key(self) -> tuple[int, int, int, str]:
        """What tells policies apart, and their order in a file."""
        return -self.demonstrations, TASKS.index(self.task), self.seed, self.method

    @property
    def is_the_clone(self) -> bool:
        """Whether it is a clone, or refinement left one as it was."""
        return self.method == "cloned" or (self.method == "refined" and self.kept is None)

    @property
    def made_by(self) -> str:
        """What policies must share to stand in one table, in words."""
        return f"{self.recipe} in world model {self.world_model}, measured in {self.episodes}"

    def rate(self, world: str) -> Rate:
        """Its success in the "real" or the "imagined" world."""
        return share(getattr(self, world), self.episodes)


def pooled(policies: Sequence[Measured], world: str) -> Rate:
    """Success of all the episodes of several policies in one world."""
    return share(sum(getattr(p, world) for p in policies), sum(p.episodes for p in policies))


def gains(policies: Sequence[Measured], method: str) -> list[float]:
    """How much more a method's policies solve in reality than their clones, where both are."""
    real = {(p.task, p.seed, p.method): p.rate("real").mean for p in policies}
    clones = {key[:2]: rate for key, rate in real.items() if key[2] == "cloned"}
    return [
        rate - clones[key[:2]]
        for key, rate in real.items()
        if key[2] == method and key[:2] in clones
    ]


def load_measured(path: Path) -> list[Measured]:
    """The policies that a file holds; none where it is missing."""
    if not path.exists():
        return []
    return [Measured(**record) for record in json.loads(path.read_text())["policies"]]


def merge_measured(path: Path, new: Iterable[Measured]) -> list[Measured]:
    """The policies of a file, where it exists, and new ones in their place or beside, sorted."""
    by_key = {policy.key: policy for policy in [*load_measured(path), *new]}
    return [by_key[key] for key in sorted(by_key)]


def plain(policies: Iterable[Measured]) -> list[dict[str, Any]]:
    """Policies as mappings, for a file that `load_measured` reads."""
    return [dataclasses.asdict(policy) for policy in policies]


def by_demonstrations(policies: Iterable[Measured]) -> dict[int, list[Measured]]:
    """Policies by the number of demonstrations that their clones were made of, most first."""
    return _grouped(policies, lambda policy: policy.demonstrations)


def by_task(policies: Iterable[Measured]) -> dict[tuple[int, str], list[Measured]]:
    """Policies by that number and their task."""
    return _grouped(policies, lambda policy: (policy.demonstrations, policy.task))


def _grouped(policies: Iterable[Measured], of: Callable[[Measured], K]) -> dict[K, list[Measured]]:
    groups: dict[K, list[Measured]] = {}
    for policy in sorted(policies, key=lambda p: p.key):
        groups.setdefault(of(policy), []).append(policy)
    return groups


def require_one_recipe(path: Path, planned: Sequence[Measured]) -> None:
    """Refuses policies that would stand beside others of as many demonstrations, made otherwise.

    Args:
        path: File of the policies that are there; it may be missing.
        planned: Those to come, whatever they solve; one that is there already is replaced.

    Raises:
        SettingsError: The message shows both recipes.
    """
    replaced = {policy.key for policy in planned}
    for old in load_measured(path):
        for new in planned:
            beside = old.demonstrations == new.demonstrations and old.key not in replaced
            if beside and old.made_by != new.made_by:
                raise SettingsError(
                    f"{path}: recipe: {old.method} {old.task}, seed {old.seed}, of "
                    f"{old.demonstrations} demonstrations was made by {old.made_by} episodes, "
                    f"{new.method} {new.task} would be by {new.made_by}; "
                    "choose another --out, or make all of them anew"
                )

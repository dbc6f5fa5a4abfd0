"""How often policies succeed in both worlds, from the same starts, kept policy by policy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.metrics import Rate, share
from training.real_env import TASKS
from training.settings import SettingsError


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of one policy: episodes solved in reality and in imagination.

    Attributes:
        task: Its task.
        demonstrations: How many its clone was made of.
        seed: Of cloning and of what came after.
        method: What made it: "cloned", "refined", or another of `training.compare`.
        recipe: Settings that whatever stands beside it in a table must share.
        episodes: Real episodes, and as many imagined ones.
        real: How many of them were solved.
        imagined: The same in imagination.
        imagined_steps: How long PPO ran, for a refined policy.
        kept: After how many imagined steps of PPO it was kept; None means that it is the clone.
    """

    task: str
    demonstrations: int
    seed: int
    method: str
    recipe: dict[str, int]
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
        """Whether refinement left the clone as it was."""
        return self.imagined_steps == 0 or self.kept is None

    def rate(self, world: str) -> Rate:
        """Its success in the "real" or the "imagined" world."""
        return share(getattr(self, world), self.episodes)


def pooled(policies: Sequence[Measured], world: str) -> Rate:
    """Success of all the episodes of several policies in one world."""
    return share(sum(getattr(p, world) for p in policies), sum(p.episodes for p in policies))


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
    groups: dict[int, list[Measured]] = {}
    for policy in sorted(policies, key=lambda p: p.key):
        groups.setdefault(policy.demonstrations, []).append(policy)
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
            if beside and (old.recipe, old.episodes) != (new.recipe, new.episodes):
                raise SettingsError(
                    f"{path}: recipe: {old.method} {old.task}, seed {old.seed}, of "
                    f"{old.demonstrations} demonstrations was made by {old.recipe} and measured in "
                    f"{old.episodes} episodes, {new.method} {new.task} would be by {new.recipe} "
                    f"in {new.episodes}; choose another --out, or make all of them anew"
                )

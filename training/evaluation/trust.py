"""How far to believe a world model on a task, in a word and in a sentence."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from training.runs.settings import SettingsError
from world4rl_gym.arguments import composed
from world4rl_gym.model_index import INDEX_FILE
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

BELIEVE = {"auroc": 0.95, "agreement": 0.9, "bias": 0.05}
"""What a task's figures must reach to be believed: AUROC and agreement at least, the difference of
imagined and real success at most."""
CARE = {"auroc": 0.85, "agreement": 0.8, "bias": 0.15}
VERDICTS = {
    "believe": "What succeeds in imagination succeeds in reality, nearly always. Refine in it, and "
    "compare policies by it; try the chosen one on the robot before you rely on it.",
    "care": "It tells better policies from worse ones, but does not judge each episode rightly. "
    "Refine in it, and measure every policy in reality before you choose.",
    "not": "It is often wrong. Do not choose a policy by it. It lacks episodes that fail or nearly "
    "fail, and plans of refined policies that were done in reality.",
    "unknown": "Nothing was measured that could tell: record test episodes that succeed and some "
    "that fail.",
}
TRUST = "trust_verdicts"
"""Where a world model's provenance keeps its tasks' verdicts."""


def verdict(measured: dict[str, Any]) -> str:
    """Says "believe", "care", "not" or "unknown", of one task's figures.

    Fresh plans decide where there are some: they are what refinement makes of the model. Where they
    have no AUROC, because nearly all of them succeed, or fail, it is that of the policies that it
    never saw, or else of near-misses. Where nothing has one, what is often wrong is "not" all the
    same.
    """
    kinds = [o for kind in ("plans", "policies", "near_misses") if (o := measured.get(kind))]
    aurocs = [x for one in kinds if (x := one.get("auroc")) is not None and math.isfinite(x)]
    if not kinds:
        return "unknown"
    agreement = kinds[0]["agreement"]["mean"]
    bias = abs(kinds[0]["imagined_minus_real"]["mean"])
    for name, bounds in (("believe", BELIEVE), ("care", CARE)):
        if agreement >= bounds["agreement"] and bias <= bounds["bias"]:
            if not aurocs:
                return "unknown"
            if aurocs[0] >= bounds["auroc"]:
                return name
    return "not"


def stated_verdict(world_model: WorldModel, task: str) -> str | None:
    """The verdict that a world model keeps of a task: a key of `VERDICTS`, or None."""
    stated = world_model.config.provenance.get(TRUST)
    word = stated.get(composed(task)) if isinstance(stated, dict) else None
    return word if isinstance(word, str) and word in VERDICTS else None


def verdict_sentence(world_model: WorldModel, task: str) -> str:
    """The same as a sentence."""
    word = stated_verdict(world_model, task)
    if word is None:
        return (
            "The world model does not say; training.evaluate_world_model --card FOLDER stores it."
        )
    return VERDICTS[word]


def is_refused(world_model: WorldModel, task: str) -> bool:
    """Whether nothing is refined there unless asked for: the model's own verdict is "not"."""
    return stated_verdict(world_model, task) == "not"


def require_believable(world_model: WorldModel, task: str) -> None:
    """Raises SettingsError where `is_refused`."""
    if is_refused(world_model, task):
        raise SettingsError(
            f"{task}: the world model says of itself: {VERDICTS['not']} What is refined in it may "
            "do worse in reality; --anyway refines all the same"
        )


def forget_verdicts(world_model: WorldModel, tasks: Iterable[str]) -> None:
    """Drops what a world model says of these tasks, which are changed."""
    stated = world_model.config.provenance.get(TRUST)
    if isinstance(stated, dict):
        for task in tasks:
            stated.pop(composed(task), None)


def keep_verdicts(folder: Path, tasks: Mapping[str, Any]) -> None:
    """Writes into a world model's index how far to believe it, by what was measured of it.

    Args:
        folder: The world model's.
        tasks: Figures by task. Those of another model, by their checksum, are left out, and what
            the index says of such a task is dropped.

    Raises:
        WorldModelError: The world model cannot be loaded.
    """
    world_model = WorldModel.from_pretrained(folder)
    forget_verdicts(world_model, tasks)
    stated = world_model.config.provenance.get(TRUST)
    own = {
        task: verdict(figures)
        for task, figures in tasks.items()
        if task in world_model.config.tasks
        and figures.get("checksum") == checksum(world_model, task)
    }
    path = folder / INDEX_FILE
    index = json.loads(path.read_bytes())
    index["provenance"][TRUST] = {**(stated if isinstance(stated, dict) else {}), **own}
    write_whole(path, (json.dumps(index, indent=2) + "\n").encode())


def checksum(world_model: WorldModel, task: str) -> int:
    """Of all that decides what is imagined of a task: networks, start frames, configuration."""
    own = world_model.initial_frames
    starts = own.rows(own.select("start", [task]))
    networks = nn.ModuleList(
        [world_model.task_eyes(task), world_model.task_memory(task), world_model.denoiser]
    )
    config = dataclasses.asdict(world_model.config)
    config.pop("provenance")
    total = zlib.crc32(json.dumps(config, sort_keys=True, default=str).encode())
    for values in (*networks.state_dict().values(), starts.frames, starts.state, starts.command):
        total = zlib.crc32(values.cpu().contiguous().numpy().tobytes(), total)
    return total

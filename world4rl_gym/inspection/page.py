"""One HTML file of episodes, real beside imagined, those judged wrongly first; no server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from world4rl_gym.episodes import load_episodes
from world4rl_gym.inspection.rerun_recording import record, require_rerun
from world4rl_gym.outcomes import Imagined, imagine
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

TEMPLATE = Path(__file__).with_suffix(".html")
QUALITY = 85
"""Of the frames, which are shown as lossy WebP."""


def inspect(
    world_model: WorldModel,
    folder: Path,
    split: str,
    tasks: Sequence[str],
    most: int,
    out: Path,
    rerun: Path | None = None,
) -> str:
    """Imagines recorded episodes again and writes the page.

    Args:
        world_model: Imagines them.
        folder: Folder of episodes, `TASK/SPLIT/*.npz`.
        split: "train", "validation" or "test".
        tasks: Tasks to look at; none given means all that are there.
        most: Episodes shown: first those judged wrongly, then the most doubtful.
        out: The HTML file.
        rerun: A recording of the same episodes for Rerun's viewer; None writes none.

    Returns:
        A line that says what was written.

    Raises:
        EpisodeError: There are no such episodes, one is broken, or does not fit the world model.
        RerunMissingError: A recording is asked for, and rerun-sdk is not installed.
    """
    if rerun is not None:
        require_rerun()
    threshold = world_model.config.success_threshold
    episodes = load_episodes(folder, split, tasks or None)
    chosen = order(imagine(world_model, episodes), threshold)[:most]
    drawn = imagine(world_model, [episodes[i] for i in chosen], draw=True)
    entries = [entry(one, threshold) for one in drawn]
    write_whole(out, page(entries, len(episodes), threshold).encode())
    if rerun is not None:
        record(drawn, threshold, rerun)
    wrong = sum(one["wrong"] for one in entries)
    return f"{out}: {len(entries)} of {len(episodes)} episodes, {wrong} judged wrongly"


def order(imagined: Sequence[Imagined], threshold: float) -> np.ndarray:
    """Indices `(N,)` of the episodes: wrong ones first, each kind by falling uncertainty."""
    wrong = [(one.score >= threshold) != one.episode.solved for one in imagined]
    doubt = [one.doubt for one in imagined]
    return np.lexsort((-np.array(doubt), ~np.array(wrong)))


def entry(one: Imagined, threshold: float) -> dict[str, Any]:
    """What the page shows of a drawn episode, as plain JSON values.

    `frames` is a picture of two rows, T + 1 columns: real above imagined; the real row is left
    out where the real episode was not drawn.
    """
    assert one.frames is not None
    episode = one.episode
    rows = [episode.frames, one.frames] if episode.is_drawn else [one.frames]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", quality=QUALITY)
    said = one.score >= threshold
    return {
        "task": episode.task,
        "policy": episode.policy or episode.behaviour,
        "seed": episode.seed,
        "real": episode.solved,
        "imagined": bool(said),
        "wrong": bool(said != episode.solved),
        "score": round(one.score, 4),
        "doubt": round(one.doubt, 4),
        "probability": [round(float(value), 4) for value in one.probability],
        "success": episode.success.tolist(),
        "drawn": episode.is_drawn,
        "size": one.frames.shape[1],
        "frames": base64.b64encode(file.getvalue()).decode(),
    }


def page(entries: Sequence[dict[str, Any]], total: int, threshold: float) -> str:
    """Returns the whole page; it needs nothing beside itself.

    Args:
        entries: Of the episodes shown.
        total: Number of episodes that were imagined.
        threshold: Probability that counts as success.
    """
    data = json.dumps({"episodes": list(entries), "total": total, "threshold": threshold})
    # Within a script "</" would end it, whatever a policy is called.
    return TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", data.replace("<", "\\u003c"))

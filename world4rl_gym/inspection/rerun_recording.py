"""Episodes, real beside imagined, as a recording for Rerun's viewer (rerun.io)."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from world4rl_gym.outcomes import Imagined


class RerunMissingError(ImportError):
    """rerun-sdk is not installed; the message says how to install it."""


def require_rerun() -> None:
    """Raises RerunMissingError where rerun-sdk is not installed."""
    if importlib.util.find_spec("rerun") is None:
        raise RerunMissingError("--rerun needs rerun-sdk: pip install 'world4rl-gym[rerun]'")


def record(episodes: Sequence[Imagined], threshold: float, path: Path) -> None:
    """Writes the episodes, each along the timeline `decision` from 0 on.

    Each has frames, `imagined` and, where they were recorded, `real`; along with them the imagined
    success probability, the uncertainty, and real success, 0 or 1.

    Args:
        episodes: Drawn ones.
        threshold: Probability that counts as success.
        path: The file, `.rrd`.
    """
    import rerun

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with rerun.RecordingStream("world4rl-gym") as stream:
        stream.save(partial)
        for number, one in enumerate(episodes):
            episode, frames = one.episode, one.frames
            assert frames is not None
            judged = "rightly" if (one.score >= threshold) == episode.solved else "wrongly"
            name = f"{number}-{episode.task}-{episode.policy or episode.behaviour}-{episode.seed}"
            place = [name, f"judged-{judged}"]  # parts of a path: any characters may be in them
            for t, frame in enumerate(frames):
                stream.set_time("decision", sequence=t)
                stream.log([*place, "imagined"], rerun.Image(frame))
                if t < len(episode.frames):
                    stream.log([*place, "real"], rerun.Image(episode.frames[t]))
                if t:
                    for title, value in (
                        ("success-probability", one.probability[t - 1]),
                        ("uncertainty", one.uncertainty[t - 1]),
                        ("real-success", episode.success[t - 1]),
                    ):
                        stream.log([*place, title], rerun.Scalars(float(value)))
    os.replace(partial, path)

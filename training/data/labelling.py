"""A page on which a person says which recorded episodes solve the task, by their last frames."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.importers.recording import Recording, SourceError

TEMPLATE = Path(__file__).with_suffix(".html")
LAST = 4
"""Frames shown from the end; the first and the middle one stand before them."""
QUALITY = 85


def shown_frames(count: int) -> list[int]:
    """Indices of the frames that are shown of an episode of so many."""
    return sorted({0, count // 2, *range(max(0, count - LAST), count)})


def labelling_page(
    source: Path, recordings: Sequence[Recording], squared: Callable[[np.ndarray], np.ndarray]
) -> str:
    """Returns the page; it needs nothing beside itself.

    Args:
        source: The data set; the browser keeps its labels under this name.
        recordings: Its episodes.
        squared: Makes any frame `(side, side, 3)` uint8.

    Raises:
        SourceError: There are no episodes, or frames that cannot be read.
    """
    if not recordings:
        raise SourceError(f"{source}: expected at least one episode")
    episodes = []
    for one in recordings:
        shown = shown_frames(one.count)
        frames = [squared(frame) for t, frame in enumerate(one.frames()) if t in shown]
        if len(frames) != len(shown):
            raise SourceError(f"{one.file}: {one.name}: expected {one.count} frames")
        file = io.BytesIO()
        Image.fromarray(np.concatenate(frames, axis=1)).save(file, "WEBP", quality=QUALITY)
        picture = base64.b64encode(file.getvalue()).decode()
        episodes.append({"name": one.name, "count": one.count, "shown": shown, "frames": picture})
    data = json.dumps({"source": str(source.resolve()), "episodes": episodes})
    # Within a script "</" would end it, whatever an episode is called.
    return TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", data.replace("<", "\\u003c"))

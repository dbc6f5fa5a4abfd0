"""Frames of video files, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.data.importers.recording import SourceError, package


def read_video(
    path: Path, count: int | None = None, begin: float = 0.0, fps: float | None = None
) -> Iterator[np.ndarray]:
    """Decodes frames, each `(H, W, 3)` uint8.

    Args:
        path: The video.
        count: Number of frames expected; None takes all.
        begin: Seconds at which they begin.
        fps: Frames a second, by which the times of frames are checked; None checks none.

    Raises:
        SourceError: The file is missing, cut short or not a video, or holds fewer frames, or frames
            at other times.
    """
    av = package("av")
    if not path.is_file():
        raise SourceError(f"{path}: is missing")
    found = 0
    tolerance = 0.5 / fps if fps else 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise SourceError(f"{path}: expected a video, found none in it")
            stream = container.streams.video[0]
            if begin > 0:
                container.seek(int(begin / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.time is not None and frame.time < begin - tolerance:
                    continue
                if found == count:
                    break
                due = begin + found / fps if fps else None
                if due is not None and abs(frame.time - due) > tolerance:
                    raise SourceError(
                        f"{path}: frame {found}: expected at {due:.3f} s, got {frame.time:.3f} s"
                    )
                yield frame.to_ndarray(format="rgb24")
                found += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: not a readable video, or cut short ({error})") from None
    if count is not None and found < count:
        raise SourceError(
            f"{path}: expected {count} frames from {begin:.3f} s on, got {found}; the file is cut "
            "short, or disagrees with the tables"
        )


def count_frames(path: Path) -> int:
    """Number of frames of a video, by reading it.

    Raises:
        SourceError: As `read_video`.
    """
    return sum(1 for _ in read_video(path))

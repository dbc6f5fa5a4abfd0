"""What every reader gives: recordings, before anything is scaled, thinned or drawn smaller."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

HELD = "positions"
SUMMED = "displacements"


class SourceError(ValueError):
    """A data set is missing, broken or not understood; the message names file and field."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recorded episode of F frames, as it lies in its source.

    Attributes:
        name: What messages call it, such as "episode 3".
        file: The file that holds its pictures, for messages.
        count: Its number of frames F.
        frames: Gives the F frames, each `(H, W, 3)` uint8; H and W may be any.
        actions: `(F - 1, A)` float, in the robot's units; `actions[t]` leads from frame t to t + 1.
        state: `(F, S)` float, in the robot's units; None without it.
        command: `(F, C)` float, what the robot is commanded to at each frame; None without it.
        success: `(F - 1,)` bool; whether the task stands solved in frame t + 1. None where the
            source does not tell.
        moved_to_last: Whether success stood only beside a frame that was not recorded; it was moved
            to the last one.
    """

    name: str
    file: Path
    count: int
    frames: Callable[[], Iterable[np.ndarray]]
    actions: np.ndarray
    state: np.ndarray | None
    command: np.ndarray | None
    success: np.ndarray | None
    moved_to_last: bool = False

    def __post_init__(self) -> None:
        for name, values, expected in (
            ("actions", self.actions, self.count - 1),
            ("state", self.state, self.count),
            ("command", self.command, self.count),
            ("success", self.success, self.count - 1),
        ):
            if values is not None and len(values) != expected:
                raise SourceError(
                    f"{self.file}: {self.name}: {name}: expected {expected} rows for {self.count} "
                    f"frames, got {len(values)}"
                )


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        recordings: Its episodes, in their order.
        bad: What is wrong with each episode that cannot be read.
        actions: What an action is unless one says otherwise: `SUMMED` or `HELD`.
        held: Indices of action components that are positions all the same, such as a gripper's.
        bounds: `(2, A)`, the smallest and largest action that the format itself names; None where
            it names none.
    """

    recordings: list[Recording]
    bad: list[str]
    actions: str
    held: tuple[int, ...] = ()
    bounds: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to read out of a data set.

    Attributes:
        camera: Key of the camera; None where there is one only.
        state: Keys of the robot's state, joined in this order; None takes the format's usual ones,
            an empty tuple none.
        command: "action", a key, or "none"; None takes the format's usual one.
        success: "column:KEY", "final" or "none"; None takes the format's usual column.
        only: The one task's text to read, in a data set of several; None takes the only one.
        skip_bad: Leave broken episodes out rather than refuse.
    """

    camera: str | None = None
    state: tuple[str, ...] | None = None
    command: str | None = None
    success: str | None = None
    only: str | None = None
    skip_bad: bool = False


def gather(
    names: Iterable[Any], read: Callable[[Any], Recording], skip_bad: bool
) -> tuple[list[Recording], list[str]]:
    """Reads episodes one by one: the recordings, and what is wrong with those left out.

    Raises:
        SourceError: An episode is broken and `skip_bad` is not set.
    """
    recordings: list[Recording] = []
    bad: list[str] = []
    for name in tqdm(names, unit="episode", desc="reading", mininterval=1.0):
        try:
            recordings.append(read(name))
        except SourceError as error:
            if not skip_bad:
                raise
            bad.append(str(error))
    return recordings, bad


def side_by_side(sources: Sequence[Source]) -> Source:
    """One data set out of what several cameras saw of it, the first camera's frames on the left.

    An episode that one of the cameras lacks counts as bad.
    """
    first, *others = sources
    if not others:
        return first
    by_name = [{one.name: one for one in other.recordings} for other in others]
    joined, bad = [], list(first.bad)
    for one in first.recordings:
        rest = [own[one.name] for own in by_name if one.name in own]
        if len(rest) < len(others):
            why = [f" ({r})" for other in others for r in other.bad if one.name in r][:1]
            bad.append(f"{one.file}: {one.name}: not seen by every camera{''.join(why)}")
            continue
        views = [one, *rest]
        joined.append(dataclasses.replace(one, frames=functools.partial(_joined, views)))
    return dataclasses.replace(first, recordings=joined, bad=bad)


def _joined(views: Sequence[Recording]) -> Iterator[np.ndarray]:
    """The frames of several views of one episode, side by side, as high as the first one's."""
    for frames in zip(*(view.frames() for view in views), strict=False):
        height = frames[0].shape[0]
        yield np.concatenate([_as_high(frame, height) for frame in frames], axis=1)


def _as_high(frame: np.ndarray, height: int) -> np.ndarray:
    if frame.shape[0] == height:
        return frame
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def choose_camera(path: Path, cameras: Sequence[str], chosen: str | None) -> str:
    """The camera's key.

    Raises:
        SourceError: There is none, or not the one asked for, or several and none was chosen.
    """
    if not cameras:
        raise SourceError(f"{path}: camera: expected at least one camera, found none")
    if chosen is None and len(cameras) == 1:
        return cameras[0]
    if chosen is None or chosen not in cameras:
        raise SourceError(
            f"{path}: camera: expected one of {', '.join(cameras)} (--camera), got {chosen!r}"
        )
    return chosen


def choose_success(
    path: Path, rule: str | None, columns: Sequence[str], usual: Sequence[str]
) -> str:
    """The rule for success: "column:KEY" of a column that is there, "final" or "none".

    Args:
        path: The data set, for messages.
        rule: What was asked for.
        columns: Keys that are there.
        usual: Keys that tell success in this format, the likeliest first.

    Raises:
        SourceError: The rule is unknown or its column missing, or nothing tells success.
    """
    if rule is None:
        rule = next((f"column:{key}" for key in usual if key in columns), None)
    known = ("final", "none", *(f"column:{key}" for key in columns))
    if rule is not None and rule in known:
        return rule
    raise SourceError(
        f"{path}: success: expected --success final (every episode ends solved), none, or "
        f"column:KEY with one of {', '.join(columns) or 'no columns'}; got {rule!r}"
    )


def success_of(
    rule: str, values: np.ndarray | None, count: int, of_next: bool
) -> tuple[np.ndarray, bool]:
    """Success `(count - 1,)` bool of the frames after the first, and whether it was told late.

    Args:
        rule: As `choose_success` gave it.
        values: `(N,)` of the rule's column; above 0 is success.
        count: Number of frames.
        of_next: Whether `values[t]` tells of the frame after action t, and not of frame t.
    """
    success = np.zeros(count - 1, bool)
    if rule == "final":
        success[-1:] = True
    if values is None:
        return success, False
    positive = np.asarray(values).reshape(len(values), -1)[:, 0] > 0
    if not of_next:
        return positive[1:], False
    success[:] = positive[: count - 1]
    late = bool(positive[count - 1 :].any()) and not success[-1:].any()
    if late:
        success[-1:] = True
    return success, late


def package(name: str) -> Any:
    """Imports a package of the `import` extra.

    Raises:
        SourceError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SourceError(
            f"{name}: is not installed ({error}); pip install 'world4rl-gym[import]'"
        ) from None


def numbers(path: Path, name: str, values: Any) -> np.ndarray:
    """`(N, ...)` float64 of what a file holds; every row flattened to one axis.

    Raises:
        SourceError: They are not numbers, or of different lengths, or not finite.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise SourceError(f"{path}: {name}: expected rows of numbers of one length") from None
    array = array.reshape(len(array), -1)
    if not np.isfinite(array).all():
        raise SourceError(f"{path}: {name}: expected finite values, got NaN or infinity")
    return array

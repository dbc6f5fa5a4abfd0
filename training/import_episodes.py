"""Turns recorded data of other formats into episodes that a world model is trained on.

    python -m training.import_episodes --from lerobot recordings/push --out data/mine --task push
    python -m training.import_episodes --from robomimic low_dim.hdf5 --out data/mine --task lift \\
        --camera agentview_image
    python -m training.import_episodes --from folder videos --out data/mine --task fold \\
        --success final --failures clip-3 clip-8

Nothing is dropped or changed in silence: every such episode is named and counted.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from training.data.importers import folder, lerobot, minari, robomimic
from training.data.importers.conversion import kept_frames, split_of, squared, thin
from training.data.importers.recording import (
    HELD,
    SUMMED,
    Choice,
    Recording,
    Source,
    SourceError,
    side_by_side,
)
from training.data.labelling import labelling_page
from training.data.trainable import check_frame_size
from training.envs.real_env import SPLIT_SEEDS
from training.runs import command
from training.runs.records import save_record
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, SettingsError, Share
from world4rl_gym.episodes import BEHAVIOURS, SPLITS, Episode, EpisodeError
from world4rl_gym.writing import write_whole

LABEL_SIZE = 160
"""Height and width of frames on the page on which episodes are labelled."""
READERS: dict[str, Callable[[Path, Choice], Source]] = {
    "lerobot": lerobot.read,
    "robomimic": robomimic.read,
    "minari": minari.read,
    "folder": folder.read,
}
LEAST_RANGE = 1e-6
"""Range below which an action component counts as never varied."""
MOST_ACTIONS = 32
RECORD = "import.json"


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.import_episodes`.

    Attributes:
        source: The data set: a folder or file, or the name of a local Minari data set.
        source_format: Its format.
        out: Folder of episodes; they appear in `OUT/TASK/{train,validation,test}`.
        task: The task's name in the world model.
        camera: Key of the camera to see by; needed where there are several. Of several keys, the
            frames stand side by side, from left to right.
        state: Keys of the robot's state, joined in this order; none given takes the format's usual
            ones, and "none" none.
        command: What the robot is commanded to: "action", for an arm whose action is the commanded
            pose; a key; or "none". None takes the format's usual one.
        actions: What an action is, for thinning: a displacement, of which several are summed, or a
            position, of which the last counts. None takes the format's usual one.
        held: Indices of action components that are positions among displacements, such as a
            gripper's. None takes the format's usual ones.
        keep_every: Keep every N-th frame; a decision then spans N recorded rows.
        size: Height and width of the frames, a multiple of 8.
        fit: How frames that are not square become so: "pad" with black, "crop" to the middle, or
            "resize", which squeezes them.
        action_low: Smallest value of each action component, or one for all; none given takes what
            the format names, or the smallest found.
        action_high: The same for the largest.
        success: When the task counts as solved: "column:KEY", "final" (every episode ends solved)
            or "none". None takes the format's usual column.
        label: Writes this HTML page instead of importing: it shows each episode's last frames,
            takes a key, and says which `success` and `failures` to import with.
        failures: With `--success final`, names or numbers of the episodes that failed.
        behaviour: Who acted in episodes that were solved; all others count as a policy's.
        only: Text of the one task to import, from a data set of several.
        validation: Share of the episodes that go to validation.
        test: Share that goes to the test split.
        seed: Of the split.
        skip_bad: Leave broken episodes out, and name them, rather than refuse the data set.
    """

    source: Annotated[Path, tyro.conf.Positional]
    source_format: Annotated[
        Literal["lerobot", "robomimic", "minari", "folder"], tyro.conf.arg(name="from")
    ]
    out: Path
    task: str
    camera: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    command: str | None = None
    actions: Literal["displacements", "positions"] | None = None
    held: tuple[int, ...] | None = None
    keep_every: PositiveInt = 1
    size: int = 64
    fit: Literal["pad", "crop", "resize"] = "pad"
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    success: str | None = None
    failures: tuple[str, ...] = ()
    label: Path | None = None
    behaviour: str = "expert"
    only: str | None = None
    validation: Share = 0.15
    test: Share = 0.15
    seed: NonNegativeInt = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_frame_size("size", self.size, self.size)
        if self.validation + self.test >= 1:
            raise SettingsError(
                f"validation, test: expected less than 1 together, got "
                f"{self.validation + self.test:g}"
            )
        if self.behaviour not in BEHAVIOURS:
            raise SettingsError(
                f"behaviour: expected one of {', '.join(BEHAVIOURS)}, got {self.behaviour!r}"
            )
        if self.failures and self.success != "final":
            raise SettingsError("failures: expected --success final beside it")
        if bool(self.action_low) != bool(self.action_high):
            raise SettingsError("action_low, action_high: expected both or neither")
        if not self.task or self.task != Path(self.task).name or self.task.startswith("."):
            raise SettingsError(f"task: expected a name without / or a dot first, got {self.task}")


def action_bounds(
    args: Args, source: Source, actions: np.ndarray, summed: Sequence[int]
) -> np.ndarray:
    """The smallest and largest value of each action component, `(2, A)`: those asked for, those
    that the format names (times `keep_every` for what is summed), or those found.

    Args:
        args: The command line.
        source: The data set.
        actions: All actions after thinning, `(N, A)`.
        summed: Indices of the components that are displacements.

    Raises:
        SettingsError: As many were asked for as no action has, or they are not in order.
    """
    size = actions.shape[1]
    if args.action_low:
        sides = [np.array(side, np.float64) for side in (args.action_low, args.action_high)]
        for name, side in zip(("action_low", "action_high"), sides, strict=True):
            if len(side) not in (1, size):
                raise SettingsError(f"{name}: expected 1 or {size} numbers, got {len(side)}")
        bounds = np.stack([np.broadcast_to(side, size) for side in sides])
        if not (bounds[0] < bounds[1]).all():
            raise SettingsError("action_low: expected below action_high in every component")
        return bounds
    if source.bounds is not None:
        bounds = source.bounds.copy()
        bounds[:, list(summed)] *= args.keep_every
        return bounds
    bounds = np.stack([actions.min(axis=0), actions.max(axis=0)])
    still = bounds[1] - bounds[0] < LEAST_RANGE
    bounds[:, still] += np.array([[-1.0], [1.0]])
    return bounds


class Import:
    """One import: what it dropped, what it changed, and what it wrote.

    Args:
        args: The command line.
    """

    def __init__(self, args: Args) -> None:
        self.args = args
        self.dropped: defaultdict[str, list[str]] = defaultdict(list)
        self.changed: defaultdict[str, list[str]] = defaultdict(list)
        self.counts: dict[str, dict[str, int]] = {}

    def read(self) -> Source:
        """Reads the data set; what is not readable is noted.

        Raises:
            SourceError: It is missing, broken or not understood.
        """
        args = self.args
        state = None if not args.state else tuple(k for k in args.state if k not in ("none", ""))
        success = "none" if args.label is not None else args.success
        source = side_by_side(
            [
                READERS[args.source_format](
                    args.source,
                    Choice(camera, state, args.command, success, args.only, args.skip_bad),
                )
                for camera in args.camera or (None,)
            ]
        )
        for reason in source.bad:
            self.dropped["not readable"].append(reason)
        return source

    def run(self) -> dict[str, Any]:
        """Reads, converts and writes; the task's folder appears whole or not at all.

        Returns:
            What is kept in `import.json`.

        Raises:
            SourceError: The data set is missing, broken or not understood.
            SettingsError: What was asked for does not fit it, or the task has episodes already.
            EpisodeError: An episode breaks the contract of `Episode`.
        """
        args = self.args
        place = args.out / args.task
        if any(place.glob("*/*.npz")):
            raise SettingsError(
                f"{place}: holds episodes already; choose another --out or --task, or remove it"
            )
        source = self.read()
        recordings = self.long_enough(source.recordings)
        if not recordings:
            raise SourceError(f"{args.source}: expected at least one episode of 3 frames")
        summed = self.summed(source, recordings)
        thin_ones = [thin(one, args.keep_every, summed) for one in recordings]
        actions = np.concatenate([one["actions"] for one in thin_ones])
        bounds = action_bounds(args, source, actions, summed)
        for j in np.flatnonzero(np.ptp(actions, axis=0) < LEAST_RANGE):
            print(f"note: action component {j} never varies")
        solved = [self.is_solved(one, t) for one, t in zip(recordings, thin_ones, strict=True)]
        splits = split_of(solved, args.validation, args.test, args.seed)
        partial = args.out / f".{args.task}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            rows = zip(recordings, thin_ones, splits, strict=True)
            bar = tqdm(rows, total=len(recordings), unit="episode", desc=args.task)
            for index, (one, arrays, split) in enumerate(bar):
                self.write(partial, one, arrays, bounds, split, index)
            record = self.record(bounds, recordings[0])
            save_record(partial / RECORD, record)
            place.mkdir(parents=True, exist_ok=True)
            for path in partial.iterdir():
                path.replace(place / path.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return record

    def long_enough(self, recordings: Sequence[Recording]) -> list[Recording]:
        """The recordings of at least two decisions; the others are named."""
        kept = []
        for one in recordings:
            if one.count >= 2 and len(kept_frames(one.count, self.args.keep_every)) >= 3:
                kept.append(one)
            else:
                self.dropped["shorter than two decisions"].append(one.name)
        return kept

    def summed(self, source: Source, recordings: Sequence[Recording]) -> list[int]:
        """Indices of the action components that are displacements."""
        sizes = sorted({one.actions.shape[1] for one in recordings})
        if len(sizes) > 1 or not 1 <= sizes[0] <= MOST_ACTIONS:
            raise SourceError(
                f"{self.args.source}: actions: expected 1 to {MOST_ACTIONS} components, the same "
                f"in all episodes, got {' and '.join(map(str, sizes))}"
            )
        kind = self.args.actions or source.actions
        held = source.held if self.args.held is None else self.args.held
        if any(not 0 <= j < sizes[0] for j in held):
            raise SettingsError(f"held: expected indices below {sizes[0]}, got {held}")
        if kind == HELD:
            return []
        assert kind == SUMMED
        return [j for j in range(sizes[0]) if j not in held]

    def is_solved(self, recording: Recording, arrays: dict[str, Any]) -> bool:
        """Whether an episode counts as solved, failures by name left out."""
        number = recording.name.rsplit(" ", 1)[-1]
        if {recording.name, number} & set(self.args.failures):
            arrays["success"][:] = False
        if recording.moved_to_last:
            what = "success was told of a frame that was not recorded; it counts at the last one"
            self.changed[what].append(recording.name)
        return bool(arrays["success"].any())

    def write(
        self,
        partial: Path,
        recording: Recording,
        arrays: dict[str, Any],
        bounds: np.ndarray,
        split: str,
        index: int,
    ) -> None:
        """Draws the frames of one recording and writes its episode."""
        args, solved = self.args, bool(arrays["success"].any())
        try:
            frames = self.frames(recording, set(arrays["kept"].tolist()))
        except SourceError as error:
            if not args.skip_bad:
                raise
            self.dropped["not readable"].append(f"{recording.name} ({error})")
            return
        low, high = bounds
        scaled = 2 * (arrays["actions"] - low) / (high - low) - 1
        if np.abs(scaled).max() > 1 + 1e-6:
            self.changed["actions beyond the bounds were clipped"].append(recording.name)
        if len(arrays["kept"]) > 2 and (recording.count - 1) % args.keep_every:
            what = f"the last decision spans fewer than {args.keep_every} rows"
            self.changed[what].append(recording.name)
        behaviour = args.behaviour if solved else "policy"
        seed = SPLIT_SEEDS[split] + index
        try:
            episode = Episode(
                frames,
                np.clip(scaled, -1, 1).astype(np.float32),
                arrays["success"],
                args.task,
                behaviour,
                seed,
                args.keep_every,
                arrays["state"],
                arrays["command"],
                action_low=low,
                action_high=high,
            )
        except EpisodeError as error:
            raise EpisodeError(f"{recording.file}: {recording.name}: {error}") from None
        episode.save(partial / split / f"{behaviour}-{seed:07d}.npz")
        counted = self.counts.setdefault(split, {"episodes": 0, "solved": 0})
        counted["episodes"] += 1
        counted["solved"] += solved

    def frames(self, recording: Recording, kept: set[int]) -> np.ndarray:
        """The kept frames, square, `(T + 1, size, size, 3)` uint8."""
        drawn, count = [], 0
        for count, frame in enumerate(recording.frames(), start=1):
            if count - 1 in kept:
                height, width = frame.shape[:2]
                if height != width:
                    done = {"pad": "padded", "crop": "cropped", "resize": "squeezed"}[self.args.fit]
                    what = f"frames of {width} x {height} were {done} to a square"
                    if recording.name not in self.changed.get(what, ()):
                        self.changed[what].append(recording.name)
                drawn.append(squared(frame, self.args.size, self.args.fit))
        if count != recording.count:
            raise SourceError(
                f"{recording.file}: {recording.name}: expected {recording.count} frames, "
                f"got {count}"
            )
        return np.stack(drawn)

    def record(self, bounds: np.ndarray, first: Recording) -> dict[str, Any]:
        """What `import.json` keeps."""
        widths = [0 if v is None else v.shape[1] for v in (first.state, first.command)]
        options = {k: v for k, v in dataclasses.asdict(self.args).items() if k not in ("out",)}
        return {
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()},
            "action_low": bounds[0].tolist(),
            "action_high": bounds[1].tolist(),
            "state_size": widths[0],
            "command_size": widths[1],
            "splits": {name: self.counts.get(name) for name in SPLITS if name in self.counts},
            "dropped": self.dropped,
            "changed": self.changed,
        }


def described(record: dict[str, Any]) -> str:
    """What an import did, in a few lines."""
    lines = [
        f"{name}: {own['episodes']} episodes, {own['solved']} solved"
        for name, own in record["splits"].items()
    ]
    for kind in ("dropped", "changed"):
        for what, names in record[kind].items():
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")
            lines.append(f"{kind} {len(names)}: {what}: {shown}")
    low, high = record["action_low"], record["action_high"]
    spans = " ".join(f"[{a:.4g}, {b:.4g}]" for a, b in zip(low, high, strict=True))
    lines.append(f"actions: {len(low)} components, {spans} -> [-1, 1]")
    lines.append(
        f"robot state: {record['state_size']} numbers; command: {record['command_size']} numbers"
    )
    return "\n".join(lines)


def write_label_page(args: Args, path: Path) -> dict[str, Any]:
    """Writes the page on which a person labels the episodes; returns what was dropped.

    Raises:
        SourceError: The data set is missing, broken or not understood.
    """
    todo = Import(args)
    recordings = todo.read().recordings
    text = labelling_page(args.source, recordings, lambda f: squared(f, LABEL_SIZE, args.fit))
    write_whole(path, text.encode())
    for what, names in todo.dropped.items():
        print(f"left out {len(names)}: {what}: {', '.join(names)}")
    print(f"{path}: {len(recordings)} episodes to label in a browser; nothing was imported yet")
    return {"dropped": todo.dropped}


def run(args: Args) -> dict[str, Any]:
    """Imports a data set and prints what came of it; returns what `import.json` keeps.

    With `label`, the page is written instead.

    Raises:
        SourceError: The data set is missing, broken or not understood.
        SettingsError: What was asked for does not fit it, or the task has episodes already.
    """
    if args.label is not None:
        return write_label_page(args, args.label)
    record = Import(args).run()
    print(described(record))
    print(f"done: {args.out / args.task}; all that was dropped or changed stands in {RECORD}")
    return record


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

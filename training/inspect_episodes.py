"""Reports what recorded episodes cover, before anything is trained on them.

    python -m training.inspect_episodes data/mine
    python -m training.inspect_episodes data/mine --html coverage.html

A world model judges well only what its episodes show: failures and near-misses as well as
successes, actions that vary, starts that differ.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from scipy.spatial.distance import cdist

from training.data.trainable import check_frame_size
from training.evaluation.formatting import markdown_table
from training.runs import command
from world4rl_gym.episodes import (
    SPLITS,
    Episode,
    EpisodeError,
    episode_files,
    load_episode,
    task_folder,
    task_names,
)

FEW = 50
"""Training episodes below which a task counts as little covered."""
STILL = 1e-3
"""Deviation of an action component, in [-1, 1], below which it counts as never varied."""
ALIKE = 8.0
"""Largest difference of first frames, in grey levels, up to which all starts count as alike."""
SMALL = 16
"""Side of the grey pictures that frames are compared by."""
SHOWN = 12
"""First frames shown a task."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.inspect_episodes`.

    Attributes:
        folder: Folder of episodes, `TASK/{train,validation,test}/*.npz`.
        tasks: Tasks to report; none given reports all.
        html: Where to write the report as one page; None writes none.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    tasks: tuple[str, ...] = ()
    html: Path | None = None


@dataclasses.dataclass(frozen=True)
class Brief:
    """What is kept of an episode, for one task may not fit into memory.

    Attributes:
        split: Its split.
        behaviour: Who acted.
        solved: Whether it solves its task.
        length: Its decisions.
        success_at: The first decision at which the task stands solved; None where none does.
        actions: `(2, A)`, the actions' sums and sums of squares.
        first: `(SMALL * SMALL,)` float32, its first frame in grey.
        last: The same of its last frame; None where it was not drawn.
        picture: Its first frame, `(H, W, 3)` uint8.
        shape: Frame height and width, action, state and command sizes.
    """

    split: str
    behaviour: str
    solved: bool
    length: int
    success_at: int | None
    actions: np.ndarray
    first: np.ndarray
    last: np.ndarray | None
    picture: np.ndarray
    shape: tuple[int, int, int, int, int]


def brief(episode: Episode, split: str) -> Brief:
    """What is kept of an episode."""
    actions = episode.actions.astype(np.float64)
    height, across = episode.frames.shape[1:3]
    return Brief(
        split,
        episode.behaviour,
        episode.solved,
        len(episode),
        int(episode.success.argmax()) if episode.solved else None,
        np.stack([actions.sum(axis=0), (actions**2).sum(axis=0)]),
        _grey(episode.frames[0]),
        _grey(episode.frames[-1]) if episode.is_drawn else None,
        episode.frames[0],
        (height, across, actions.shape[1], episode.state_size, episode.command_size),
    )


def near_misses(briefs: Sequence[Brief]) -> int | None:
    """How many failures end as like a success as successes end like one another.

    A failure counts where its last frame is no farther from the nearest success's than nine of ten
    successes are from theirs, doubled. None with fewer than two successes.
    """
    successes = [b.last for b in briefs if b.solved and b.last is not None]
    failed = [b.last for b in briefs if not b.solved and b.last is not None]
    if len(successes) < 2:
        return None
    solved = np.stack(successes)
    apart = cdist(solved, solved, "cityblock")
    np.fill_diagonal(apart, np.inf)
    reach = 2 * float(np.quantile(apart.min(axis=1), 0.9))
    return sum(bool(cdist([one], solved, "cityblock").min() <= reach) for one in failed)


def warnings_of(task: str, briefs: Sequence[Brief]) -> list[str]:
    """What should be mended before training, in plain sentences."""
    warnings = []
    train = [b for b in briefs if b.split == "train"]
    counts = {s: [b.solved for b in briefs if b.split == s] for s in SPLITS}
    for split in SPLITS:
        own = counts[split]
        if not own:
            warnings.append(f"There are no {split} episodes.")
        elif not any(own):
            warnings.append(f"No {split} episode solves the task.")
        elif all(own):
            warnings.append(
                f"There are no failures among the {split} episodes: what fails is judged badly."
            )
    if len(train) < FEW:
        warnings.append(f"There are {len(train)} training episodes; {FEW} or more are better.")
    if not any(b.behaviour == "replay" for b in train) and near_misses(train) == 0:
        warnings.append("There are no near-misses: no failure ends like a success.")
    shapes = {b.shape for b in briefs}
    if len(shapes) > 1:
        warnings.append(
            "Episodes differ in (height, width, action, state, command) size: "
            + ", ".join(map(str, sorted(shapes)))
        )
        return warnings
    try:
        check_frame_size("frames", *briefs[0].shape[:2])
    except EpisodeError as error:
        warnings.append(f"{error}.")
    if train:
        count = sum(b.length for b in train)
        mean, square = np.sum([b.actions for b in train], axis=0) / count
        still = np.flatnonzero(np.sqrt(np.maximum(square - mean**2, 0)) < STILL)
        warnings += [f"Action component {j} never varies." for j in still]
        first = np.stack([b.first for b in train])
        if len(train) > 1 and float(np.ptp(first, axis=0).max()) <= ALIKE:
            warnings.append("All starts look alike: other starts are judged badly.")
        if max(b.length for b in train) > 2 * min(b.length for b in train):
            warnings.append(
                f"Lengths differ much, {min(b.length for b in train)} to "
                f"{max(b.length for b in train)} decisions; the horizon becomes the longest."
            )
    return warnings


def inspect(folder: Path, tasks: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads all episodes and sums them up, a task at a time.

    Returns:
        Of each task: `rows` of the table, `warnings`, `broken` files, `lengths` and `pictures`.

    Raises:
        EpisodeError: The folder is missing or holds no episode.
    """
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: no such folder of episodes")
    report = {}
    for task in tasks or task_names(folder):
        briefs, broken = [], []
        for split in SPLITS:
            for path in episode_files(task_folder(folder, task) / split):
                try:
                    briefs.append(brief(load_episode(path), split))
                except EpisodeError as error:
                    broken.append(str(error))
        if not briefs:
            if not broken and not tasks:
                continue
            raise EpisodeError(f"{folder}: no readable episodes of {task}; broken: {len(broken)}")
        report[task] = {
            "rows": _rows(briefs),
            "warnings": warnings_of(task, briefs),
            "broken": broken,
            "lengths": [b.length for b in briefs],
            "pictures": [b.picture for b in briefs if b.split == "train"][:SHOWN],
        }
    if not report:
        raise EpisodeError(f"{folder}: no episodes; expected TASK/SPLIT/*.npz")
    return report


def _rows(briefs: Sequence[Brief]) -> list[list[str]]:
    rows = []
    for split in SPLITS:
        own = [b for b in briefs if b.split == split]
        if not own:
            continue
        lengths = np.array([b.length for b in own])
        at = [b.success_at + 1 for b in own if b.success_at is not None]
        near = near_misses(own)
        kinds = Counter(b.behaviour for b in own)
        height, width, actions, states, commands = own[0].shape
        rows.append(
            [
                split,
                str(len(own)),
                ", ".join(f"{count} {name}" for name, count in sorted(kinds.items())),
                f"{lengths.min()} / {int(np.median(lengths))} / {lengths.max()}",
                str(sum(b.solved for b in own)),
                str(sum(not b.solved for b in own)),
                "-" if near is None else str(near),
                f"{int(np.median(at))}" if at else "-",
                f"{width} x {height}",
                f"{actions} / {states} / {commands}",
            ]
        )
    return rows


HEAD = (
    "split",
    "episodes",
    "who acted",
    "decisions: least / median / most",
    "solved",
    "failed",
    "near-misses",
    "solved at, median",
    "frames",
    "action / state / command",
)


def as_text(report: dict[str, dict[str, Any]]) -> str:
    """The report as Markdown."""
    parts = []
    for task, own in report.items():
        parts += [f"## {task}", "", markdown_table(HEAD, own["rows"]), ""]
        if own["broken"]:
            parts.append(f"- {len(own['broken'])} broken files; the first: {own['broken'][0]}")
        parts += [f"- {line}" for line in own["warnings"]] or ["- Nothing to mend was found."]
        parts.append("")
    return "\n".join(parts).rstrip()


def as_html(report: dict[str, dict[str, Any]]) -> str:
    """The report as one page that needs no other file."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Episodes</title>",
        "<style>body{font:16px/1.5 sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.3rem .6rem;"
        "text-align:left}img{width:96px;margin:2px;image-rendering:pixelated}"
        "li{color:#8a3b00}</style><h1>What the episodes cover</h1>",
    ]
    for task, own in report.items():
        parts.append(f"<h2>{html.escape(task)}</h2><table><tr>")
        parts += [f"<th>{html.escape(name)}</th>" for name in HEAD]
        for row in own["rows"]:
            parts.append("</tr><tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row))
        parts.append("</tr></table><ul>")
        lines = [*own["warnings"], *(f"Broken: {one}" for one in own["broken"][:10])]
        parts += [f"<li>{html.escape(line)}</li>" for line in lines]
        parts.append("</ul>" if lines else "</ul><p>Nothing to mend was found.</p>")
        parts.append("<h3>Lengths</h3>" + _histogram(own["lengths"]))
        parts.append("<h3>First frames</h3>")
        parts += [f"<img alt='a first frame' src='{_data(one)}'>" for one in own["pictures"]]
    return "\n".join(parts) + "</html>\n"


def _histogram(lengths: Sequence[int]) -> str:
    """Counts of lengths as bars, an inline SVG."""
    counts, edges = np.histogram(lengths, bins=min(20, max(1, len(set(lengths)))))
    bars = []
    for i, count in enumerate(counts):
        height = 80 * count / counts.max()
        bars.append(
            f"<rect x='{i * 26}' y='{90 - height:.1f}' width='22' height='{height:.1f}' "
            f"fill='#37699c'><title>{count} of {edges[i]:.0f} to {edges[i + 1]:.0f} decisions"
            "</title></rect>"
        )
    span = f"{min(lengths)} to {max(lengths)} decisions"
    text = f"<text x='0' y='106' font-size='13'>{span}</text>"
    return f"<svg width='{max(26 * len(counts), 200)}' height='112'>{''.join(bars)}{text}</svg>"


def _data(frame: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _grey(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame).convert("L").resize((SMALL, SMALL), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32).ravel()


def run(args: Args) -> dict[str, dict[str, Any]]:
    """Prints the report, and writes the page if one is asked for.

    Raises:
        EpisodeError: The folder is missing or holds no episode.
    """
    report = inspect(args.folder, args.tasks)
    print(as_text(report))
    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(as_html(report), encoding="utf-8")
        print(f"\nwritten: {args.html}")
    return report


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

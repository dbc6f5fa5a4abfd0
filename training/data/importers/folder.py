"""A folder of videos, or of folders of pictures, and a table `episodes.csv`.

The table has a row a frame, in order, and the columns `episode` (a video's name, or a folder of
pictures), `action...`, and if there are any `state...`, `command...` and others, such as `success`.
A row's action is taken in that row's frame; that of an episode's last row is not read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from training.data.importers.recording import (
    HELD,
    Choice,
    Recording,
    Source,
    SourceError,
    choose_success,
    gather,
    numbers,
    success_of,
)
from training.data.importers.video import count_frames, read_video

TABLE = "episodes.csv"
VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def read(folder: Path, choice: Choice) -> Source:
    """Reads a folder.

    Args:
        folder: Holds `episodes.csv` and what it names.
        choice: What to read; `state` and `command` are beginnings of columns' names.

    Raises:
        SourceError: A column, a video or a picture is missing or broken, or lengths disagree.
    """
    path = folder / TABLE
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = list(reader)
    except FileNotFoundError:
        raise SourceError(f"{path}: is missing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: not a readable table ({error})") from None
    if "episode" not in names or not any(name.startswith("action") for name in names):
        raise SourceError(
            f"{path}: expected columns 'episode' and 'action...', found {', '.join(names)}"
        )
    if choice.camera is not None:
        raise SourceError(f"{folder}: camera: a folder has one; expected none, got {choice.camera}")
    state = ("state",) if choice.state is None else choice.state
    command = "command" if choice.command is None else choice.command
    rule = choose_success(folder, choice.success, names, ("success", "next.success"))
    key = rule.removeprefix("column:")
    of_episode: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        of_episode.setdefault(row["episode"], []).append(row)

    def recording(name: str) -> Recording:
        own = of_episode[name]
        count = len(own)

        def columns(prefix: str, until: int = count) -> np.ndarray | None:
            found = [column for column in names if column.startswith(prefix)]
            if not found:
                return None
            return numbers(
                path, f"{name}: {prefix}", [[row[c] or "nan" for c in found] for row in own[:until]]
            )

        place, pictures = _place(folder, name)
        shown = len(pictures) if pictures else count_frames(place)
        if shown != count:
            raise SourceError(
                f"{place}: expected {count} frames for {count} rows of {TABLE}, got {shown}"
            )
        commands = None if command == "none" else columns(command)
        states = [columns(prefix) for prefix in state]
        if choice.command not in (None, "none") and commands is None:
            raise SourceError(f"{path}: command: expected columns {command!r}..., found none")
        if choice.state and any(part is None for part in states):
            raise SourceError(f"{path}: state: expected columns {' '.join(state)}..., found none")
        parts = [part for part in states if part is not None]
        actions = columns("action", count - 1)
        assert actions is not None
        if command == "action":  # before the first action, the robot is told to stay where it is
            if not parts:
                raise SourceError(f"{path}: command: expected 'state...' columns, found none")
            joined = np.concatenate(parts, axis=1)
            commands = np.concatenate([joined[:1, : actions.shape[1]], actions])
        values = None
        if key != rule:
            values = numbers(path, f"{name}: {key}", [[_number(row[key])] for row in own])
        success, late = success_of(rule, values, count, of_next=key.startswith("next."))
        return Recording(
            name,
            place,
            count,
            lambda: _pictures(pictures) if pictures else read_video(place, count),
            actions,
            np.concatenate(parts, axis=1) if parts else None,
            commands,
            success,
            late,
        )

    recordings, bad = gather(list(of_episode), recording, choice.skip_bad)
    return Source(recordings, bad, HELD)


def _number(text: str | None) -> float:
    words = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0, "": 0.0}
    text = (text or "").strip().lower()
    try:
        return words[text] if text in words else float(text)
    except ValueError:
        return float("nan")


def _place(folder: Path, name: str) -> tuple[Path, list[Path]]:
    """An episode's video, or its folder and the pictures in it."""
    place = folder / name
    if place.is_dir():
        pictures = sorted(
            p
            for p in place.iterdir()
            if p.suffix.lower() in PICTURES and not p.name.startswith(".")
        )
        if not pictures:
            raise SourceError(f"{place}: expected pictures ({', '.join(PICTURES)}), found none")
        return place, pictures
    for video in (place, *(folder / f"{name}{ending}" for ending in VIDEOS)):
        if video.is_file():
            return video, []
    raise SourceError(f"{place}: expected a folder of pictures or a video of this name, found none")


def _pictures(paths: list[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            with Image.open(path) as image:
                yield np.asarray(image.convert("RGB"))
        except OSError as error:
            raise SourceError(f"{path}: not a readable picture ({error})") from None

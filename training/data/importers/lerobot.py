"""LeRobotDataset v3.0 and v2.1, from their own files, without the lerobot package.

The format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3. Row t of an episode holds the
observation of frame t and the action that was taken in it, so the last action leads to a frame that
was not recorded; it is dropped. Columns that begin with "next." tell of the frame after the action.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.data.importers.recording import (
    HELD,
    Choice,
    Recording,
    Source,
    SourceError,
    choose_camera,
    choose_success,
    gather,
    numbers,
    package,
    success_of,
)
from training.data.importers.video import read_video

VERSIONS = ("v2.0", "v2.1", "v3.0")
SUCCESS = ("next.success", "success", "is_success", "observation.success")
PICTURES = ("video", "image")


def read(folder: Path, choice: Choice) -> Source:
    """Reads a data set.

    Args:
        folder: Holds `meta/info.json`.
        choice: What to read.

    Raises:
        SourceError: It is of a version that is not read here, or anything is missing or broken.
    """
    info = _json(folder / "meta" / "info.json")
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise SourceError(
            f"{folder}/meta/info.json: codebase_version: expected one of {', '.join(VERSIONS)}, "
            f"got {version!r}"
        )
    features = info.get("features")
    if not isinstance(features, dict) or "action" not in features:
        raise SourceError(f"{folder}/meta/info.json: features: expected an 'action' among them")
    cameras = [key for key, feature in features.items() if feature.get("dtype") in PICTURES]
    camera = choose_camera(folder, cameras, choice.camera)
    columns = [key for key in features if key not in cameras]
    state = choice.state
    if state is None:
        state = ("observation.state",) if "observation.state" in features else ()
    command = _command(folder, features, state, choice.command)
    rule = choose_success(folder, choice.success, columns, SUCCESS)
    wanted = {"action", "episode_index", "frame_index", *state}
    wanted |= {key for key in (str(command), rule.removeprefix("column:")) if key in columns}
    if features[camera]["dtype"] == "image":
        wanted.add(camera)
    reader = _Version3(folder, info) if version == "v3.0" else _Version2(folder, info)
    episodes = _of_one_task(folder, reader.episodes(), choice.only)

    def recording(episode: dict[str, Any]) -> Recording:
        index, length = int(episode["episode_index"]), int(episode["length"])
        path, table = reader.rows(episode, sorted(wanted))
        name = f"episode {index}"
        if len(table["action"]) != length:
            raise SourceError(
                f"{path}: {name}: expected {length} rows, as meta/ says, got {len(table['action'])}"
            )
        if table["frame_index"] != list(range(length)):
            raise SourceError(f"{path}: {name}: frame_index: expected 0 to {length - 1} in order")

        def column(key: str) -> np.ndarray:
            return numbers(path, f"{name}: {key}", table[key])

        actions = column("action")
        states = np.concatenate([column(key) for key in state], axis=1) if state else None
        commands = None
        if command == "action":  # before the first action, the robot is told to stay where it is
            assert states is not None
            commands = np.concatenate([states[:1, : actions.shape[1]], actions[:-1]])
        elif command is not None:
            commands = column(command)
        key = rule.removeprefix("column:")
        values = column(key) if key != rule else None
        success, late = success_of(rule, values, length, of_next=key.startswith("next."))
        file: Path
        frames: Callable[[], Iterable[np.ndarray]]
        if camera in table:
            file, pictures = path, table[camera]
            frames = lambda: (_picture(path, folder, one) for one in pictures)  # noqa: E731
        else:
            file, begin = reader.video(episode, camera)
            fps = float(info["fps"])
            frames = lambda: read_video(file, length, begin, fps)  # noqa: E731
        return Recording(name, file, length, frames, actions[:-1], states, commands, success, late)

    recordings, bad = gather(episodes, recording, choice.skip_bad)
    return Source(recordings, bad, HELD)


class _Version3:
    """Many episodes a file."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder, self.info = folder, info
        self._tables: dict[Path, Any] = {}

    def episodes(self) -> list[dict[str, Any]]:
        """Rows of `meta/episodes`, in order, without their statistics."""
        paths = sorted((self.folder / "meta" / "episodes").glob("**/*.parquet"))
        if not paths:
            raise SourceError(f"{self.folder}/meta/episodes: expected parquet files, found none")
        known = _tasks(self.folder / "meta" / "tasks.parquet")
        rows: list[dict[str, Any]] = []
        for path in paths:
            table = _table(path)
            names = [name for name in table.column_names if not name.startswith("stats/")]
            for row in table.select(names).to_pylist():
                for key in ("episode_index", "length", "tasks"):
                    if key not in row:
                        raise SourceError(f"{path}: column {key!r} is missing")
                unknown = [task for task in row["tasks"] if known and task not in known]
                if unknown:
                    raise SourceError(
                        f"{path}: tasks: {unknown[0]!r} is not one of meta/tasks.parquet"
                    )
                rows.append(row)
        return sorted(rows, key=lambda row: row["episode_index"])

    def rows(self, episode: dict[str, Any], columns: list[str]) -> tuple[Path, dict[str, list]]:
        """The file and the columns of an episode."""
        path = self._path("data_path", episode, "data")
        if path not in self._tables:
            self._tables[path] = _table(path, columns)
        table = self._tables[path]
        own = np.asarray(table["episode_index"]) == episode["episode_index"]
        return path, table.filter(own).to_pydict()

    def video(self, episode: dict[str, Any], camera: str) -> tuple[Path, float]:
        """The video that holds an episode, and the second at which it begins."""
        path = self._path("video_path", episode, f"videos/{camera}", camera)
        key = f"videos/{camera}/from_timestamp"
        if key not in episode:
            raise SourceError(f"{self.folder}/meta/episodes: column {key!r} is missing")
        return path, float(episode[key])

    def _path(self, pattern: str, episode: dict[str, Any], prefix: str, camera: str = "") -> Path:
        places = {}
        for name in ("chunk_index", "file_index"):
            if f"{prefix}/{name}" not in episode:
                raise SourceError(f"{self.folder}/meta/episodes: column {prefix}/{name} is missing")
            places[name] = int(episode[f"{prefix}/{name}"])
        return _formatted(self.folder, self.info, pattern, video_key=camera, **places)


class _Version2:
    """A file an episode."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder, self.info = folder, info

    def episodes(self) -> list[dict[str, Any]]:
        """Lines of `meta/episodes.jsonl`, in order."""
        path = self.folder / "meta" / "episodes.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
            return sorted(rows, key=lambda row: row["episode_index"])
        except FileNotFoundError:
            raise SourceError(f"{path}: is missing") from None
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path}: not readable JSON lines of episodes ({error})") from None

    def rows(self, episode: dict[str, Any], columns: list[str]) -> tuple[Path, dict[str, list]]:
        """The file and the columns of an episode."""
        path = self._path("data_path", episode)
        return path, _table(path, columns).to_pydict()

    def video(self, episode: dict[str, Any], camera: str) -> tuple[Path, float]:
        """The video that holds an episode, and the second at which it begins."""
        return self._path("video_path", episode, camera), 0.0

    def _path(self, pattern: str, episode: dict[str, Any], camera: str = "") -> Path:
        index = int(episode["episode_index"])
        chunk = index // int(self.info.get("chunks_size", 1000))
        return _formatted(
            self.folder,
            self.info,
            pattern,
            episode_chunk=chunk,
            episode_index=index,
            video_key=camera,
        )


def _command(
    folder: Path, features: dict[str, Any], state: tuple[str, ...], asked: str | None
) -> str | None:
    """The column that the robot is commanded by: the action is, where it commands the state."""
    for key in (*state, *([] if asked in (None, "action", "none") else [asked])):
        if key not in features:
            raise SourceError(
                f"{folder}/meta/info.json: features: expected {key!r}, found {', '.join(features)}"
            )
    if asked == "none" or (asked is None and not state):
        return None
    if asked not in (None, "action"):
        return asked
    names = _names(features["action"])
    targets = [name for key in state for name in _names(features[key])]
    size = int(np.prod(features["action"]["shape"]))
    targeted = sum(int(np.prod(features[key]["shape"])) for key in state)
    if size > targeted or (names and targets and names != targets[: len(names)]):
        raise SourceError(
            f"{folder}: command: expected actions that command the first numbers of the state; "
            f"the action is {names or size}, the state {targets or targeted}; say --command none, "
            "or a column that holds the commanded pose"
        )
    return "action"


def _names(feature: dict[str, Any]) -> list[str]:
    names = feature.get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return [str(name) for name in names] if isinstance(names, list) else []


def _of_one_task(
    folder: Path, episodes: list[dict[str, Any]], only: str | None
) -> list[dict[str, Any]]:
    found = sorted({str(task) for episode in episodes for task in episode.get("tasks") or []})
    if only is None and len(found) <= 1:
        return episodes
    if only not in found:
        raise SourceError(
            f"{folder}: only: expected one task's text (--only), of {'; '.join(found)}; "
            f"got {only!r}"
        )
    return [episode for episode in episodes if only in episode["tasks"]]


def _tasks(path: Path) -> list[str]:
    values = _table(path).to_pydict()
    texts = [values[key] for key in values if key != "task_index"]
    return [str(text) for text in texts[0]] if texts else []


def _formatted(folder: Path, info: dict[str, Any], pattern: str, **places: Any) -> Path:
    try:
        return folder / info[pattern].format(**places)
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise SourceError(f"{folder}/meta/info.json: {pattern}: not understood ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise SourceError(f"{path}: is missing; expected a LeRobotDataset's folder") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def _table(path: Path, columns: list[str] | None = None) -> Any:
    """A table of these columns, or of all."""
    arrow, parquet = package("pyarrow"), package("pyarrow.parquet")
    try:
        file = parquet.ParquetFile(path)
        for key in columns or []:
            if key not in file.schema_arrow.names:
                raise SourceError(f"{path}: column {key!r} is missing")
        return file.read(columns)
    except FileNotFoundError:
        raise SourceError(f"{path}: is missing") from None
    except (OSError, arrow.ArrowException) as error:
        raise SourceError(f"{path}: not a readable parquet file ({error})") from None


def _picture(path: Path, folder: Path, picture: dict[str, Any]) -> np.ndarray:
    """An embedded PNG, or the file it names: `(H, W, 3)` uint8."""
    try:
        data = picture.get("bytes")
        place = io.BytesIO(data) if data else folder / str(picture.get("path"))
        with Image.open(place) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, AttributeError) as error:
        raise SourceError(f"{path}: not a readable picture ({error})") from None

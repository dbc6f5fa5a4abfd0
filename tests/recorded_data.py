"""Small data sets in other formats, of the toy scene of `episode_factory`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import av
import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from episode_factory import make_episode
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from PIL import Image

from training.import_episodes import Args, run
from world4rl_gym.episodes import Episode, load_episodes

LEROBOT = Path(__file__).parent / "fixtures" / "lerobot_v3"
"""Recorded with lerobot 0.4.4 by `fixtures/make_lerobot_v3.py`: 20 episodes, 8 of them failures."""


def write_video(path: Path, frames: np.ndarray, fps: int = 10) -> None:
    """Writes `(N, H, W, 3)` frames as an MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def png(frame: np.ndarray) -> bytes:
    """A frame as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def recorded(count: int, horizon: int = 8) -> list[Episode]:
    """Half experts and half random ones."""
    kinds = ("expert", "random")
    return [make_episode(i, behaviour=kinds[i % 2], horizon=horizon) for i in range(count)]


def state_of(episode: Episode) -> np.ndarray:
    """A robot's state `(T + 1, 3)`: where the actions so far have led."""
    zero = np.zeros((1, episode.actions.shape[1]), np.float32)
    return np.concatenate([zero, np.cumsum(episode.actions, axis=0)])


def write_lerobot_v2(
    folder: Path, count: int = 6, pictures: bool = False, tasks: tuple[str, ...] = ("push",)
) -> list[Episode]:
    """LeRobotDataset v2.1, by the published format; a row an action, the last frame left out.

    With `pictures`, frames lie as PNGs in the tables; several tasks take turns.
    """
    episodes = recorded(count)
    lines = []
    for index, episode in enumerate(episodes):
        rows = len(episode)
        table = {
            "action": list(state_of(episode)[1:]),
            "observation.state": list(state_of(episode)[:-1]),
            "next.success": episode.success.tolist(),
            "episode_index": [index] * rows,
            "frame_index": list(range(rows)),
            "task_index": [0] * rows,
        }
        if pictures:
            table["observation.image"] = [
                {"bytes": png(frame), "path": None} for frame in episode.frames[:-1]
            ]
        path = folder / f"data/chunk-000/episode_{index:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
        video = folder / f"videos/chunk-000/observation.image/episode_{index:06d}.mp4"
        if not pictures:
            write_video(video, episode.frames[:-1])
        task = tasks[index % len(tasks)]
        lines.append({"episode_index": index, "tasks": [task], "length": rows})
    number = {"dtype": "float32", "shape": [3], "names": None}
    kind = "image" if pictures else "video"
    info = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
        "features": {
            "action": number,
            "observation.state": number,
            "observation.image": {"dtype": kind, "shape": [16, 16, 3], "names": None},
            "next.success": {"dtype": "bool", "shape": [1], "names": None},
        },
    }
    (folder / "meta").mkdir()
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "push"}))
    return episodes


def write_robomimic(path: Path, count: int = 6) -> list[Episode]:
    """robomimic's layout: observations before each action, and after it."""
    episodes = recorded(count)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "toy"})
        for index, episode in enumerate(episodes):
            demo = file.create_group(f"data/demo_{index}")
            demo["actions"], demo["rewards"] = episode.actions, episode.success.astype(float)
            for group, cut in (("obs", np.s_[:-1]), ("next_obs", np.s_[1:])):
                demo[f"{group}/agentview_image"] = episode.frames[cut]
                demo[f"{group}/robot0_eef_pos"] = state_of(episode)[cut]
    return episodes


def write_minari(name: str, count: int = 6) -> list[Episode]:
    """A local Minari data set; `MINARI_DATASETS_PATH` says where."""
    episodes = recorded(count)
    buffers = [
        EpisodeBuffer(
            id=index,
            observations={"pixels": episode.frames, "state": state_of(episode)},
            actions=episode.actions,
            rewards=episode.success.astype(float).tolist(),
            terminations=[False] * len(episode),
            truncations=[False] * (len(episode) - 1) + [True],
            infos={"success": np.append(False, episode.success)},
        )
        for index, episode in enumerate(episodes)
    ]
    minari.create_dataset_from_buffers(
        name,
        buffers,
        action_space=spaces.Box(-1, 1, (3,), np.float32),
        observation_space=spaces.Dict(
            pixels=spaces.Box(0, 255, (16, 16, 3), np.uint8),
            state=spaces.Box(-np.inf, np.inf, (3,), np.float32),
        ),
        data_format="hdf5",
        algorithm_name="toy",
    )
    return episodes


def write_folder(folder: Path, count: int = 6, pictures: bool = False) -> list[Episode]:
    """Videos, or folders of pictures, and a table with a row a frame."""
    episodes = recorded(count)
    rows: list[dict[str, Any]] = []
    for index, episode in enumerate(episodes):
        name = f"clip-{index}"
        if pictures:
            (folder / name).mkdir(parents=True)
            for t, frame in enumerate(episode.frames):
                Image.fromarray(frame).save(folder / name / f"{t:04d}.png")
        else:
            write_video(folder / f"{name}.mp4", episode.frames)
        success = np.append(False, episode.success)
        for t, state in enumerate(state_of(episode)):
            action = episode.actions[t] if t < len(episode) else [""] * 3
            row = {f"action_{j}": value for j, value in enumerate(action)}
            row |= {f"state_{j}": value for j, value in enumerate(state)}
            rows.append({"episode": name, **row, "success": bool(success[t])})
    with open(folder / "episodes.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return episodes


def imported(
    source: Path, kind: str, out: Path, **options: Any
) -> tuple[dict[int, Episode], dict[str, Any]]:
    """The episodes of an import by their numbers, and its record."""
    record = run(Args(source, kind, out, "push", **{"size": 16, **options}))  # type: ignore[arg-type]
    found = {}
    for split in record["splits"]:
        found.update({e.seed % 1_000_000: e for e in load_episodes(out, split, ["push"])})
    return found, record

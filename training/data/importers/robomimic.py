"""robomimic's HDF5 files (https://robomimic.github.io/docs/datasets/overview.html).

Row t of a demonstration holds the observation of frame t, the action taken in it, and the reward
after it; `next_obs`, where it is kept, holds the frame after the last action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from training.data.importers.recording import (
    SUMMED,
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

STATE = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
GRIPPERS = {7: (6,), 14: (6, 13)}
"""Of actions of one arm and of two: which components command a gripper's position."""


def read(path: Path, choice: Choice) -> Source:
    """Reads a file.

    Args:
        path: An `.hdf5` file.
        choice: What to read; keys are those of `obs`, and of a demonstration itself.

    Raises:
        SourceError: It is missing or broken, or lacks what was chosen.
    """
    h5py = package("h5py")
    if not path.is_file():
        raise SourceError(f"{path}: expected an HDF5 file, found none")
    try:
        with h5py.File(path) as file:
            return _read(path, file, choice)
    except OSError as error:
        raise SourceError(f"{path}: not a readable HDF5 file, or cut short ({error})") from None


def _read(path: Path, file: Any, choice: Choice) -> Source:
    if "data" not in file or not len(file["data"]):
        raise SourceError(f"{path}: data: expected a group of demonstrations, found none")
    demos = sorted(file["data"], key=lambda name: (len(name), name))
    first = file["data"][demos[0]]
    if "obs" not in first and "states" in first:
        raise SourceError(
            f"{path}: {demos[0]}: holds the simulator's states and no pictures, as robosuite "
            "records; draw them first, with robomimic's convert_robosuite.py and then its "
            "dataset_states_to_obs.py"
        )
    if "obs" not in first or "actions" not in first:
        raise SourceError(f"{path}: {demos[0]}: expected 'actions' and 'obs', found {list(first)}")
    pictures = [k for k, v in first["obs"].items() if v.ndim == 4 and v.shape[-1] == 3]
    camera = choose_camera(path, pictures, choice.camera)
    columns = [k for k in (*first, *first["obs"]) if k not in ("obs", "next_obs", *pictures)]
    rule = choose_success(path, choice.success, columns, ("success", "rewards"))
    state = tuple(k for k in STATE if k in columns) if choice.state is None else choice.state
    command = None if choice.command in (None, "none") else choice.command
    key = rule.removeprefix("column:") if rule.startswith("column:") else None

    def recording(name: str) -> Recording:
        demo = file["data"][name]
        for group in ("obs", "actions"):
            if group not in demo:
                raise SourceError(f"{path}: {name}: {group!r} is missing")
        kept = "next_obs" in demo and camera in demo["next_obs"]
        rows = len(demo["actions"])
        count = rows + kept

        def observed(column: str) -> np.ndarray:
            if column == "action":
                raise SourceError(
                    f"{path}: command: robomimic's actions are displacements; expected none or a "
                    f"key of obs: {', '.join(columns)}"
                )
            if column not in demo["obs"]:
                raise SourceError(f"{path}: {name}: obs/{column} is missing")
            values = numbers(path, f"{name}: {column}", demo["obs"][column][()])
            if kept:
                last = numbers(path, f"{name}: {column}", demo["next_obs"][column][-1:])
                values = np.concatenate([values, last])
            return values

        if camera not in demo["obs"] or len(demo["obs"][camera]) != rows:
            got = len(demo["obs"][camera]) if camera in demo["obs"] else "none"
            raise SourceError(
                f"{path}: {name}: obs/{camera}: expected {rows} frames for {rows} actions, "
                f"got {got}"
            )

        def frames() -> list[np.ndarray]:
            with package("h5py").File(path) as again:
                own = again["data"][name]
                shown = list(own["obs"][camera][()])
                if kept:
                    shown.append(own["next_obs"][camera][-1])
            return [np.asarray(frame, np.uint8) for frame in shown]

        values = None
        if key is not None:
            place = demo if key in demo else demo["obs"]
            if key not in place:
                raise SourceError(f"{path}: {name}: {key!r} is missing")
            values = numbers(path, f"{name}: {key}", place[key][()])
            if place is not demo and kept:
                values = observed(key)
        success, late = success_of(rule, values, count, of_next=key is not None and key in demo)
        return Recording(
            name,
            path,
            count,
            frames,
            numbers(path, f"{name}: actions", demo["actions"][()])[: count - 1],
            np.concatenate([observed(k) for k in state], axis=1) if state else None,
            observed(command) if command else None,
            success,
            late,
        )

    recordings, bad = gather(demos, recording, choice.skip_bad)
    size = first["actions"].shape[1]
    largest = max((float(np.abs(one.actions).max()) for one in recordings), default=0.0)
    bounds = np.array([[-1.0] * size, [1.0] * size]) if largest <= 1 else None
    return Source(recordings, bad, SUMMED, GRIPPERS.get(size, ()), bounds)

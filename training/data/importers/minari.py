"""Minari data sets (https://minari.farama.org), by their own package.

An episode of T actions holds T + 1 observations, so every action leads to a frame.
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

SUCCESS = ("success", "is_success", "goal_achieved")


def read(source: Path, choice: Choice) -> Source:
    """Reads a data set.

    Args:
        source: The data set's name among the local ones, or its folder.
        choice: What to read; a key inside a dictionary is written `outer.inner`.

    Raises:
        SourceError: It is missing or broken, of a version that the installed package does not read,
            or lacks what was chosen.
    """
    minari = package("minari")
    try:
        if source.is_dir():
            data = minari.MinariDataset(source / "data" if (source / "data").is_dir() else source)
        else:
            data = minari.load_dataset(str(source))
        episodes = list(data.iterate_episodes())
        space = data.action_space
    except Exception as error:  # the package lets through whatever its storage raises
        raise SourceError(f"{source}: not a readable Minari data set ({error})") from None
    if not episodes:
        raise SourceError(f"{source}: expected episodes, found none")
    observed, infos = _leaves(episodes[0].observations), _leaves(episodes[0].infos or {})
    pictures = [k for k, v in observed.items() if v.ndim == 4 and v.shape[-1] == 3]
    camera = choose_camera(source, pictures, choice.camera)
    plain = [k for k, v in observed.items() if k not in pictures and v.ndim <= 2]
    columns = [*plain, *(k for k in infos if k not in plain), "rewards", "terminations"]
    rule = choose_success(source, choice.success, columns, SUCCESS)
    key = rule.removeprefix("column:") if rule.startswith("column:") else None
    command = None if choice.command in (None, "none") else choice.command
    if choice.state is None and len(plain) > 1:
        raise SourceError(
            f"{source}: state: expected --state with some of {', '.join(plain)}, in order, or "
            "--state none"
        )
    state = tuple(plain) if choice.state is None else choice.state

    def recording(episode: Any) -> Recording:
        name = f"episode {episode.id}"
        seen = _leaves(episode.observations)
        columns = {**_leaves(episode.infos or {}), **seen}
        count = len(seen[camera]) if camera in seen else 0

        def column(wanted: str) -> np.ndarray:
            if wanted in ("rewards", "terminations"):
                return numbers(source, f"{name}: {wanted}", getattr(episode, wanted))
            if wanted not in columns:
                raise SourceError(
                    f"{source}: {name}: expected {wanted!r}, found {', '.join(sorted(columns))}"
                )
            return numbers(source, f"{name}: {wanted}", columns[wanted])

        values = column(key) if key is not None else None
        of_next = values is not None and len(values) == count - 1
        success, late = success_of(rule, values, count, of_next)
        return Recording(
            name,
            source,
            count,
            lambda: [np.asarray(frame, np.uint8) for frame in seen[camera]],
            numbers(source, f"{name}: actions", episode.actions),
            np.concatenate([column(k) for k in state], axis=1) if state else None,
            column(command) if command else None,
            success,
            late,
        )

    recordings, bad = gather(episodes, recording, choice.skip_bad)
    bounds = None
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is not None and high is not None and np.isfinite([low, high]).all():
        bounds = np.stack([np.ravel(low), np.ravel(high)]).astype(np.float64)
    return Source(recordings, bad, SUMMED, bounds=bounds)


def _leaves(values: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """All arrays of nested dictionaries, by their dotted keys; a bare array is "observation"."""
    if not isinstance(values, dict):
        return {prefix or "observation": np.asarray(values)}
    found = {}
    for key, value in values.items():
        found.update(_leaves(value, f"{prefix}.{key}" if prefix else str(key)))
    return found

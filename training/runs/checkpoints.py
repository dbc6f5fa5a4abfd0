"""Checkpoints that survive a kill, and runs that can be stopped and resumed."""

from __future__ import annotations

import io
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import torch

from training.runs.settings import differences
from world4rl_gym.writing import write_whole


class RunError(RuntimeError):
    """A run cannot start or go on; the message says why and nothing is changed."""


class Checkpoints:
    """The two newest checkpoints of a run, in one folder.

    A checkpoint is written beside its place, flushed to disk and then renamed, so that a kill or a
    full disk leaves the ones before as they were.

    Args:
        folder: Where `checkpoint-STEP.pt` files live.
        fingerprint: What the run is made of (data, settings); a checkpoint of another is refused.
    """

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Stores `state` (tensors and plain values) as the checkpoint of `step`.

        Where a tensor of it is not finite, this is said, and the checkpoints before are kept.
        """
        if not _finite(state):
            print(f"warning: weights are not finite at step {step}; no checkpoint of them is kept")
            return
        path = self.folder / f"checkpoint-{step:08d}.pt"
        for partial in self.folder.glob(".checkpoint-*"):  # of a kill while one was written
            partial.unlink()
        data = io.BytesIO()
        torch.save({"step": step, "fingerprint": self.fingerprint, **state}, data)
        write_whole(path, data.getvalue())
        for old in self._paths()[2:]:
            old.unlink()

    def load_newest(self) -> dict[str, Any] | None:
        """Returns the newest readable checkpoint, or None where there is none.

        A damaged one is passed over with a warning.

        Raises:
            RunError: The checkpoint is of other data or settings, and the message shows the
                difference; or none of several can be read.
        """
        paths = self._paths()
        for path in paths:
            try:
                state = _read(path)
                kept = state["fingerprint"]
            except MemoryError:
                raise
            except Exception:  # torch raises whatever the damage leads it to
                print(f"warning: {path} is damaged; trying the checkpoint before it")
                continue
            if differing := differences(kept, self.fingerprint):
                raise RunError(f"{path}: made by another run ({differing})")
            return state
        if paths:
            raise RunError(
                f"{self.folder}: none of its {len(paths)} checkpoints can be read; remove them to "
                "begin anew"
            )
        return None

    def _paths(self) -> list[Path]:
        named = [p for p in self.folder.iterdir() if re.fullmatch(r"checkpoint-\d{8}\.pt", p.name)]
        return sorted(named, reverse=True)


def _finite(state: Any) -> bool:
    if isinstance(state, dict):
        return all(_finite(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return all(_finite(value) for value in state)
    return not isinstance(state, torch.Tensor) or bool(state.isfinite().all())


def _read(path: Path) -> dict[str, Any]:
    """What `torch.load` reads, once the archive's checksums, which it ignores, hold."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{path}: {damaged}: wrong checksum")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class StopRequest:
    """Notes SIGTERM and Ctrl-C, so that a loop can end between two steps.

    Use as a context manager; `signal` is the number that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.signal = number

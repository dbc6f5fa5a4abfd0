"""Checkpoints that survive a kill, and runs that can be stopped and resumed."""

from __future__ import annotations

import math
import os
import pickle
import re
import signal
import zipfile
from pathlib import Path
from typing import Any

import torch

MOST_BAD_STEPS = 5
"""Steps in a row whose loss is not finite before a run ends."""

UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
    NotImplementedError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""What torch raises for a damaged file, depending on where the damage is."""


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
        partial = path.with_suffix(".partial")
        try:
            with open(partial, "wb") as file:
                torch.save({"step": step, "fingerprint": self.fingerprint, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
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
            except UNREADABLE:
                print(f"warning: {path} is damaged; trying the checkpoint before it")
                continue
            differences = [
                f"{key}: {kept.get(key)!r} there, {self.fingerprint.get(key)!r} now"
                for key in sorted(set(kept) | set(self.fingerprint))
                if kept.get(key) != self.fingerprint.get(key)
            ]
            if differences:
                raise RunError(f"{path}: made by another run ({'; '.join(differences)})")
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


class LossGuard:
    """Tells which steps count: one whose loss is not finite is skipped, several end the run.

    Attributes:
        bad: Steps in a row, up to now, whose loss was not finite.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.bad = 0

    def accepts(self, step: int, loss: float) -> bool:
        """Whether the loss of `step` is finite.

        Raises:
            RunError: It was not, several steps in a row.
        """
        if math.isfinite(loss):
            self.bad = 0
            return True
        self.bad += 1
        print(f"step {step}: the loss is {loss}; the step is skipped")
        if self.bad == MOST_BAD_STEPS:
            raise RunError(
                f"the loss was not finite {self.bad} steps in a row, the last at step {step} "
                f"(seed {self.seed}); nothing of it was saved"
            )
        return False


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

"""Folders that one process of a machine has to itself.

The lock ends with the process, however that ends. It is the folder's own, and leaves no file; on
Windows, which locks no folders, it is that of an empty file among the system's temporary ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.runs import processes

try:
    fcntl: Any = importlib.import_module("fcntl")
except ImportError:
    fcntl = None
    msvcrt: Any = importlib.import_module("msvcrt")


class InUseError(RuntimeError):
    """Another process has the folder; nothing is changed."""


@contextlib.contextmanager
def locked(folder: Path, several: bool = False) -> Iterator[None]:
    """Has a folder for one training run; a second is refused.

    Args:
        folder: The folder; made where it is missing.
        several: Whether several processes may train together (`training.runs.processes`); the
            first of them has the folder for all.

    Raises:
        InUseError: Another process has it.
    """
    if several and not processes.is_first():
        processes.wait()  # until the first has the folder
        yield
        return
    with _opened(folder) as handle:
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError):
            raise InUseError(f"{folder}: another process is training into this folder") from None
        if several:
            processes.wait()
        yield


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is not None:
        handle = os.open(folder, os.O_RDONLY)
    else:
        name = hashlib.sha256(os.path.normcase(os.path.realpath(folder)).encode()).hexdigest()
        path = Path(tempfile.gettempdir()) / f"world4rl-gym-{name}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield handle
    finally:
        os.close(handle)

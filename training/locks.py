"""Folders that one process of a machine has to itself.

The lock ends with the process, however that ends. It is the folder's own, and leaves no file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class InUseError(RuntimeError):
    """Another process has the folder; nothing is changed."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder's files while they are read, added to and written again.

    Another process that holds them is waited for, so that neither loses what the other added.

    Args:
        folder: The folder; made where it is missing.
    """
    with _opened(folder) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Has a folder for one training run; a second is refused.

    Args:
        folder: The folder; made where it is missing.

    Raises:
        InUseError: Another process has it.
    """
    with _opened(folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{folder}: another process is training into this folder") from None
        yield


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)

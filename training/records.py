"""What a run was asked and what it measured, as JSON files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from world4rl_gym.writing import write_whole


def save_record(path: Path, record: Any) -> None:
    """Writes plain values as JSON; what is not a number, which JSON lacks, becomes null.

    A kill or a full disk leaves what was there before.

    Args:
        path: The file; its folder is made where it is missing.
        record: Mappings, sequences, strings, numbers, None.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(record), indent=2, allow_nan=False)
    write_whole(path, (text + "\n").encode())


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds a folder's records while they are read, added to and written again.

    Another process that holds them is waited for, so that neither loses what the other added.

    Args:
        folder: The folder; made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _finite(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _finite(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [_finite(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record

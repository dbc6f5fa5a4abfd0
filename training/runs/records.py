"""What a run was asked and what it measured, as JSON files that appear whole or not at all."""

from __future__ import annotations

import json
import math
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


def _finite(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _finite(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [_finite(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record

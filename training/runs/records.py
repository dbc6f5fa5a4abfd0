"""What a run was asked and what it measured, as JSON files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import shlex
import sys
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
    text = json.dumps(_finite(record), indent=2, allow_nan=False)
    write_whole(path, (text + "\n").encode())


def save_result(path: Path, result: dict[str, Any]) -> None:
    """`save_record`, with the command line that wrote it last, where there is one."""
    script = Path(sys.argv[0])
    line = {}
    if script.parent.name == "training":
        line["command"] = shlex.join(["python", "-m", f"training.{script.stem}", *sys.argv[1:]])
    save_record(path, {**line, **result})


def save_table(path: Path, result: dict[str, Any], table: str) -> None:
    """`save_result`, with its table as Markdown beside it; the table is printed, too."""
    save_result(path, result)
    write_whole(path.with_suffix(".md"), (table + "\n").encode())
    print(table)


def _finite(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _finite(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [_finite(value) for value in record]
    if isinstance(record, float) and not math.isfinite(record):
        return None
    return record

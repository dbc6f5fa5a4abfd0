"""How command lines end."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import tyro

from training.runs import command
from training.runs.settings import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    SettingsError,
    Share,
)


def test_an_error_that_explains_itself_ends_in_one_line(tmp_path: Path) -> None:
    line = ["--task", "hammer", "--out", str(tmp_path / "out"), "--episodes", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "training.clone_policy", *line], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {tmp_path}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [SettingsError("episodes differ"), FileNotFoundError("no file")])
def test_what_the_user_can_mend_is_told(error: Exception) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit, match=f"error: {error}"):
        command.run(main)


def test_a_defect_keeps_its_traceback() -> None:
    def main() -> None:
        raise ValueError("not foreseen")

    with pytest.raises(ValueError, match="not foreseen"):
        command.run(main)


@dataclasses.dataclass(frozen=True)
class Asked(Settings):
    steps: PositiveInt = 1
    limit: NonNegativeInt | None = None
    rounds: tuple[PositiveInt, ...] = ()
    rate: PositiveFloat = 1.0
    part: Share = 0.0
    source: Annotated[Path, tyro.conf.Positional] = Path()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("steps", 0, "at least 1, got 0"),
        ("limit", -1, "at least 0, got -1"),
        ("rounds", (3, 0), "at least 1, got 0"),
        ("rate", 0.0, "above 0, got 0.0"),
        ("rate", math.nan, "above 0, got nan"),
        ("rate", math.inf, "a finite number, got inf"),
        ("part", 1.0, "less than 1, got 1.0"),
    ],
)
def test_settings_out_of_their_bounds_are_named(field: str, value: Any, expected: str) -> None:
    Asked(steps=3, limit=0, rounds=(1, 2), rate=0.1, part=0.9)
    with pytest.raises(SettingsError, match=f"{field}: expected {expected}"):
        Asked(**{field: value})

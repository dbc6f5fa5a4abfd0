"""How command lines end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.runs import command
from training.runs.settings import SettingsError


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

"""Python code in a process of its own, for what must hold across processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(code: str, *arguments: str, timeout: float = 200) -> str:
    """Returns what `code` prints in a fresh interpreter; fails if it fails or hangs."""
    return _run(["-c", code, *arguments], timeout)


def run_file(path: Path, *arguments: str, timeout: float = 200) -> str:
    """Returns what the script prints in a fresh interpreter; fails if it fails or hangs."""
    return _run([str(path), *arguments], timeout)


def _run(arguments: list[str], timeout: float) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

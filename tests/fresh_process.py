"""Python code in a process of its own, for what must hold across processes."""

from __future__ import annotations

import subprocess
import sys


def run_python(code: str, *arguments: str, timeout: float = 100) -> str:
    """Returns what `code` prints in a fresh interpreter; fails if it fails or hangs."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout

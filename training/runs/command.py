"""How a command line ends when its user asked for what cannot be done."""

from __future__ import annotations

import sys
from collections.abc import Callable

OWN = {"training", "world4rl_gym", "__main__"}
"""Packages whose errors are written for whoever typed the command."""


def run(main: Callable[[], None]) -> None:
    """Runs a command line; an error that its message explains ends it with that message alone.

    Such are the errors of this project's own classes, and those of files (OSError). Any other is a
    defect, and keeps its traceback.

    Args:
        main: The command line.

    Raises:
        SystemExit: With the message, which the interpreter prints to stderr, leaving status 1.
    """
    try:
        main()
    except Exception as error:
        if type(error).__module__.split(".")[0] in OWN or isinstance(error, OSError):
            sys.exit(f"error: {error}")
        raise

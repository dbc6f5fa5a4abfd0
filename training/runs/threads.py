"""One thread a process: the cores are for processes."""

from __future__ import annotations

import os

import torch


def one_thread() -> None:
    """Lets torch and the software rasteriser (LP_NUM_THREADS, where unset) use one thread alone.

    The networks are small: a second thread costs more than it gives.
    """
    os.environ.setdefault("LP_NUM_THREADS", "1")
    torch.set_num_threads(1)

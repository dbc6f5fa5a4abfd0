"""Several processes that train one model, each on its share of every batch.

`accelerate launch` and `torchrun` start them; accelerate joins them, over gloo: they train on CPUs.
Where there is one process alone, nothing here does anything.
"""

from __future__ import annotations

import os

import torch
from torch import nn


def count() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this is the one process that writes files and shows progress."""
    return int(os.environ.get("RANK", "0")) == 0


def share(batch_size: int) -> slice:
    """The rows of a batch that are this process's; all of them where it is alone.

    Raises:
        ValueError: A batch cannot be shared out evenly.
    """
    if batch_size % count():
        raise ValueError(
            f"batch_size: expected a multiple of the {count()} processes, got {batch_size}"
        )
    return slice(int(os.environ.get("RANK", "0")), None, count())


def average_gradients(model: nn.Module) -> None:
    """Gives all processes the mean of their gradients."""
    if count() > 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = _reduced(parameter.grad, "mean")


def mean(value: float) -> float:
    """The processes' mean of a number."""
    return value if count() == 1 else float(_reduced(torch.tensor(value), "mean"))


def total(value: int) -> int:
    """The processes' sum of a number."""
    return value if count() == 1 else int(_reduced(torch.tensor(value), "sum"))


def wait() -> None:
    """Waits until all processes are here; the first call joins them."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=True).wait_for_everyone()


def _reduced(tensor: torch.Tensor, how: str) -> torch.Tensor:
    from accelerate.utils import reduce

    return reduce(tensor, how)

"""Tensors that outlive the call that made them, whatever mode the caller is in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable)


def plain_tensors(function: Function) -> Function:
    """Lets a function make tensors without gradients that may be written to later.

    Tensors made under `torch.inference_mode()` may only be written to under it, so what an env
    keeps between steps must not be made there.
    """
    return torch.inference_mode(mode=False)(torch.no_grad()(function))

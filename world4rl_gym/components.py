"""A network as a folder: `config.json` and safetensors, named as diffusers' models name them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from world4rl_gym.reading import StrictFolder, WorldModelError, make_config
from world4rl_gym.writing import replaced_folder, write_json, write_tensors

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"

Module = TypeVar("Module", bound=nn.Module)


def load_component(
    folder: Path | StrictFolder, name: str, module_class: type[Module], config_class: Any
) -> Module:
    """Loads a network from `folder/name`, in float32 on the CPU, in evaluation mode, frozen.

    The network is laid out without memory first, so that weights too large, or that do not fit the
    configuration, are refused before anything is allocated.

    Args:
        folder: The folder that holds the network's folder.
        name: The network's folder.
        module_class: Its class, built from a configuration.
        config_class: The configuration's class, a dataclass.

    Raises:
        WorldModelError: Anything is missing, unknown or out of bounds.
    """
    files = folder if isinstance(folder, StrictFolder) else StrictFolder(Path(folder))
    file_name = f"{name}/{CONFIG_FILE}"
    record = files.read_json(file_name)
    config = make_config(config_class, record, files.folder / file_name, module_class.__name__)
    with torch.device("meta"):
        module = module_class(config)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    tensors = files.read_tensors(f"{name}/{WEIGHTS_FILE}", shapes, ("F16", "F32"))
    module.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True, assign=True)
    module.eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def save_component(module: nn.Module, folder: Path, exact: bool = False) -> None:
    """Writes a network's configuration and its weights into `folder`, whole or not at all.

    Args:
        module: The network; its `config` is a dataclass.
        folder: Where to; replaced if it is there.
        exact: Keep weights that float16 cannot hold exactly in float32, instead of rounding them.

    Raises:
        WorldModelError: It cannot be written, or a weight is NaN, infinite or beyond float16.
    """
    config: Any = module.config
    record = {"_class_name": type(module).__name__, **dataclasses.asdict(config)}
    weights = {}
    for key, value in module.state_dict().items():
        half = value.detach().cpu().half()
        kept = (
            value.detach().cpu() if exact and not torch.equal(half.float(), value.cpu()) else half
        )
        if not bool(kept.isfinite().all()):
            raise WorldModelError(f"{folder}: tensor {key!r}: is not finite in {kept.dtype}")
        weights[key] = kept
    with replaced_folder(folder, (CONFIG_FILE, WEIGHTS_FILE)) as fresh:
        write_json(fresh / CONFIG_FILE, record)
        write_tensors(fresh / WEIGHTS_FILE, weights)

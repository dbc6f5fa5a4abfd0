"""A network as a folder: `config.json` and safetensors, named as diffusers' models name them."""

from __future__ import annotations

from dataclasses import asdict
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


def save_component(module: nn.Module, folder: Path) -> None:
    """Writes a network's configuration, and its weights rounded to float16, whole or not at all.

    Args:
        module: The network; its `config` is a dataclass.
        folder: Where to; replaced if it is there and holds nothing else.

    Raises:
        WorldModelError: It cannot be written, or a weight is NaN, infinite or beyond float16.
    """
    with replaced_folder(folder, (CONFIG_FILE, WEIGHTS_FILE)) as fresh:
        write_component(module, fresh)


def write_component(module: nn.Module, folder: Path, exact: bool = False) -> None:
    """Writes what `save_component` does into an empty folder of a save that is under way.

    Args:
        module: The network.
        folder: Where to.
        exact: Keep weights that float16 cannot hold exactly in float32, instead of rounding them.

    Raises:
        OSError: It cannot be written.
        WorldModelError: A weight is NaN, infinite or beyond float16.
    """
    config: Any = module.config
    weights = {}
    for key, value in module.state_dict().items():
        full = value.detach().cpu()
        half = full.half()
        weights[key] = full if exact and not torch.equal(half.float(), full) else half
        if not bool(weights[key].isfinite().all()):
            raise WorldModelError(
                f"{WEIGHTS_FILE}: tensor {key!r}: is not finite in {weights[key].dtype}"
            )
    write_json(folder / CONFIG_FILE, {"_class_name": type(module).__name__, **asdict(config)})
    write_tensors(folder / WEIGHTS_FILE, weights)

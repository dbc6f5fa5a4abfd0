"""A network as a folder: `config.json` and safetensors, as diffusers' models are stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from torch import nn

from world4rl_gym.reading import LARGEST_TENSORS, StrictFolder, WorldModelError, make_config
from world4rl_gym.tensors import plain_tensors
from world4rl_gym.writing import replaced_folder, write_json, write_tensors

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"

Module = TypeVar("Module", bound=nn.Module)


@plain_tensors
def load_component(
    folder: Path | StrictFolder, name: str, module_class: type[Module], config_class: Any
) -> Module:
    """Loads a network from `folder/name`, in float32 on the CPU, in evaluation mode, frozen.

    The network is laid out without memory first, so that weights too large, or that do not fit the
    configuration, are refused before anything is allocated.

    Args:
        folder: The folder that holds the network's folder.
        name: The network's folder; "" where it lies in `folder` itself.
        module_class: Its class, a `ModelMixin`.
        config_class: The dataclass of its configuration, whose fields are its class's arguments.

    Raises:
        WorldModelError: Anything is missing, unknown or out of bounds.
    """
    files = folder if isinstance(folder, StrictFolder) else StrictFolder(Path(folder))
    prefix = name and f"{name}/"
    path = files.folder / name / CONFIG_FILE
    record = files.read_json(prefix + CONFIG_FILE)
    config = make_config(config_class, record, path, module_class.__name__)
    with torch.device("meta"):
        module = module_class(**dataclasses.asdict(config))
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    tensors = files.read_tensors(prefix + WEIGHTS_FILE, shapes, ("F16", "F32"))
    module.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True, assign=True)
    module.eval().requires_grad_(False)
    return module


def save_component(module: ModelMixin, folder: Path) -> None:
    """Writes a network's configuration and its weights in float32, whole or not at all.

    Args:
        module: The network.
        folder: Where to; replaced if it is there and holds nothing else.

    Raises:
        WorldModelError: It cannot be written, or a weight is NaN, infinite or beyond float32.
    """
    with replaced_folder(folder, (CONFIG_FILE, WEIGHTS_FILE)) as fresh:
        write_component(module, fresh)


def write_component(module: ModelMixin, folder: Path) -> None:
    """Writes what `save_component` does into an empty folder of a save that is under way.

    A tensor that float16 holds exactly is kept in it, any other in float32.

    Args:
        module: The network.
        folder: Where to.

    Raises:
        OSError: It cannot be written.
        WorldModelError: A weight is NaN, infinite or beyond float32.
    """
    check_size(module)
    weights = {}
    for key, value in module.state_dict().items():
        exact = value.detach().cpu()
        full, half = exact.float(), exact.half()
        weights[key] = half if torch.equal(half.float(), full) else full
        if not bool(full.isfinite().all()):
            raise WorldModelError(f"{WEIGHTS_FILE}: tensor {key!r}: is not finite")
        if not torch.equal(full.to(exact.dtype), exact):
            raise WorldModelError(
                f"{WEIGHTS_FILE}: tensor {key!r}: dtype: expected values that float32 holds, got "
                f"{exact.dtype}"
            )
    config = {k: v for k, v in module.config.items() if not k.startswith("_")}
    write_json(folder / CONFIG_FILE, {"_class_name": type(module).__name__, **config})
    write_tensors(folder / WEIGHTS_FILE, weights)


def check_size(module: nn.Module) -> None:
    """Raises WorldModelError for a network that is too large to be loaded again."""
    most = 4 * sum(value.numel() for value in module.state_dict().values())
    if most > LARGEST_TENSORS:
        raise WorldModelError(
            f"size: {type(module).__name__} fills {most} bytes, expected at most {LARGEST_TENSORS}:"
            " fewer tasks, smaller frames or less width"
        )


def round_weights(module: nn.Module) -> None:
    """Rounds a network's parameters to float16, so that they are stored in half the size."""
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()

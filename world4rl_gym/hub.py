"""Strict reading and writing of world-model folders, and their way from the Hugging Face Hub.

Nothing here trusts a file: sizes are bounded before anything is built, headers are read before
tensors, digests are compared, and no file's content is ever executed. Knows folders, JSON and
safetensors; knows nothing of what a world model does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

INDEX_FILE = "model_index.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
CONFIG_FILE = "config.json"
EMBEDDED = Path(__file__).parent / "assets" / "world_model"

_LARGEST_JSON = 2**20
_LARGEST_HEADER = 2**20
_LARGEST_WEIGHTS = 2**31
_DTYPES = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64, "U8": torch.uint8}

Module = TypeVar("Module", bound=nn.Module)


class WorldModelError(ValueError):
    """A world model cannot be loaded or saved; the message names the file and the field."""


# ---------------------------------------------------------------------------------------- reading


def read_bytes(folder: Path, name: str, limit: int) -> bytes:
    """Reads `folder/name`, refusing links that leave the folder and files over `limit` bytes."""
    path = checked_path(folder, name)
    try:
        size = path.stat().st_size
        if size > limit:
            raise WorldModelError(f"{path}: size: expected at most {limit} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise WorldModelError(f"{path}: cannot be read ({error.strerror or error})") from None


def checked_path(folder: Path, name: str) -> Path:
    """Returns `folder/name` once it is sure to be a file within the folder.

    Within the Hub's cache, whose snapshots link to blobs beside them, the links may lead to those.
    """
    path = folder / name
    root = folder.resolve()
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        root = root.parent.parent
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise WorldModelError(f"{path}: is a link that leaves the folder")
        if not real.is_file():
            raise WorldModelError(f"{path}: expected a file, found a folder")
    except FileNotFoundError:
        raise WorldModelError(f"{path}: is missing") from None
    except (OSError, RuntimeError) as error:
        raise WorldModelError(f"{path}: cannot be read ({error})") from None
    return path


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Reads a JSON object of at most 1 MiB."""
    path = folder / name

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        value = json.loads(read_bytes(folder, name, _LARGEST_JSON), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        if isinstance(error, WorldModelError):
            raise
        raise WorldModelError(f"{path}: is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise WorldModelError(f"{path}: expected a JSON object, got a {type(value).__name__}")
    return value


def make_config(config_class: Any, record: Mapping[str, Any], path: Path, name: str) -> Any:
    """Builds a configuration dataclass from JSON; `_class_name` must be `name`.

    Keys that the dataclass lacks, or that are missing, are errors, as is every value that its
    `__post_init__` refuses.
    """
    record = dict(record)
    found = record.pop("_class_name", None)
    if found != name:
        raise WorldModelError(f"{path}: _class_name: expected {name!r}, got {found!r}")
    fields = {field.name for field in dataclasses.fields(config_class)}
    for key in sorted(set(record) ^ fields):
        state = "unknown" if key in record else "missing"
        raise WorldModelError(f"{path}: {key}: is {state}")
    hints = typing.get_type_hints(config_class)
    for key, value in record.items():
        if not _fits(value, hints[key]):
            raise WorldModelError(f"{path}: {key}: expected {hints[key]}, got {value!r:.80}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    try:
        return config_class(**values)
    except (ValueError, TypeError, OverflowError) as error:
        raise WorldModelError(f"{path}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, list) and len(value) <= 256 and all(_fits(v, inner) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def read_tensors(
    folder: Path, name: str, expected: Mapping[str, tuple[int, ...]], dtypes: tuple[str, ...]
) -> dict[str, Tensor]:
    """Reads a safetensors file that must hold exactly the expected tensors.

    The header is checked here, before the library sees the file: length, JSON, names, dtypes,
    shapes and offsets that cover the body without hole, overlap or rest.

    Args:
        folder: The folder.
        name: The file's path within it.
        expected: Shape of every tensor by its name.
        dtypes: Safetensors names of the dtypes allowed, such as "F16".

    Raises:
        WorldModelError: Anything else is found, or a value is NaN or infinite.
    """
    path = checked_path(folder, name)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= min(_LARGEST_HEADER, size - 8):
                raise WorldModelError(f"{path}: header: is cut short or too long, {size} bytes")
            header = json.loads(file.read(length))
    except OSError as error:
        raise WorldModelError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, WorldModelError):
            raise
        raise WorldModelError(f"{path}: header: is not JSON ({error})") from None
    if size > _LARGEST_WEIGHTS:
        raise WorldModelError(f"{path}: size: expected at most {_LARGEST_WEIGHTS}, got {size}")
    _check_header(path, header, expected, dtypes, size - 8 - length)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WorldModelError(f"{path}: is not readable ({error})") from None
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise WorldModelError(f"{path}: {key}: holds NaN or infinity")
    return tensors


def _check_header(
    path: Path,
    header: Any,
    expected: Mapping[str, tuple[int, ...]],
    dtypes: tuple[str, ...],
    body: int,
) -> None:
    if not isinstance(header, dict):
        raise WorldModelError(f"{path}: header: expected an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WorldModelError(f"{path}: __metadata__: expected strings")
    for key in sorted(set(header) ^ set(expected)):
        state = "unknown" if key in header else "missing"
        raise WorldModelError(f"{path}: tensor {key!r:.80} is {state}")
    spans = []
    for key, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise WorldModelError(f"{path}: tensor {key!r}: expected dtype, shape, data_offsets")
        if entry["dtype"] not in dtypes:
            raise WorldModelError(
                f"{path}: tensor {key!r}: dtype: expected {' or '.join(dtypes)}, "
                f"got {entry['dtype']!r:.80}"
            )
        shape, offsets = entry["shape"], entry["data_offsets"]
        if shape != list(expected[key]) or any(type(n) is not int for n in shape):
            raise WorldModelError(
                f"{path}: tensor {key!r}: shape: expected {list(expected[key])}, got {shape!r:.80}"
            )
        if (
            not isinstance(offsets, list)
            or len(offsets) != 2
            or any(type(n) is not int for n in offsets)
        ):
            raise WorldModelError(f"{path}: tensor {key!r}: data_offsets: expected two integers")
        bytes_needed = math.prod(shape) * _DTYPES[entry["dtype"]].itemsize
        if offsets[1] - offsets[0] != bytes_needed:
            raise WorldModelError(
                f"{path}: tensor {key!r}: data_offsets: expected {bytes_needed} bytes for its "
                f"shape, got {offsets!r:.80}"
            )
        spans.append((offsets[0], offsets[1], key))
    end = 0
    for low, high, key in sorted(spans):
        if low != end:
            raise WorldModelError(f"{path}: tensor {key!r}: data_offsets: overlap or leave a hole")
        end = high
    if end != body:
        raise WorldModelError(f"{path}: body: expected {end} bytes, got {body}")


def load_component(
    folder: Path, name: str, module_class: type[Module], config_class: Any
) -> Module:
    """Loads a network from `folder/name`, in float32 on the CPU, in evaluation mode, frozen.

    The network is laid out without memory first, so that weights that do not fit the configuration
    are refused before anything is allocated.
    """
    path = folder / name / CONFIG_FILE
    record = read_json(folder, f"{name}/{CONFIG_FILE}")
    config = make_config(config_class, record, path, module_class.__name__)
    with torch.device("meta"):
        module = module_class(config)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    tensors = read_tensors(folder, f"{name}/{WEIGHTS_FILE}", shapes, ("F16", "F32"))
    module.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=True, assign=True)
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


# ---------------------------------------------------------------------------------------- writing


def save_component(module: nn.Module, folder: Path) -> None:
    """Writes a network's configuration and its weights, as float16, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = module.config
    record = {"_class_name": type(module).__name__, **dataclasses.asdict(config)}
    write_json(folder / CONFIG_FILE, record)
    weights = {k: v.detach().cpu().half().contiguous() for k, v in module.state_dict().items()}
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            raise WorldModelError(f"{folder}: tensor {key!r}: does not fit into float16")
    save_file(weights, folder / WEIGHTS_FILE)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, with a newline at its end."""
    path.write_text(json.dumps(record, indent=2) + "\n")


@contextlib.contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Gives an empty folder that takes the place of `folder` at the end, whole or not at all.

    When the block fails, on a full disk for example, what was there before stays as it was.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        raise WorldModelError(f"{folder}: expected a folder, found a file")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise WorldModelError(f"{folder}: cannot be written ({error.strerror or error})") from None
    try:
        yield fresh
        fresh.chmod(0o755)
        old = None
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.replace(folder, old / "folder")
        try:
            os.replace(fresh, folder)
        except OSError:
            if old:
                os.replace(old / "folder", folder)
            raise
        if old:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise WorldModelError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def digests(folder: Path, names: list[str]) -> dict[str, str]:
    """Returns the SHA-256 of each of the named files, in hexadecimal."""
    found = {}
    for name in names:
        with open(checked_path(folder, name), "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def check_digests(folder: Path, kept: Any, names: list[str]) -> None:
    """Checks the `files` entry of an index: just the named files, each with its digest.

    Raises:
        WorldModelError: A name is missing or unknown, or a file's content is another.
    """
    path = folder / INDEX_FILE
    if not isinstance(kept, dict) or set(kept) != set(names):
        raise WorldModelError(f"{path}: files: expected digests of {', '.join(names)}")
    for name, digest in digests(folder, names).items():
        if kept[name] != digest:
            raise WorldModelError(f"{folder / name}: its SHA-256 is not the one in {INDEX_FILE}")


# -------------------------------------------------------------------------------------- the Hub


def find_folder(
    source: str | os.PathLike[str] | None,
    revision: str | None,
    local_files_only: bool,
    file_names: list[str],
) -> Path:
    """Finds a world model's folder: embedded (None), a folder on disk, or a Hub id.

    What looks like a path, or exists as one, is taken as a folder; anything of the form
    `owner/name` else is downloaded into the Hub's cache, only the files of a world model.

    Raises:
        WorldModelError: It cannot be had; the message says what was tried.
    """
    if source is None:
        return EMBEDDED
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir():
        return path
    if path.exists():
        raise WorldModelError(f"{text}: expected a folder, found a file")
    is_id = re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", text)
    if not isinstance(source, str) or not is_id or ".." in text:
        raise WorldModelError(f"{text}: no such folder, and not a Hub id of the form owner/name")
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                text,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=file_names,
            )
        )
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        httpx.HTTPError,
        OSError,
        ValueError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WorldModelError(
            f"{text}: no such folder, and not to be had from the Hub ({reason}); "
            "world_model=None uses the model embedded in the package"
        ) from None

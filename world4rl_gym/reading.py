"""Strict reading of JSON and safetensors files from a folder that a stranger may have made.

Nothing here trusts a file: sizes are bounded before anything is read, headers before tensors,
links may not leave the folder, and no file's content is ever executed. Knows folders, JSON and
safetensors; knows nothing of what a world model is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

LARGEST_JSON = 2**20
"""Bytes of the largest JSON file, and of the largest safetensors header."""
LARGEST_TENSORS = 2**27
"""Bytes that a file's tensors may fill, in the widest dtype allowed: 33 million parameters."""
_DEEPEST_JSON = 16
_WIDTHS = {"F16": 2, "F32": 4, "I64": 8}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class WorldModelError(ValueError):
    """A world model cannot be loaded or saved; the message names the file and the field."""


class StrictFolder:
    """Reads files of one folder and remembers the SHA-256 of what it read.

    Args:
        folder: The folder.
        links_may_leave: Whether its files may be links to anywhere, as an installer may have made
            them of a package's own.

    Raises:
        WorldModelError: In every method, whatever is wrong; nothing else is raised.
    """

    def __init__(self, folder: Path, links_may_leave: bool = False) -> None:
        self.folder = folder
        self._links_may_leave = links_may_leave
        self.digests: dict[str, str] = {}
        """SHA-256, in hexadecimal, of each file read so far, by its name."""

    def path(self, name: str) -> Path:
        """Returns the path of a file once it is sure to be one, within the folder.

        In a snapshot of the Hub's cache the links lead to the cache's two folders of blobs.
        """
        path = self.folder / name
        try:
            real = path.resolve(strict=True)
            inside = any(real.is_relative_to(root) for root in self._roots())
            if not inside and not self._links_may_leave:
                raise WorldModelError(f"{path}: is a link that leaves the folder")
            if not real.is_file():
                kind = "a folder" if real.is_dir() else "something else"
                raise WorldModelError(f"{path}: expected a file, found {kind}")
        except FileNotFoundError:
            raise WorldModelError(f"{path}: is missing") from None
        except (OSError, RuntimeError) as error:
            raise WorldModelError(f"{path}: cannot be read ({reason_of(error)})") from None
        return path

    def _roots(self) -> list[Path]:
        root = self.folder.resolve()
        repository = root.parent.parent
        if root.parent.name == "snapshots" and repository.name.startswith("models--"):
            return [root, repository / "blobs", repository.parent / "blobs"]
        return [root]

    def read_bytes(self, name: str, limit: int) -> bytes:
        """Reads a file of at most `limit` bytes."""
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                size = path.stat().st_size
                data = file.read(limit + 1) if size <= limit else b""
        except OSError as error:
            raise WorldModelError(f"{path}: cannot be read ({reason_of(error)})") from None
        if max(size, len(data)) > limit:
            raise WorldModelError(f"{path}: size: expected at most {limit} bytes, got {size}")
        self.digests[name] = hashlib.sha256(data).hexdigest()
        return data

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads a JSON object of at most 1 MiB, in UTF-8, of unique keys, without NaN."""
        path = self.folder / name
        value = _parse_json(self.read_bytes(name, LARGEST_JSON), str(path))
        if not isinstance(value, dict):
            raise WorldModelError(f"{path}: expected a JSON object, got a {type(value).__name__}")
        return value

    def read_tensors(
        self, name: str, expected: Mapping[str, tuple[int, ...]], dtypes: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """Reads a safetensors file that must hold exactly the expected tensors.

        The header is checked here, before the library sees the file: length, JSON, names, dtypes,
        shapes, and offsets that cover the body without hole, overlap or rest.

        Args:
            name: The file's name.
            expected: Shape of every tensor by its name.
            dtypes: Safetensors' names of the dtypes allowed, such as "F16".
        """
        path = self.folder / name
        widest = max(_WIDTHS[dtype] for dtype in dtypes)
        most = widest * sum(math.prod(shape) for shape in expected.values())
        if most > LARGEST_TENSORS:
            raise WorldModelError(
                f"{path}: size: its tensors would fill {most} bytes, more than {LARGEST_TENSORS}"
            )
        data = self.read_bytes(name, 8 + LARGEST_JSON + most)
        header, body = _split(path, data)
        _check_header(path, header, expected, dtypes, body)
        try:
            tensors = safetensors.torch.load(data)
        except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
            raise WorldModelError(f"{path}: is not readable ({reason_of(error)})") from None
        for key, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise WorldModelError(f"{path}: tensor {key!r}: holds NaN or infinity")
        return tensors

    def check_digests(self, kept: Any, names: Iterable[str], index: str) -> None:
        """Checks that `kept` holds just the named files, each with the digest of what was read.

        Args:
            kept: SHA-256 by name, as the index says.
            names: The files, all of them read before.
            index: Name of the index, for messages.
        """
        path, wanted = self.folder / index, set(names)
        if not isinstance(kept, dict):
            raise WorldModelError(f"{path}: files: expected an object, got {shown(kept)}")
        for name in sorted(set(kept) ^ wanted):
            state = "is missing" if name in wanted else "is not a file of this format"
            raise WorldModelError(f"{path}: files: {shown(name)} {state}")
        for name in sorted(wanted):
            if kept[name] != self.digests[name]:
                raise WorldModelError(
                    f"{self.folder / name}: files: its SHA-256 is not the one that {index} keeps"
                )


def make_config(
    config_class: Any, record: Mapping[str, Any], path: Path, class_name: str | None
) -> Any:
    """Builds a configuration dataclass from JSON.

    Keys that the dataclass lacks, or that are missing, are errors, as is every value of another
    type and every value that its `__post_init__` refuses.

    Args:
        config_class: The dataclass.
        record: What the file holds.
        path: The file, for messages.
        class_name: What `_class_name` must be; None where the format has no such key.

    Raises:
        WorldModelError: Naming the file and the field.
    """
    record = dict(record)
    if class_name is not None:
        found = record.pop("_class_name", None)
        if found != class_name:
            raise WorldModelError(
                f"{path}: _class_name: expected {class_name!r}, got {shown(found)}"
            )
    fields = {field.name for field in dataclasses.fields(config_class)}
    for key in sorted(set(record) ^ fields):
        if key in fields:
            raise WorldModelError(f"{path}: {key}: is missing")
        raise WorldModelError(f"{path}: {shown(key)}: is unknown")
    hints = typing.get_type_hints(config_class)
    for key, value in record.items():
        if not _fits(value, hints[key]):
            kind = getattr(hints[key], "__name__", str(hints[key]))
            raise WorldModelError(f"{path}: {key}: expected {kind}, got {shown(value)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    try:
        return config_class(**values)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise WorldModelError(f"{path}: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type, bools not being numbers."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        return isinstance(value, list) and len(value) <= 256 and all(_fits(v, inner) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        return type(value) is float or (type(value) is int and abs(value) < 2**53)
    return type(value) is hint


def _parse_json(data: bytes, where: str) -> Any:
    """Parses UTF-8 JSON; `where` begins the messages."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON number")

    def finite(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse(text[:20])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"the key {shown(twice)} stands twice")
        return found

    if data.startswith(_LFS_POINTER):
        raise WorldModelError(f"{where}: is a Git-LFS pointer; fetch the file it stands for")
    try:
        value = json.loads(
            data.decode(), parse_constant=refuse, parse_float=finite, object_pairs_hook=unique
        )
    except RecursionError:
        raise WorldModelError(f"{where}: is not JSON that is read here (nested too deep)") from None
    except ValueError as error:
        raise WorldModelError(f"{where}: is not JSON ({reason_of(error)})") from None
    level = [value]
    for _ in range(_DEEPEST_JSON):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise WorldModelError(f"{where}: is nested more than {_DEEPEST_JSON} deep")
    return value


def _split(path: Path, data: bytes) -> tuple[dict[str, Any], int]:
    """Returns a safetensors file's header and the number of bytes after it."""
    if data.startswith(_LFS_POINTER):
        raise WorldModelError(f"{path}: is a Git-LFS pointer; fetch the file it stands for")
    pickled = data.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    if pickled and data[8:9] != b"{":  # a header of 1,152 bytes begins with 80 04 as well
        raise WorldModelError(f"{path}: header: is a pickle or a zip, which are never read")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise WorldModelError(f"{path}: header: is cut short; the file has {len(data)} bytes")
    if not 2 <= length <= LARGEST_JSON:
        raise WorldModelError(f"{path}: header: expected 2 to {LARGEST_JSON} bytes, got {length}")
    header = _parse_json(data[8 : 8 + length], f"{path}: header")
    if not isinstance(header, dict):
        raise WorldModelError(f"{path}: header: expected an object, got {shown(header)}")
    return header, len(data) - 8 - length


def _check_header(
    path: Path,
    header: dict[str, Any],
    expected: Mapping[str, tuple[int, ...]],
    dtypes: tuple[str, ...],
    body: int,
) -> None:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WorldModelError(f"{path}: __metadata__: expected strings")
    for key in sorted(set(header) ^ set(expected)):
        state = "missing" if key in expected else "unknown"
        raise WorldModelError(f"{path}: tensor {shown(key)} is {state}")
    spans = []
    for key, entry in header.items():
        begin, end = _check_entry(f"{path}: tensor {key!r}", entry, expected[key], dtypes)
        spans.append((begin, end, key))
    reached = 0
    for begin, end, key in sorted(spans):
        if begin != reached:
            raise WorldModelError(f"{path}: tensor {key!r}: data_offsets: overlap or leave a hole")
        reached = end
    if reached != body:
        raise WorldModelError(f"{path}: body: expected {reached} bytes, got {body}")


def _check_entry(
    where: str, entry: Any, expected: tuple[int, ...], dtypes: tuple[str, ...]
) -> tuple[int, int]:
    """Checks one tensor's entry in a header and returns its offsets."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WorldModelError(f"{where}: expected dtype, shape and data_offsets")
    if entry["dtype"] not in dtypes:
        raise WorldModelError(
            f"{where}: dtype: expected {' or '.join(dtypes)}, got {shown(entry['dtype'])}"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    if shape != list(expected) or any(type(n) is not int for n in shape):
        raise WorldModelError(f"{where}: shape: expected {list(expected)}, got {shown(shape)}")
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or any(type(n) is not int for n in offsets)
    ):
        raise WorldModelError(f"{where}: data_offsets: expected two integers, got {shown(offsets)}")
    needed = math.prod(shape) * _WIDTHS[entry["dtype"]]
    if offsets[1] - offsets[0] != needed:
        raise WorldModelError(
            f"{where}: data_offsets: expected {needed} bytes for its shape, got {shown(offsets)}"
        )
    return offsets[0], offsets[1]


def shown(value: Any) -> str:
    """A stranger's value for a message: on one line, printable and short."""
    try:
        text = ascii(value)
    except (RecursionError, ValueError):  # an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__

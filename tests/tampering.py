"""What a stranger may do to a world-model folder, and the bounds within which it is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from world4rl_gym.model_index import PART_FILES
from world4rl_gym.world_model import WorldModel, WorldModelError

DENOISER = "denoiser/diffusion_pytorch_model.safetensors"
MEMORY = "memory/diffusion_pytorch_model.safetensors"
FRAMES = "initial_frames/index.safetensors"
INDEX = "model_index.json"
MOST_SECONDS = 5.0
MOST_BYTES = 500 * 10**6


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fails where the block takes over 5 s or needs over 500 MB more than there was.

    The seconds are the process's own, for a busy machine's are no fault of the loader; one that
    waits for something is found by the clock, less sharply.
    """
    before = _memory("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the highest mark so far
    began, busy = time.monotonic(), time.process_time()
    yield
    assert time.process_time() - busy < MOST_SECONDS
    assert time.monotonic() - began < 10 * MOST_SECONDS
    assert _memory("VmHWM") - before < MOST_BYTES


def _memory(field: str) -> int:
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found.group(1)) * 1024 if found else 0


@contextlib.contextmanager
def refused(*words: object) -> Iterator[None]:
    """Expects one WorldModelError, within bounds, whose message holds every word."""
    with bounded(), pytest.raises(WorldModelError) as caught:
        yield
    assert type(caught.value) is WorldModelError
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    assert message.isprintable()


def load_refused(folder: Path, *words: object) -> None:
    """Expects that the folder is refused with a message that holds every word."""
    with refused(*words):
        WorldModel.from_pretrained(folder)


def sign(folder: Path) -> None:
    """Makes the index vouch for the files as they are, as a careful stranger would."""
    index = json.loads((folder / INDEX).read_text())
    index["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in PART_FILES
        if (folder / name).is_file()
    }
    (folder / INDEX).write_text(json.dumps(index))


def edit_json(folder: Path, name: str, **changes: Any) -> None:
    """Sets keys of a JSON file, removes those given as `...`, and signs."""
    record = json.loads((folder / name).read_text())
    for key, value in changes.items():
        if value is ...:
            del record[key]
        else:
            record[key] = value
    (folder / name).write_text(json.dumps(record))
    sign(folder)


def write(folder: Path, name: str, data: bytes) -> None:
    """Puts other content into a file, and signs unless it is the index itself."""
    (folder / name).write_bytes(data)
    if name != INDEX:
        sign(folder)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and body."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, body: bytes) -> bytes:
    """A safetensors file of a header, as JSON or bytes, and a body."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def edit_tensors(
    folder: Path, name: str, change: Callable[[dict[str, Any], bytearray], None]
) -> None:
    """Lets `change` alter header and body of a safetensors file in place, and signs."""
    header, body = split((folder / name).read_bytes())
    altered = bytearray(body)
    change(header, altered)
    write(folder, name, join(header, bytes(altered)))


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Makes files beyond `size` bytes impossible, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

"""List A, fuzz: whatever bytes come, a model that loads equal or WorldModelError, in bounds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tampering import DENOISER, FRAMES, INDEX, MEMORY, bounded, join, sign, split

from world4rl_gym.model_index import PART_FILES
from world4rl_gym.world_model import WorldModel, WorldModelError

JSON_FILES = [INDEX, "denoiser/config.json", "memory/config.json"]
JSON_FILES.append("scheduler/scheduler_config.json")
SETTINGS = settings(
    max_examples=50,
    deadline=None,
    print_blob=True,  # every run tries other values; a failure says how to try its own again
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

sizes = st.sampled_from([-1, 0, 1, 2, 3, 7, 8, 16, 64, 2**31, 2**63, 2**64, 10**30, 0.5, True])
plain = st.none() | st.booleans() | sizes | st.floats() | st.text(max_size=20)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def fuzzed(tiny_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One copy that every example changes and then puts back."""
    yield Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("fuzz") / "model"))


def own_config(world_model: WorldModel, name: str) -> dict[str, Any]:
    """What was loaded from a file of configuration."""
    return {
        INDEX: vars(world_model.config),
        "eyes/config.json": dict(world_model.eyes.config),
        "denoiser/config.json": dict(world_model.denoiser.config),
        "memory/config.json": dict(world_model.memory.config),
        "scheduler/scheduler_config.json": vars(world_model.scheduler_config),
    }[name]


def check(folder: Path, original: WorldModel, name: str, data: bytes, signed: bool) -> None:
    """Loads with `data` as the named file: equal to the original, or refused."""
    kept, index = (folder / name).read_bytes(), (folder / INDEX).read_bytes()
    try:
        (folder / name).write_bytes(data)
        if signed and name != INDEX:
            sign(folder)
        try:
            with bounded():
                loaded = WorldModel.from_pretrained(folder)
        except WorldModelError as error:
            assert type(error) is WorldModelError
            assert str(error).isprintable()
            return
        for key, value in loaded.state_dict().items():
            assert torch.isfinite(value).all()
            if name not in (DENOISER, MEMORY):
                assert torch.equal(value, original.state_dict()[key])
        if name.endswith(".json"):
            stated = json.loads(data)
            config = own_config(loaded, name)
            for key in stated.keys() & config.keys():
                kept_as = json.loads(json.dumps(config[key]))
                # A number alone is the bound of every component of an action.
                alone = key in ("action_low", "action_high") and not isinstance(stated[key], list)
                assert kept_as == ([stated[key]] if alone else stated[key])
        elif not signed:
            assert data == kept
    finally:
        (folder / INDEX).write_bytes(index)
        (folder / name).write_bytes(kept)


@SETTINGS
@given(data=st.data())
def test_a_fuzzed_json_files(fuzzed: Path, tiny_world_model: WorldModel, data) -> None:
    name = data.draw(st.sampled_from(JSON_FILES))
    record: Any = json.loads((fuzzed / name).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(record)) | st.text(max_size=12))
        change = data.draw(st.sampled_from(["set", "remove", "nudge"]))
        if change == "remove":
            record.pop(key, None)
        elif change == "nudge" and type(record.get(key)) is int:
            record[key] += data.draw(st.integers(-2, 2))
        else:
            record[key] = data.draw(values)
    text = json.dumps(record, ensure_ascii=data.draw(st.booleans()))
    check(fuzzed, tiny_world_model, name, text.encode(errors="surrogatepass"), signed=True)


@SETTINGS
@given(data=st.data())
def test_a_fuzzed_headers(fuzzed: Path, tiny_world_model: WorldModel, data) -> None:
    name = data.draw(st.sampled_from([DENOISER, MEMORY, FRAMES]))
    header, body = split((fuzzed / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from(sorted(header)) | st.text(max_size=8))
        change = data.draw(st.sampled_from(["remove", "replace", "field", "offsets", "metadata"]))
        entry = header.get(key)
        if change == "remove":
            header.pop(key, None)
        elif change == "metadata":
            header["__metadata__"] = data.draw(values)
        elif change == "replace" or not isinstance(entry, dict):
            header[key] = data.draw(values)
        elif change == "field":
            field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
            entry[field] = data.draw(values | st.sampled_from(["F16", "F32", "I64", "BF16"]))
        else:
            entry["data_offsets"] = data.draw(st.lists(st.integers(-8, len(body) + 8), max_size=3))
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body)))]
    text = json.dumps(header).encode(errors="surrogatepass")
    check(fuzzed, tiny_world_model, name, join(text, body), signed=True)


@SETTINGS
@given(data=st.data())
def test_a_fuzzed_bytes(fuzzed: Path, tiny_world_model: WorldModel, data) -> None:
    name = data.draw(st.sampled_from([INDEX, *PART_FILES]))
    content = bytearray((fuzzed / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        # most of a file is its body; its first bytes say what the rest is
        at = data.draw(st.integers(0, min(300, len(content) - 1)) | st.integers(0, len(content)))
        piece = data.draw(st.binary(max_size=12))
        content[at : at + data.draw(st.integers(0, 12))] = piece
        if not content:
            break
    check(fuzzed, tiny_world_model, name, bytes(content), signed=data.draw(st.booleans()))


@SETTINGS
@given(header=st.binary(max_size=200), body=st.binary(max_size=64))
def test_a_fuzzed_headers_of_any_bytes(
    fuzzed: Path, tiny_world_model: WorldModel, header: bytes, body: bytes
) -> None:
    check(fuzzed, tiny_world_model, DENOISER, join(header, body), signed=True)


@SETTINGS
@given(value=values, name=st.sampled_from(JSON_FILES))
def test_a_fuzzed_json_of_any_value(
    fuzzed: Path, tiny_world_model: WorldModel, value, name: str
) -> None:
    check(fuzzed, tiny_world_model, name, json.dumps(value).encode(), signed=True)

"""List A, safetensors: every broken or hostile file is refused by name, soon and cheaply."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tampering import DENOISER, FRAMES, MEMORY, edit_tensors, join, load_refused, split, write

from world4rl_gym.world_model import WorldModel

WEIGHTS = pytest.mark.parametrize("name", [DENOISER, MEMORY, FRAMES])


@WEIGHTS
def test_a_empty(model_folder: Path, name: str) -> None:
    write(model_folder, name, b"")
    load_refused(model_folder, name, "header")


@WEIGHTS
def test_a_four_bytes(model_folder: Path, name: str) -> None:
    write(model_folder, name, b"\x10\x00\x00\x00")
    load_refused(model_folder, name, "header")


@WEIGHTS
@pytest.mark.parametrize("length", [10**5, 2**31, 2**63, 2**64 - 1])
def test_a_header_length_beyond_the_file(model_folder: Path, name: str, length: int) -> None:
    data = (model_folder / name).read_bytes()
    length += len(data) if length == 10**5 else 0
    write(model_folder, name, length.to_bytes(8, "little") + data[8:])
    load_refused(model_folder, name, "header")


@pytest.mark.parametrize("kind", [2, 3, 4, 5])
def test_a_header_whose_length_looks_like_a_pickle_is_read(model_folder: Path, kind: int) -> None:
    header, body = split((model_folder / DENOISER).read_bytes())
    text = json.dumps(header).encode()
    length = 0x80 + 256 * kind
    while length < len(text):
        length += 2**16
    write(model_folder, DENOISER, join(text.ljust(length), body))
    assert (model_folder / DENOISER).read_bytes()[:2] == bytes([0x80, kind])
    WorldModel.from_pretrained(model_folder)


@pytest.mark.parametrize("length", [0, 1])
def test_a_header_length_too_small(model_folder: Path, length: int) -> None:
    data = (model_folder / DENOISER).read_bytes()
    write(model_folder, DENOISER, length.to_bytes(8, "little") + data[8:])
    load_refused(model_folder, DENOISER, "header")


def test_a_header_too_large(model_folder: Path) -> None:
    header, body = split((model_folder / DENOISER).read_bytes())
    text = json.dumps(header).encode().ljust(2**20 + 1)
    write(model_folder, DENOISER, join(text, body))
    load_refused(model_folder, DENOISER, "header", 2**20)


@WEIGHTS
@pytest.mark.parametrize("cut", [1, 8, 100])
def test_a_truncated_body(model_folder: Path, name: str, cut: int) -> None:
    write(model_folder, name, (model_folder / name).read_bytes()[:-cut])
    load_refused(model_folder, name, "body")


@WEIGHTS
def test_a_trailing_bytes(model_folder: Path, name: str) -> None:
    write(model_folder, name, (model_folder / name).read_bytes() + b"\0")
    load_refused(model_folder, name, "body")


@pytest.mark.parametrize(
    "text",
    [
        b"not json at all",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": 1, "a": 1}',
        b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_header_not_json(model_folder: Path, text: bytes) -> None:
    _, body = split((model_folder / DENOISER).read_bytes())
    write(model_folder, DENOISER, join(text, body))
    load_refused(model_folder, DENOISER, "header")


def test_a_overlapping_offsets(model_folder: Path) -> None:
    def change(header, body):
        first, second = _two_of_one_size(header)
        header[second]["data_offsets"] = header[first]["data_offsets"]

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "data_offsets")


def test_a_holed_offsets(model_folder: Path) -> None:
    def change(header, body):
        last = max(header, key=lambda key: header[key]["data_offsets"][1])
        header[last]["data_offsets"] = [n + 8 for n in header[last]["data_offsets"]]
        body += bytes(8)

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "data_offsets")


@pytest.mark.parametrize(
    "offsets",
    [
        [-8, 8],
        [8, 0],
        [0, 2**70],
        [0.0, 16.0],
        ["0", "16"],
        [True, False],
        [0],
        [0, 1, 2],
        {},
        None,
        "0,16",
    ],
)
def test_a_offsets_of_odd_kinds(model_folder: Path, offsets) -> None:
    def change(header, body):
        header["head.bias"]["data_offsets"] = offsets

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "head.bias", "data_offsets")


def test_a_shape_against_bytes(model_folder: Path) -> None:
    def change(header, body):
        begin, end = header["head.bias"]["data_offsets"]
        header["head.bias"]["data_offsets"] = [begin, end - 2]

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "head.bias", "data_offsets")


@pytest.mark.parametrize("dtype", ["F128", "", None, 7, ["F16"], {"F16": 1}, "F16 ", "f16"])
def test_a_unknown_dtype(model_folder: Path, dtype) -> None:
    def change(header, body):
        header["head.bias"]["dtype"] = dtype

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "head.bias", "dtype")


@pytest.mark.parametrize("entry", [None, [], 7, {}, {"dtype": "F16"}])
def test_a_entry_of_odd_kind(model_folder: Path, entry) -> None:
    def change(header, body):
        header["head.bias"] = entry

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "head.bias")


class _Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@WEIGHTS
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_under_that_name(
    model_folder: Path, tmp_path: Path, monkeypatch, name: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    write(model_folder, name, pickle.dumps(_Hostile(), protocol))
    load_refused(model_folder, name, "header")
    assert not Path("executed").exists()


def test_a_torch_zip_under_that_name(model_folder: Path, tmp_path: Path) -> None:
    torch.save({"head.bias": torch.zeros(144)}, tmp_path / "weights.pt")
    assert zipfile.is_zipfile(tmp_path / "weights.pt")
    write(model_folder, DENOISER, (tmp_path / "weights.pt").read_bytes())
    load_refused(model_folder, DENOISER, "pickle")


@WEIGHTS
def test_a_git_lfs_pointer_under_that_name(model_folder: Path, name: str) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    write(model_folder, name, pointer)
    load_refused(model_folder, name, "Git-LFS pointer")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [DENOISER, MEMORY])
def test_a_nan_or_inf_weights(model_folder: Path, name: str, value: float) -> None:
    tensors = safetensors.torch.load((model_folder / name).read_bytes())
    key = next(key for key in sorted(tensors) if tensors[key].numel() > 1)
    tensors[key].view(-1)[-1] = value
    write(model_folder, name, safetensors.torch.save(tensors))
    load_refused(model_folder, name, key, "NaN")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["state", "command"])
def test_a_nan_or_inf_initial_robot_states(model_folder: Path, field: str, value: float) -> None:
    tensors = safetensors.torch.load((model_folder / FRAMES).read_bytes())
    tensors[field][0, 0] = value
    write(model_folder, FRAMES, safetensors.torch.save(tensors))
    load_refused(model_folder, FRAMES, field, "NaN")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.uint8])
def test_a_wrong_dtype(model_folder: Path, dtype: torch.dtype) -> None:
    tensors = safetensors.torch.load((model_folder / MEMORY).read_bytes())
    key = sorted(tensors)[0]
    tensors[key] = tensors[key].to(dtype)
    write(model_folder, MEMORY, safetensors.torch.save(tensors))
    load_refused(model_folder, MEMORY)


def test_a_wrong_dtype_of_the_initial_frames(model_folder: Path) -> None:
    tensors = safetensors.torch.load((model_folder / FRAMES).read_bytes())
    tensors["task_ids"] = tensors["task_ids"].float()
    write(model_folder, FRAMES, safetensors.torch.save(tensors))
    load_refused(model_folder, FRAMES, "task_ids", "dtype")


@pytest.mark.parametrize(
    "shape", [[1, 144], [144, 1], [], [143], [-144], ["144"], [144.0], None, 144]
)
def test_a_wrong_shape(model_folder: Path, shape) -> None:
    def change(header, body):
        header["head.bias"]["shape"] = shape

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "head.bias", "shape")


@WEIGHTS
def test_a_missing_tensor(model_folder: Path, name: str) -> None:
    tensors = safetensors.torch.load((model_folder / name).read_bytes())
    key = sorted(tensors)[0]
    del tensors[key]
    write(model_folder, name, safetensors.torch.save(tensors))
    load_refused(model_folder, name, key, "missing")


@WEIGHTS
@pytest.mark.parametrize("key", ["extra", "../../etc", "\x1b[31mred\n", "\ud800"])
def test_a_extra_tensor(model_folder: Path, name: str, key: str) -> None:
    def change(header, body):
        header[key] = {"dtype": "F32", "shape": [1], "data_offsets": [len(body), len(body) + 4]}
        body += bytes(4)

    edit_tensors(model_folder, name, change)
    load_refused(model_folder, name, "unknown")


@pytest.mark.parametrize("metadata", [{"a": 1}, [], "text", None])
def test_a_metadata_of_odd_kind(model_folder: Path, metadata) -> None:
    def change(header, body):
        header["__metadata__"] = metadata

    edit_tensors(model_folder, DENOISER, change)
    load_refused(model_folder, DENOISER, "__metadata__")


@WEIGHTS
def test_a_another_content_than_the_index_vouches_for(model_folder: Path, name: str) -> None:
    data = bytearray((model_folder / name).read_bytes())
    data[-4] ^= 1
    (model_folder / name).write_bytes(data)  # not signed
    load_refused(model_folder, name, "SHA-256")


@WEIGHTS
def test_a_missing_file(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    load_refused(model_folder, name, "missing")


def test_a_huge_file_is_not_read(model_folder: Path) -> None:
    with open(model_folder / DENOISER, "r+b") as file:
        file.truncate(2**40)  # holes cost no disk
    load_refused(model_folder, DENOISER, "size")


def _two_of_one_size(header: dict) -> tuple[str, str]:
    seen: dict[int, str] = {}
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        if end - begin in seen:
            return seen[end - begin], key
        seen[end - begin] = key
    raise AssertionError("no two tensors of one size")

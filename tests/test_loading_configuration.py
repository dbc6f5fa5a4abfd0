"""List A, configuration and initial frames: what contradicts itself or is absurd is refused."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from tampering import FRAMES, INDEX, bounded, edit_json, load_refused, sign, write

from world4rl_gym import __version__
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel, WorldModelError

DENOISER = "denoiser/config.json"
MEMORY = "memory/config.json"
EYES = "eyes/config.json"
SCHEDULER = "scheduler/scheduler_config.json"
START, ANYWHERE = "initial_frames/start.png", "initial_frames/anywhere.png"
JSONS = pytest.mark.parametrize("name", [INDEX, DENOISER, MEMORY, EYES, SCHEDULER])
HUGE = 10**400


@JSONS
def test_a_missing(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    load_refused(model_folder, name, "missing")


@JSONS
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\x80\x04.",
        b"\xff\xfe{\x00}\x00",
        b'{"frame_size": NaN}',
        b'{"frame_size": -Infinity}',
        b'{"frame_size": 1e999}',
        b'{"a": 1, "a": 2}',
        b"[" * 100_000,
        b'{"a": ' * 400 + b"1" + b"}" * 400,
        b'{"a": ' + b"9" * 5000 + b"}",
        b" " * (2**20 + 1),
    ],
)
def test_a_not_json(model_folder: Path, name: str, data: bytes) -> None:
    write(model_folder, name, data)
    load_refused(model_folder, name)


@JSONS
@pytest.mark.parametrize("data", [b"[]", b"null", b'"text"', b"7", b"true"])
def test_a_a_list_and_other_kinds(model_folder: Path, name: str, data: bytes) -> None:
    write(model_folder, name, data)
    load_refused(model_folder, name, "expected a JSON object")


def test_a_many_keys_stay_cheap(model_folder: Path) -> None:
    pairs = ", ".join(f'"{n}": 0' for n in range(80_000))
    write(model_folder, DENOISER, f'{{{pairs}, "5": 1}}'.encode())
    load_refused(model_folder, DENOISER, "'5'")


NUMBERS = [-1, 0, 10**9, HUGE, "4", "", True, False, None, 4.0, 4.5, [4], {}]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    "field",
    [
        "frame_size",
        "code_size",
        "patch_size",
        "width",
        "denoise_blocks",
    ],
)
def test_a_odd_sizes_of_the_denoiser(model_folder: Path, field: str, value) -> None:
    edit_json(model_folder, DENOISER, **{field: value})
    load_refused(model_folder, DENOISER, field)


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    ("name", "field"),
    [(EYES, "tasks"), (EYES, "frame_size"), (EYES, "code_size"), (EYES, "width")]
    + [(MEMORY, field) for field in ("tasks", "members", "action_size", "code_size", "width")],
)
def test_a_odd_sizes_of_eyes_and_memory(model_folder: Path, name: str, field: str, value) -> None:
    edit_json(model_folder, name, **{field: value})
    load_refused(model_folder, name, field)


@pytest.mark.parametrize("value", [-1, 10**9, HUGE, "4", "", True, None, 4.0, [4], {}])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        (MEMORY, "state_size"),
        (MEMORY, "command_size"),
        (DENOISER, "state_size"),
        (DENOISER, "condition_blocks"),
    ],
)
def test_a_odd_sizes_that_may_be_none(model_folder: Path, name: str, field: str, value) -> None:
    edit_json(model_folder, name, **{field: value})
    load_refused(model_folder, name, field)


@pytest.mark.parametrize("value", [-1, 0, 10**9, HUGE, "4", True, False, None, [4], {}])
@pytest.mark.parametrize("field", ["sigma_data", "residual_scale"])
def test_a_odd_scales_of_the_denoiser(model_folder: Path, field: str, value) -> None:
    edit_json(model_folder, DENOISER, **{field: value})
    load_refused(model_folder, DENOISER, field)


@pytest.mark.parametrize("value", [-1, 0, 1e-300, 10**9, HUGE, "4", True, False, None, [4], {}])
@pytest.mark.parametrize("field", ["sigma_min", "sigma_max", "rho", "sigma_data"])
def test_a_odd_noise_levels(model_folder: Path, field: str, value) -> None:
    edit_json(model_folder, SCHEDULER, **{field: value})
    load_refused(model_folder, SCHEDULER, field)


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    "field",
    [
        "action_repeat",
        "max_episode_steps",
        "num_inference_steps",
        "frame_size",
        "code_size",
        "action_size",
    ],
)
def test_a_odd_sizes_in_the_index(model_folder: Path, field: str, value) -> None:
    edit_json(model_folder, INDEX, **{field: value})
    load_refused(model_folder, INDEX, field)


@pytest.mark.parametrize("value", [-1, 0, 1, 1.5, HUGE, "0.5", True, None])
def test_a_odd_threshold(model_folder: Path, value) -> None:
    edit_json(model_folder, INDEX, success_threshold=value)
    load_refused(model_folder, INDEX, "success_threshold")


@pytest.mark.parametrize("value", [7, 12, 2048, -8, 8.0, [8], "8", None, HUGE])
def test_a_absurd_widths(model_folder: Path, value) -> None:
    edit_json(model_folder, DENOISER, width=value)
    load_refused(model_folder, DENOISER, "width")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (DENOISER, {"width": 1024, "condition_blocks": 8, "denoise_blocks": 8}),
        (MEMORY, {"tasks": 256, "members": 16, "width": 1024}),
        (EYES, {"tasks": 256, "width": 256, "code_size": 256}),
    ],
)
def test_a_too_many_parameters_are_refused_before_anything_is_built(
    model_folder: Path, name: str, changes
) -> None:
    edit_json(model_folder, name, **changes)
    load_refused(model_folder, f"{name.split('/')[0]}/diffusion_pytorch_model", "size")


@JSONS
@pytest.mark.parametrize("key", ["unknown", "__class__", "\x1b[31m\n", "\ud800", ""])
def test_a_unknown_keys(model_folder: Path, name: str, key: str) -> None:
    edit_json(model_folder, name, **{key: 1})
    load_refused(model_folder, name, "unknown")


@JSONS
def test_a_missing_keys(model_folder: Path, name: str) -> None:
    kept = (model_folder / name).read_text()
    for key in json.loads(kept):
        edit_json(model_folder, name, **{key: ...})
        if (name, key) == (INDEX, "files"):
            record = json.loads(kept)
            del record["files"]
            (model_folder / name).write_text(json.dumps(record))
        load_refused(model_folder, name, key)
        (model_folder / name).write_text(kept)


@JSONS
@pytest.mark.parametrize("value", ["UNet3DModel", "os.system", "", None, 7, ["Denoiser"], True])
def test_a_unknown_class_or_block_names(model_folder: Path, name: str, value) -> None:
    edit_json(model_folder, name, _class_name=value)
    load_refused(model_folder, name, "_class_name")


def test_a_newer_format_version(model_folder: Path) -> None:
    edit_json(model_folder, INDEX, format_version=3, saved_with="7.1.0", anything="new")
    load_refused(model_folder, INDEX, "format_version", __version__, "7.1.0")


def test_a_folder_without_a_memory_is_told_what_to_do(model_folder: Path) -> None:
    edit_json(model_folder, INDEX, format_version=1, saved_with="0.1.0", context_length=4)
    load_refused(model_folder, INDEX, "format_version", "without a memory", "0.1.0")


@pytest.mark.parametrize("value", [0, -1, "2", 2.0, True, None, [2], HUGE, ...])
def test_a_odd_format_version(model_folder: Path, value) -> None:
    edit_json(model_folder, INDEX, format_version=value)
    load_refused(model_folder, INDEX, "format_version")


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (INDEX, "frame_size", 32),
        (INDEX, "code_size", 7),
        (INDEX, "state_size", 4),
        (INDEX, "command_size", 1),
        (INDEX, "action_size", 4),
        (INDEX, "action_low", 0.0),
        (INDEX, "action_high", 2.0),
        (INDEX, "initial_frames", [6, 5]),
        (INDEX, "initial_frames", [10, 0]),
        (INDEX, "tasks", ["push"]),
        (INDEX, "tasks", ["push", "pull", "lift"]),
        (DENOISER, "frame_size", 32),
        (DENOISER, "code_size", 7),
        (DENOISER, "state_size", 2),
        (DENOISER, "width", 16),
        (DENOISER, "denoise_blocks", 2),
        (EYES, "frame_size", 32),
        (EYES, "width", 8),
        (EYES, "code_size", 7),
        (MEMORY, "tasks", 3),
        (MEMORY, "members", 3),
        (MEMORY, "width", 8),
        (MEMORY, "command_size", 3),
    ],
)
def test_a_what_contradicts_the_weights(model_folder: Path, name, field, value) -> None:
    edit_json(model_folder, name, **{field: value})
    load_refused(model_folder)


@pytest.mark.parametrize(
    "value",
    [
        [],
        ["push", "push"],
        ["push", 7],
        ["push", None],
        ["push", ""],
        ["push", "x" * 101],
        ["push", "\x1b[31m"],
        [f"task {n}" for n in range(257)],
        "push",
        {"push": 1},
        None,
    ],
)
def test_a_odd_tasks(model_folder: Path, value) -> None:
    edit_json(model_folder, INDEX, tasks=value)
    load_refused(model_folder, INDEX, "tasks")


@pytest.mark.parametrize(
    "value", [None, [], "files", {}, {"../../etc/passwd": "0"}, {"/etc/passwd": "0"}]
)
def test_a_odd_files_in_the_index(model_folder: Path, value) -> None:
    record = json.loads((model_folder / INDEX).read_text())
    (model_folder / INDEX).write_text(json.dumps({**record, "files": value}))
    load_refused(model_folder, INDEX, "files")


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "denoiser/../../x", "code.py"])
def test_a_names_with_dots_or_absolute_paths_in_the_index(model_folder: Path, name: str) -> None:
    record = json.loads((model_folder / INDEX).read_text())
    record["files"][name] = "0" * 64
    (model_folder / INDEX).write_text(json.dumps(record))
    load_refused(model_folder, INDEX, "files", name)


@pytest.mark.parametrize("digest", [None, 7, "", "0" * 64, ["0"]])
def test_a_odd_digests(model_folder: Path, digest) -> None:
    record = json.loads((model_folder / INDEX).read_text())
    record["files"][START] = digest
    (model_folder / INDEX).write_text(json.dumps(record))
    load_refused(model_folder, START, "SHA-256")


@pytest.mark.parametrize("name", [FRAMES, START, ANYWHERE])
def test_a_initial_frames_missing(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    load_refused(model_folder, name, "missing")


@pytest.mark.parametrize("name", [START, ANYWHERE])
@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\x80\x04."])
def test_a_initial_frames_empty_or_no_picture(model_folder: Path, name: str, data: bytes) -> None:
    write(model_folder, name, data)
    load_refused(model_folder, name, "PNG")


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_initial_frames_cut_short(model_folder: Path, cut: int) -> None:
    data = (model_folder / ANYWHERE).read_bytes()
    write(model_folder, ANYWHERE, data[: len(data) // cut if cut > 1 else -50])
    load_refused(model_folder, ANYWHERE)


@pytest.mark.parametrize("counts", [[0, 0], [0, 4], [-1, 4], [6, -4], [10**9, 4], [6, HUGE]])
def test_a_initial_frames_counts_out_of_bounds(model_folder: Path, counts) -> None:
    edit_json(model_folder, INDEX, initial_frames=counts)
    load_refused(model_folder, "initial_frames")


@pytest.mark.parametrize("counts", [None, 6, [6], [6, 4, 0], ["6", "4"], [6.0, 4.0], [True, True]])
def test_a_initial_frames_counts_of_odd_kinds(model_folder: Path, counts) -> None:
    edit_json(model_folder, INDEX, initial_frames=counts)
    load_refused(model_folder, INDEX, "initial_frames")


@pytest.mark.parametrize(
    ("shape", "mode"),
    [((16, 136), "RGB"), ((32, 128), "RGB"), ((16, 128), "L"), ((16, 128), "RGBA")],
)
def test_a_initial_frames_of_wrong_shape_or_dtype(model_folder: Path, shape, mode) -> None:
    write(model_folder, START, _png(np.zeros((*shape, 4), np.uint8), mode))
    load_refused(model_folder, START, "pixels")


def test_a_initial_frames_a_picture_bomb(model_folder: Path) -> None:
    write(model_folder, START, _png(np.zeros((2000, 2000, 4), np.uint8), "RGB"))
    load_refused(model_folder, START)


def test_a_initial_frames_more_than_memory_allows(model_folder: Path) -> None:
    edit_json(model_folder, INDEX, initial_frames=[260_000, 4])
    load_refused(model_folder, "initial_frames", "at most")


@pytest.mark.parametrize("task", [-1, 2, 2**40])
def test_a_initial_frames_of_an_unknown_task(model_folder: Path, task: int) -> None:
    tensors = safetensors.torch.load((model_folder / FRAMES).read_bytes())
    tensors["task_ids"][3] = task
    write(model_folder, FRAMES, safetensors.torch.save(tensors))
    load_refused(model_folder, FRAMES, "task_ids")


def test_a_initial_frames_without_a_start_of_every_task(model_folder: Path) -> None:
    tensors = safetensors.torch.load((model_folder / FRAMES).read_bytes())
    tensors["task_ids"][:6] = 0
    write(model_folder, FRAMES, safetensors.torch.save(tensors))
    load_refused(model_folder, FRAMES, "'pull'")


def test_a_dangerous_file_names_are_not_followed(model_folder: Path) -> None:
    (model_folder / "extra.py").write_text("raise SystemExit('was run')")
    (model_folder / "denoiser" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    WorldModel.from_pretrained(model_folder)  # neither read nor run


def test_an_older_file_says_that_it_is_no_format_of_ours(model_folder: Path) -> None:
    edit_json(model_folder, INDEX, format_version=0)
    load_refused(model_folder, "expected 2")


def test_provenance_travels_and_nan_in_it_is_refused(tiny_world_model, tmp_path: Path) -> None:
    import copy
    import dataclasses

    model = copy.copy(tiny_world_model)
    provenance = {"episodes": 3, "hours": 0.5, "figures": {"auroc": [0.9, 1.0]}, "by": "text"}
    model.config = dataclasses.replace(model.config, provenance=provenance)
    model.save_pretrained(tmp_path / "model")
    assert WorldModel.from_pretrained(tmp_path / "model").config.provenance == provenance
    kept = (tmp_path / "model" / INDEX).read_bytes()
    for value in (float("nan"), {1, 2}):
        model.config = dataclasses.replace(model.config, provenance={"a": value})
        with pytest.raises(WorldModelError, match="provenance"):
            model.save_pretrained(tmp_path / "model")
        assert (tmp_path / "model" / INDEX).read_bytes() == kept


def test_a_loaded_model_equals_the_saved_one(tiny_world_model, model_folder: Path) -> None:
    sign(model_folder)
    with bounded():
        loaded = WorldModel.from_pretrained(model_folder)
    for (key, a), (other, b) in zip(
        tiny_world_model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert key == other
        assert torch.equal(a, b)
    assert loaded.config == tiny_world_model.config
    assert loaded.scheduler_config == tiny_world_model.scheduler_config
    _equal_frames(loaded.initial_frames, tiny_world_model.initial_frames)


def _equal_frames(a: InitialFrames, b: InitialFrames) -> None:
    for name in ("frames", "state", "command", "task_ids", "is_start"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.tasks == b.tasks


def _png(pixels: np.ndarray, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(file, "PNG")
    return file.getvalue()

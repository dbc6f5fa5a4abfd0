"""Training runs: kill them, stop them, starve them, and they lose nothing (list T)."""

from __future__ import annotations

import csv
import gc
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import CODES, make_tiny_world_model, same, weights
from episode_factory import write_episodes

from training import (
    clone_policy,
    distil_policy,
    improve,
    refine_policy,
    train_denoiser,
    train_eyes,
    train_memory,
)
from training.runs.checkpoints import Checkpoints, RunError
from training.runs.locks import InUseError, locked
from training.runs.settings import SettingsError
from world4rl_gym.components import load_component, save_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.eyes import Eyes

TINY = {
    "steps": 24,
    "batch_size": 4,
    "width": 8,
    "condition_blocks": 1,
    "checkpoint_every": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_episodes(tmp_path_factory.mktemp("data"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        eyes = Eyes(frame_size=16, code_size=CODES, width=4).eval()
    (folder / "fixed").mkdir()
    save_component(eyes, folder / "fixed" / "eyes")
    return folder


def tiny_args(out: Path, data: Path, **changes: Any) -> train_denoiser.Args:
    eyes = changes.pop("eyes", data / "fixed")
    return train_denoiser.Args(("push",), data, eyes, out, **{**TINY, **changes})


def losses(out: Path) -> list[tuple[str, str]]:
    with open(out / "losses.csv") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_denoiser.run(tiny_args(out, data))
    return out


def command(out: Path, data: Path, **changes: Any) -> list[str]:
    flags = []
    for key, value in {**TINY, **changes}.items():
        values = value if isinstance(value, tuple) else (value,)
        flags += [f"--{key.replace('_', '-')}", *map(str, values)]
    module = [sys.executable, "-m", "training.train_denoiser", "--tasks", "push"]
    where = ["--out", str(out), "--episodes", str(data), "--eyes", str(data / "fixed")]
    return [*module, *where, *flags]


def same_threads() -> dict[str, str]:
    """Sums depend on the number of threads: the same here and in a process of its own."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def start(out: Path, data: Path, **changes: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, data, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=same_threads(),
    )


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if list((out / "checkpoints").glob(f"checkpoint-*{step:02d}.pt")):
            return
        time.sleep(0.01)


def wait_for_losses(out: Path, process: subprocess.Popen[str], count: int = 5) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / "losses.csv").exists() and len(losses(out)) >= count:
            return
        time.sleep(0.01)


def test_T1_killed_and_resumed_equals_uninterrupted(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    """Killed at any moment, also while a checkpoint is written: one is written at every step."""
    out, rng = tmp_path / "killed", random.Random()
    every = {"checkpoint_every": 1}
    for step in (1, rng.randint(2, 12)):
        process = start(out, data, **every)
        wait_for_step(out, step, process)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = subprocess.run(
        command(out, data, **every), capture_output=True, text=True, env=same_threads()
    )
    assert ended.returncode == 0, ended.stderr
    assert same(weights(out / "denoiser"), weights(finished / "denoiser"))
    assert losses(out) == losses(finished)


def test_T2_T4_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, capsys) -> None:
    checkpoints = Checkpoints(tmp_path, {"data": "x"})
    for step in (1, 2, 3):
        checkpoints.save(step, {"value": torch.full((100,), float(step))})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-00000002.pt",
        "checkpoint-00000003.pt",
    ]
    newest = tmp_path / "checkpoint-00000003.pt"
    whole = newest.read_bytes()
    torch.save([1], tmp_path / "list")
    value = whole.index(torch.full((100,), 3.0).numpy().tobytes())
    flipped = whole[:value] + bytes([whole[value] ^ 1]) + whole[value + 1 :]
    for damaged in (whole[:300], flipped, (tmp_path / "list").read_bytes()):
        newest.write_bytes(damaged)
        state = checkpoints.load_newest()
        assert state is not None
        assert state["step"] == 2
        assert "damaged" in capsys.readouterr().out
    newest.write_bytes(whole)
    assert checkpoints.load_newest()["step"] == 3  # type: ignore[index]


def test_T2_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    script = f"""
import pathlib, resource, signal, torch
from training.runs.checkpoints import Checkpoints
checkpoints = Checkpoints(pathlib.Path({str(tmp_path)!r}), {{}})
checkpoints.save(1, {{"value": torch.ones(10)}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoints.save(2, {{"value": torch.ones(100_000)}})
except (OSError, RuntimeError):
    print("refused")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "refused" in ran.stdout, ran.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-00000001.pt"]
    state = Checkpoints(tmp_path, {}).load_newest()
    assert state is not None
    assert state["step"] == 1


@pytest.mark.parametrize(
    ("trainer", "number"),
    [
        ("train_denoiser", signal.SIGTERM),
        ("train_denoiser", signal.SIGINT),
        ("train_memory", signal.SIGTERM),
        ("train_eyes", signal.SIGTERM),
    ],
)
def test_T3_a_signal_ends_with_a_checkpoint_and_a_line(
    data: Path, tmp_path: Path, trainer: str, number: signal.Signals
) -> None:
    out = tmp_path / "stopped"
    if trainer == "train_denoiser":
        line = command(out, data, steps=100_000)
    else:
        line = [sys.executable, "-m", f"training.{trainer}", "--task", "push", "--out", str(out)]
        line += ["--episodes", str(data), "--width", "4", "--steps", "100000"]
        line += ["--eyes", str(data / "fixed")] if trainer == "train_memory" else []
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=same_threads()
    )
    wait_for_losses(out, process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in said
    state = torch.load(max((out / "checkpoints").glob("*.pt")), weights_only=True)
    assert [int(step) for step, _ in losses(out)] == list(range(1, state["step"] + 1))


def test_T5_other_data_or_settings_are_refused(data: Path, finished: Path, tmp_path: Path) -> None:
    before = weights(finished / "denoiser")
    with pytest.raises(SettingsError, match=r"learning_rate: 0\.001 there, 0\.01 now"):
        train_denoiser.run(tiny_args(finished, data, learning_rate=0.01))
    assert same(before, weights(finished / "denoiser"))
    episodes, out = tmp_path / "episodes", tmp_path / "out"
    write_episodes(episodes, count=6)
    train_denoiser.run(tiny_args(out, episodes, eyes=data / "fixed"))
    shutil.rmtree(episodes)
    write_episodes(episodes, count=3)  # others at the same place
    with pytest.raises(RunError, match="data: "):
        train_denoiser.run(tiny_args(out, episodes, eyes=data / "fixed"))


def test_T6_a_loss_that_is_not_finite_is_skipped_then_stops_the_run(
    data: Path, tmp_path: Path, capsys
) -> None:
    changes = {"learning_rate": 1e38, "checkpoint_every": 1}
    with pytest.raises(RunError, match="not finite 5 steps in a row, the last at step 5 "):
        train_denoiser.run(tiny_args(tmp_path / "nan", data, **changes))
    said = capsys.readouterr().out
    assert "the step is skipped" in said
    for path in (tmp_path / "nan" / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        assert all(value.isfinite().all() for value in state["model"].values())


def test_T7_the_same_seed_gives_the_same_weights(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    train_denoiser.run(tiny_args(tmp_path / "again", data))
    assert same(weights(tmp_path / "again" / "denoiser"), weights(finished / "denoiser"))
    train_denoiser.run(tiny_args(tmp_path / "other", data, seed=1))
    assert not same(weights(tmp_path / "other" / "denoiser"), weights(finished / "denoiser"))


def test_T10_two_trainers_on_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        script = (
            "import pathlib\nfrom training.runs.locks import locked\n"
            f"with locked(pathlib.Path({str(tmp_path)!r})): pass\n"
        )
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert second.returncode != 0
    assert "another process is training into this folder" in second.stderr


def test_T10_policies_are_made_by_one_process_at_a_time(cloned: Path, tmp_path: Path) -> None:
    world_model, out = tmp_path / "world_model", tmp_path / "out"
    make_tiny_world_model().save_pretrained(world_model)
    stateless = str(tmp_path / "stateless")
    make_tiny_world_model(states=0).save_pretrained(stateless)
    episodes = write_episodes(tmp_path / "data")
    eyes = episodes / "fixed"
    save_component(Eyes(frame_size=16, code_size=CODES, width=4).eval(), eyes / "eyes")
    model = str(world_model)
    trainers = [
        lambda: train_eyes.train(train_eyes.Args("push", episodes, out, steps=1)),
        lambda: train_memory.run(train_memory.Args("push", episodes, eyes, out, steps=1)),
        lambda: train_denoiser.run(train_denoiser.Args(("push",), episodes, eyes, out, steps=1)),
        lambda: distil_policy.run(distil_policy.Args(str(cloned), out, model, steps=1)),
        lambda: improve.run(improve.Args("push", out, episodes, model, real="recorded")),
        lambda: clone_policy.run(clone_policy.Args("push", stateless, episodes, 3, out, steps=1)),
        lambda: refine_policy.run(
            refine_policy.Args("push", str(cloned), out, world_model=str(world_model))
        ),
    ]
    with locked(out):
        for train in trainers:
            with pytest.raises(InUseError, match="another process is training into this folder"):
                train()
    assert not list(out.iterdir())


def test_T11_memory_and_handles_stay_flat(data: Path, tmp_path: Path) -> None:
    handles, memory = [], []
    for run in range(4):
        train_denoiser.run(tiny_args(tmp_path / str(run), data, steps=40))
        gc.collect()
        handles.append(len(os.listdir("/proc/self/fd")))
        memory.append(psutil.Process().memory_info().rss / 2**20)
    assert handles[3] <= handles[1]
    assert memory[3] - memory[1] < 20  # MiB, over 80 steps


def test_training_lowers_the_loss_and_the_denoiser_loads(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "longer"
    changes = {"steps": 200, "learning_rate": 3e-3, "batch_size": 16}
    train_denoiser.run(tiny_args(out, data, **changes))
    values = [float(loss) for _, loss in losses(out)]
    assert sum(values[-40:]) < 0.8 * sum(values[:40])
    denoiser = load_component(out, "denoiser", Denoiser, DenoiserConfig)
    assert denoiser.config.frame_size == 16


@pytest.mark.parametrize("field", ["steps", "batch_size", "width", "learning_rate", "code_noise"])
def test_bad_settings_are_named(field: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=field):
        train_denoiser.Args(("push",), out=tmp_path, **{field: -1})


def test_T4_no_readable_checkpoint_is_an_error_not_a_new_beginning(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000007.pt").write_bytes(b"rubbish")
    with pytest.raises(RunError, match="none of its 1 checkpoints can be read"):
        Checkpoints(tmp_path, {}).load_newest()

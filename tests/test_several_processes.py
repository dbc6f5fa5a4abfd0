"""Two processes, as `accelerate launch` starts them, train what one process trains."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import weights
from episode_factory import write_episodes

from training import train_denoiser, train_eyes, train_memory
from training.runs import processes

STEPS = 12
LAUNCH = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # "multi_gpu" with none is gloo


def launched(command: str, **flags: object) -> str:
    """What two processes of a command print."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--module"]
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [*launcher, f"training.{command}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def losses(folder: Path) -> list[float]:
    with open(folder / "losses.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    return [float(row["loss"]) for row in rows]


def test_two_processes_train_the_world_model_of_one(tmp_path: Path) -> None:
    data = write_episodes(tmp_path / "data")
    eyes, memory, denoiser = (tmp_path / name for name in ("eyes", "memory", "denoiser"))
    train_eyes.train(
        train_eyes.Args("push", data, eyes, code_size=4, width=4, steps=STEPS, batch_size=8)
    )
    train_memory.run(train_memory.Args("push", data, eyes, memory, STEPS, 8, members=1, width=16))
    train_denoiser.run(
        train_denoiser.Args(("push",), data, eyes, denoiser, steps=STEPS, batch_size=8, width=8)
    )
    both = {"steps": STEPS, "batch-size": 8, "episodes": data}
    for command, name, flags in (
        ("train_eyes", "eyes", {"task": "push", "code-size": 4, "width": 4}),
        ("train_memory", "memory", {"task": "push", "eyes": eyes, "members": 1, "width": 16}),
        ("train_denoiser", "denoiser", {"tasks": "push", "eyes": eyes, "width": 8}),
    ):
        alone, out = tmp_path / name, tmp_path / f"{name}-of-two"
        said = launched(command, out=out, **flags, **both)
        assert (out / name).exists(), said
        # The eyes standardise codes over each process's own rows; the memory drops out other units.
        near = {"eyes": 0.02, "memory": 0.1, "denoiser": 1e-4}[name]
        assert losses(out) == pytest.approx(losses(alone), rel=near), said
        assert losses(out) != losses(alone)  # each process had its own rows
        if name == "denoiser":
            one, two = weights(alone / name), weights(out / name)
            torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4)


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert list(range(9)[processes.share(9)]) == [1, 4, 7]
    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 processes"):
        processes.share(64)

"""The command line `world4rl`, each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fresh_process import ROOT, run_python
from PIL import Image

from world4rl_gym import WorldModel
from world4rl_gym.policy import make_policy, policy_config


def run_cli(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """Runs `world4rl` with these arguments, `code` before it."""
    script = f"{code}\nfrom world4rl_gym.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture
def policy_folder(tiny_world_model: WorldModel, tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    make_policy(policy_config(tiny_world_model, "push")).save_pretrained(folder)
    return folder


def test_help_imports_no_torch() -> None:
    code = (
        "import sys\nfrom world4rl_gym.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, 'aiohttp' in sys.modules)"
    )
    output = run_python(code)
    assert "doctor" in output
    assert output.endswith("False False\n")


def test_info_tells_tasks_and_sizes_and_that_a_card_is_missing(tiny_folder: str) -> None:
    done = run_cli("info", tiny_folder)
    assert done.returncode == 0, done.stderr
    assert "push, pull" in done.stdout
    assert "16 x 16" in done.stdout
    assert "no card" in done.stdout


def test_info_shows_the_embedded_models_figures() -> None:
    done = run_cli("info")
    assert done.returncode == 0, done.stderr
    assert "AUROC" in done.stdout
    assert "library_name" not in done.stdout


def test_verify_imagines_a_step_of_every_task(tiny_folder: str) -> None:
    done = run_cli("verify", tiny_folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("one step imagined") == 2


def test_verify_refuses_a_broken_model_in_one_line(model_folder: Path) -> None:
    weights = model_folder / "memory" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    done = run_cli("verify", str(model_folder))
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {weights}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "status", "output"),
    [
        (["sing"], 2, "invalid choice"),
        (["info", "no/such/folder"], 1, "no such folder"),
        (["play", "--task", "fly", "--video", "x.gif"], 1, "--task: expected one of coffee-pull"),
        (["play", "--video", "x.avi"], 1, "--video: expected a file .mp4 or .gif"),
        (["play", "--policy", "nowhere", "--video", "x.gif"], 1, "'nowhere': no such folder"),
        (["play", "--device", "tpu"], 1, "--device: expected one of cpu"),
        (["play", "--port", "70000"], 1, "--port: expected within"),
    ],
)
def test_what_is_asked_wrongly_is_told(line: list[str], status: int, output: str) -> None:
    done = run_cli(*line)
    assert done.returncode == status
    assert output in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_play_writes_a_video_of_random_actions(tiny_folder: str, tmp_path: Path, kind: str) -> None:
    iio = pytest.importorskip("imageio.v3")
    path = tmp_path / f"out.{kind}"
    line = ["play", tiny_folder, "--task", "pull", "--seed", "1", "--video", str(path)]
    done = run_cli(*line)
    assert done.returncode == 0, done.stderr
    assert "pull" in done.stdout
    decisions = int(done.stdout.split(" decisions")[0].split()[-1])
    frames = iio.imread(path)
    assert frames.shape[0] == decisions + 1
    assert frames.shape[1:3] == (96, 96)


def test_play_writes_a_video_of_a_policy(
    tiny_folder: str, policy_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.gif"
    line = ["play", tiny_folder, "--policy", str(policy_folder), "--video", str(path)]
    done = run_cli(*line)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout
    assert Image.open(path).n_frames > 1


def test_play_begins_in_the_policys_own_task(
    tiny_world_model: WorldModel, tiny_folder: str, tmp_path: Path
) -> None:
    task = tiny_world_model.config.tasks[-1]
    assert task != tiny_world_model.config.tasks[0]
    make_policy(policy_config(tiny_world_model, task)).save_pretrained(tmp_path / "mine")
    line = ["play", tiny_folder, "--policy", str(tmp_path / "mine"), "--video"]
    assert f": {task}, start" in run_cli(*line, str(tmp_path / "out.gif")).stdout


def test_without_imageio_mp4_is_refused_and_gif_is_written(
    tiny_folder: str, tmp_path: Path
) -> None:
    missing = "import sys; sys.modules['imageio'] = None"
    line = ["play", tiny_folder, "--video"]
    done = run_cli(*line, str(tmp_path / "out.mp4"), code=missing)
    assert done.returncode == 1
    assert "pip install 'world4rl-gym[play]'" in done.stderr
    assert run_cli(*line, str(tmp_path / "out.gif"), code=missing).returncode == 0


def test_without_aiohttp_the_page_is_refused(tiny_folder: str) -> None:
    done = run_cli("play", tiny_folder, code="import sys; sys.modules['aiohttp'] = None")
    assert done.returncode == 1
    assert "pip install 'world4rl-gym[play]'" in done.stderr


def test_doctor_tells_what_is_there_and_what_its_lack_costs() -> None:
    code = "import os; [os.environ.pop(name, None) for name in ('DISPLAY', 'WAYLAND_DISPLAY')]"
    done = run_cli("doctor", code=code)
    assert done.returncode == 0, done.stderr
    for name in ("torch", "CUDA", "bfloat16", "embedded world model", "aiohttp", "GL", "display"):
        assert f"  {name}" in done.stdout
    assert "--  display" in done.stdout
    assert "no window" in done.stdout

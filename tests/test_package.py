"""The wheel, and the embedded world model that travels in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import pytest

import world4rl_gym
from training.data.trainable import DEMONSTRATIONS
from training.envs.real_env import TASKS
from world4rl_gym import WorldModel
from world4rl_gym.episodes import load_episodes
from world4rl_gym.hub import EMBEDDED

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    built = subprocess.run([*command, str(ROOT)], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"world4rl_gym", f"world4rl_gym-{world4rl_gym.__version__}.dist-info"}
    assert "world4rl_gym/py.typed" in names
    assert "world4rl_gym/assets/world_model/model_index.json" in names
    assert {f"world4rl_gym/play/static/{n}" for n in ("index.html", "play.js", "play.css")} <= {
        *names
    }
    assert any(name.endswith("entry_points.txt") for name in names)
    assert wheel.stat().st_size < 24 * 2**20


def test_the_installed_wheel_works_offline(wheel: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(tmp_path), str(wheel)], check=True)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import gymnasium as gym, world4rl_gym\n"
        "assert world4rl_gym.__file__.startswith(sys.argv[1])\n"
        "env = gym.make('World4RL-Imagined-v0'); obs, info = env.reset(seed=0)\n"
        "print(obs.shape, env.step(env.action_space.sample())[0].dtype)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.stdout.strip() == "(64, 64, 3) uint8", ran.stderr


def test_the_embedded_model_knows_the_six_tasks_and_is_small() -> None:
    model = WorldModel.from_pretrained()
    assert set(model.config.tasks) == set(TASKS)
    assert model.config.max_episode_steps == 50
    for task in TASKS:
        assert len(model.initial_frames.select("start", [task])) >= 100
        assert len(model.initial_frames.select("anywhere", [task])) >= 120
    size = sum(p.stat().st_size for p in EMBEDDED.parent.rglob("*") if p.is_file())
    assert size <= 16 * 2**20


def test_five_demonstrations_a_task_are_shipped_with_robot_state() -> None:
    for task in TASKS:
        episodes = load_episodes(DEMONSTRATIONS, "train", [task])
        assert len(episodes) == 5
        assert all(e.state is not None and e.command is not None for e in episodes)
        assert all(e.behaviour == "expert" for e in episodes)


@pytest.mark.parametrize("task", TASKS)
def test_the_embedded_env_follows_its_actions(task: str) -> None:
    frames = []
    for action in ([1, 0, 0, 0], [-1, 0, 0, 0]):
        env = gym.make("World4RL-Imagined-v0", task=task)
        env.reset(seed=1)
        for _ in range(6):
            frame, _, terminated, truncated, info = env.step(action)
        assert not terminated
        assert not truncated
        assert not info["is_success"]
        frames.append(frame.astype(int))
    assert abs(frames[0] - frames[1]).mean() > 2  # grey levels: the arm went two ways


def test_the_readmes_rollout_runs(capsys) -> None:
    readme = (ROOT / "README.md").read_text()
    block = readme.split("## A rollout")[1].split("```python")[1].split("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("hammer ")


def test_the_readme_names_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in ("make demo", "make test", "World4RL-Imagined-v0", "results/"):
        assert command in readme
    for line in readme.splitlines():
        if "python -m training." in line:
            module = line.split("python -m training.")[1].split()[0].strip("`")
            assert (ROOT / "training" / f"{module}.py").exists(), module

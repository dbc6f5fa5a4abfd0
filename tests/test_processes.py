"""`AsyncVectorEnv` under every start method; each case in a process that may not hang."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from fresh_process import run_file, run_python

ASYNC = """
import sys
import gymnasium as gym, numpy as np, torch
import world4rl_gym

def make():
    return gym.make(world4rl_gym.ENV_ID, world_model=sys.argv[1], micro_batch_size=1)

if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.randn(700, 700) @ torch.randn(700, 700)  # starts the parent's OpenMP threads
    env = gym.vector.AsyncVectorEnv([make] * 2, context=sys.argv[2])
    frames = [env.reset(seed=0)[0]]
    for _ in range(3):
        frames.append(env.step(np.zeros((2, 3), np.float32))[0])
    env.close()
    torch.randn(700, 700) @ torch.randn(700, 700)
    reference = gym.make_vec(
        world4rl_gym.ENV_ID, 2, world_model=sys.argv[1], micro_batch_size=1
    )
    expected = [reference.reset(seed=0)[0]]
    for _ in range(3):
        expected.append(reference.step(np.zeros((2, 3), np.float32))[0])
    away = np.abs(np.array(frames).astype(int) - np.array(expected)).max()
    assert away <= 1, away
    print("done")
"""

FORK = """
import os, sys
import torch
import world4rl_gym

torch.set_num_threads(2)
torch.randn(700, 700) @ torch.randn(700, 700)
child = os.fork()
if child == 0:
    env = world4rl_gym.ImaginedEnv(sys.argv[1])  # the env's modules are first imported here
    env.reset(seed=0)
    torch.randn(700, 700) @ torch.randn(700, 700)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


@pytest.mark.parametrize("context", ["spawn", "forkserver", "fork"])
def test_E20_async_vector_env(tiny_folder: str, context: str, tmp_path: Path) -> None:
    if context != "spawn" and not sys.platform.startswith("linux"):
        pytest.skip("Linux alone")
    script = tmp_path / "script.py"  # a file, since spawn imports the main module again
    script.write_text(ASYNC)
    assert run_file(script, tiny_folder, context).endswith("done\n")


LATE = """
import sys
import gymnasium as gym, numpy as np

ID = "world4rl_gym:World4RL-Imagined-v0"  # imports the package wherever it is made

def main():
    import world4rl_gym

    make = lambda: gym.make(ID, world_model=sys.argv[1])
    if sys.argv[2] == "gymnasium":
        env = gym.vector.AsyncVectorEnv([make] * 2, context="spawn")
    else:
        from stable_baselines3.common.vec_env import SubprocVecEnv
        env = SubprocVecEnv([make] * 2, start_method="spawn")
    env.reset()
    env.step(np.zeros((2, 3), np.float32))
    env.close()
    assert gym.make_vec(ID, 2, world_model=sys.argv[1]).num_envs == 2
    print("done")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("library", ["gymnasium", "stable_baselines3"])
def test_workers_that_never_imported_the_package(
    tiny_folder: str, library: str, tmp_path: Path
) -> None:
    pytest.importorskip(library)
    script = tmp_path / "script.py"
    script.write_text(LATE)
    assert run_file(script, tiny_folder, library).endswith("done\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_E20_a_bare_fork_after_torch_was_used(tiny_folder: str) -> None:
    assert run_python(FORK, tiny_folder).endswith("done\n")

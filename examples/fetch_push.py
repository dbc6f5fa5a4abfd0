"""A robot that is not Meta-World's: Gymnasium-Robotics' FetchPush, recorded and played.

Records episodes as a folder of pictures and a table, and registers a real env of one's own. What
follows is in docs/own-data.md. Refinement does not gain on this task yet: results/log.md says why.

    pip install gymnasium-robotics
    python examples/fetch_push.py --out recordings/fetch --episodes 300
    python -m training.import_episodes --from folder recordings/fetch --out data/fetch \\
        --task fetch-push --command none --action-low -1 --action-high 1
    python -m training.evaluate_policy --task fetch-push --world-model runs/world_model \\
        --policy POLICY --real-env examples.fetch_push:FetchPushPixels-v0
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import gymnasium_robotics
import imageio.v3 as iio
import mujoco
import numpy as np

SIZE = 64
DECISIONS = 50
LEAN = (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION)
ABOVE, LOW = 0.5, 0.425
"""Heights of the gripper, in metres, over the block and beside it."""
HOME, HOMING = np.array([1.12, 0.75, 0.62]), 15
"""Where the gripper begins, and in how many steps it gets there."""
BEHIND = 0.09
"""Metres from the block to where a push begins."""


class FetchPushPixels(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """FetchPush with what a robot sees: a picture, and where its gripper is.

    `pixels` is `(64, 64, 3)` uint8; `agent_pos` `(3,)` float32, the gripper's place in metres. An
    action `(3,)` in [-1, 1] displaces it. An episode ends after 50 decisions.
    """

    def __init__(self) -> None:
        gym.register_envs(gymnasium_robotics)
        self.robot: Any = gym.make("FetchPush-v4", max_episode_steps=DECISIONS).unwrapped
        self.observation_space = gym.spaces.Dict(
            pixels=gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            agent_pos=gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._renderer: mujoco.Renderer | None = None
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = (1.33, 0.75, 0.42)
        self._camera.distance, self._camera.azimuth, self._camera.elevation = 0.8, 180.0, -75.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """Block and goal at new places, the arm out of sight; the same seed gives the same ones."""
        super().reset(seed=seed)
        self._seen, _ = self.robot.reset(seed=int(self.np_random.integers(2**31)))
        for _ in range(HOMING):
            way = np.clip(10 * (HOME - self.gripper), -1, 1)
            self._seen, *_ = self.robot.step(np.append(way, 0.0))
        self._decision = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> Any:
        """Displaces the gripper."""
        self._seen, _, _, _, info = self.robot.step(np.append(action, 0.0))
        self._decision += 1
        solved = bool(info["is_success"])
        over = self._decision >= DECISIONS
        return self._observation(), float(solved), False, over, {"is_success": solved}

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self.robot.close()

    @property
    def gripper(self) -> np.ndarray:
        """`(3,)`, metres."""
        return np.array(self._seen["observation"][:3])

    @property
    def block(self) -> np.ndarray:
        """`(3,)`, metres; the expert's secret."""
        return np.array(self._seen["achieved_goal"])

    @property
    def goal(self) -> np.ndarray:
        """`(3,)`, metres; the expert's secret."""
        return np.array(self._seen["desired_goal"])

    def _observation(self) -> dict[str, np.ndarray]:
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.robot.model, SIZE, SIZE)
        self.robot._render_callback()  # puts the goal's mark where the goal is
        self._renderer.update_scene(self.robot.data, self._camera)
        for flag in LEAN:
            self._renderer.scene.flags[flag] = 0
        return {"pixels": self._renderer.render(), "agent_pos": self.gripper.astype(np.float32)}


class Expert:
    """Goes behind the block and pushes it to the goal; blind to where it errs by `offset`."""

    def __init__(self, offset: np.ndarray, deviation: float, rng: np.random.Generator) -> None:
        self.offset, self.deviation, self.rng = offset, deviation, rng
        self.phase, self.noise = 0, np.zeros(3)

    def act(self, env: FetchPushPixels) -> np.ndarray:
        """An action in [-1, 1]."""
        block, goal, gripper = env.block + self.offset, env.goal, env.gripper
        way = (goal - block)[:2]
        far = float(np.linalg.norm(way))
        along = way / max(far, 1e-6)
        behind = block[:2] - BEHIND * along
        if self.phase == 0 and np.linalg.norm(gripper[:2] - behind) < 0.02:
            self.phase = 1
        if self.phase == 1 and gripper[2] < LOW + 0.01:
            self.phase = 2
        if self.phase < 2:
            target, strength = np.append(behind, LOW if self.phase else ABOVE), 10.0
        else:  # press on the far side of the middle, and stop at the goal
            side = (gripper - block)[:2]
            side -= along * (side @ along)
            ahead = block[:2] + along * min(far, 0.06) - 1.5 * side
            target, strength = np.append(ahead if far > 0.02 else gripper[:2], LOW), 5.0
        self.noise = 0.8 * self.noise + 0.6 * self.deviation * self.rng.standard_normal(3)
        return np.clip(strength * (target - gripper) + self.noise, -1, 1).astype(np.float32)


def record(out: Path, episodes: int, seed: int) -> float:
    """Writes episodes, a third of them without any disturbance; returns the share that succeed."""
    env, solved = FetchPushPixels(), []
    out.mkdir(parents=True)
    with open(out / "episodes.csv", "w", newline="") as file:
        table = csv.writer(file)
        names = [f"{kind}_{i}" for kind in ("action", "state") for i in range(3)]
        table.writerow(["episode", *names, "success"])
        for number in range(episodes):
            rng = np.random.default_rng([seed, number])
            shaken = number % 3 > 0
            offset = np.append(rng.normal(0, 0.01 * shaken, 2), 0.0)
            expert = Expert(offset, 0.1 * shaken, rng)
            observation, _ = env.reset(seed=seed + number)
            name, success = f"{number:04d}", False
            (out / name).mkdir()
            for decision in range(DECISIONS + 1):
                iio.imwrite(out / name / f"{decision:03d}.png", observation["pixels"])
                action = expert.act(env)
                row = [name, *action, *observation["agent_pos"], int(success)]
                table.writerow(row)
                if decision < DECISIONS:
                    observation, _, _, _, info = env.step(action)
                    success = info["is_success"]
            solved.append(success)
    env.close()
    return float(np.mean(solved))


gym.register("FetchPushPixels-v0", "examples.fetch_push:FetchPushPixels")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    if args.episodes < 1 or args.out.exists():
        parser.error("expected --episodes of at least 1, and --out that is not there yet")
    share = record(args.out, args.episodes, args.seed)
    print(f"{args.episodes} episodes, {100 * share:.0f} % of which end solved: {args.out}")


if __name__ == "__main__":
    main()

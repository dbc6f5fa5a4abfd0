"""A reward of one's own: how near an imagined frame comes to a picture of the goal.

python examples/goal_picture_reward.py

Any function of frames and tasks will do: a vision-language model that is asked whether the task is
done (World-Gymnast, arXiv 2602.02454), or, as here, the distance of the eyes' codes.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
import torch

from world4rl_gym import ENV_ID, WorldModel
from world4rl_gym.pixels import channels_first, channels_last


class GoalPicture:
    """Pays for coming near to a picture, as the eyes see it.

    Args:
        world_model: Whose eyes see.
        task: The task.
        goal: `(H, W, 3)` uint8, a frame in which it stands solved.
        near: Distance of codes that counts as success.
    """

    def __init__(self, world_model: WorldModel, task: str, goal: np.ndarray, near: float) -> None:
        self.world_model, self.near = world_model, near
        self.task_ids = np.array([world_model.task_index(task)])
        self.goal = self._code(goal[None])

    def __call__(self, frames: np.ndarray, tasks: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Frames `(B, H, W, 3)` -> rewards `(B,)`, at most 0, and success `(B,)` bool."""
        away = np.sqrt(np.square(self._code(frames) - self.goal).mean(axis=1))
        return -away, away <= self.near

    def _code(self, frames: np.ndarray) -> np.ndarray:
        shown = channels_first(torch.from_numpy(frames))
        return self.world_model.encode(shown, self.task_ids.repeat(len(frames))).numpy()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="env steps, all rows together")
    parser.add_argument("--near", type=float, default=0.05, help="distance of codes")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)

    world_model = WorldModel.from_pretrained(args.world_model)
    task = world_model.config.tasks[0]
    known = world_model.initial_frames
    last = known.select("anywhere", [task])[-1]  # from within a demonstration, where there is one
    goal = channels_last(known.frames[last]).numpy()
    reward = GoalPicture(world_model, task, goal, args.near)

    rows = 4
    env = gym.make_vec(ENV_ID, rows, world_model=world_model, task=task, reward=reward)
    env.reset(seed=0)
    env.action_space.seed(0)
    best = [env.step(env.action_space.sample())[1].max() for _ in range(max(args.steps // rows, 1))]
    env.close()
    print(f"{task}: the nearest imagined frame is {-max(best):.3f} from the goal's picture")


if __name__ == "__main__":
    main()

"""Another domain: gym-pusht's T, pushed to its place, recorded and measured.

Records episodes of a planned expert as folders of pictures and a table, and registers a real env of
one's own, in which policies are measured. The commands that follow are in results/second_domain.md.

    pip install gym-pusht "pymunk<7"
    python -m examples.pusht --out recordings/pusht --episodes 230
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gym_pusht
import gymnasium as gym
import numpy as np

from examples.recording import run

SIZE = 64
DECISIONS = 40
REACH = 12.0
"""Pixels of the table, of 512, by which an action of 1 moves where the finger is told to go."""
SOLVED = 0.75
"""Share of the goal's area that the T must cover; gym-pusht asks for .95."""


class PushTPixels(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """PushT with the T up to 100 pixels behind its goal, and turned by up to .2 rad.

    `pixels` is `(64, 64, 3)` uint8; `agent_pos` `(4,)` float32: the finger's place, and where it is
    told to go, in pixels of the table. An action `(2,)` in [-1, 1] moves the latter by up to 12. An
    episode ends after 40 decisions.
    """

    def __init__(self) -> None:
        gym.register_envs(gym_pusht)
        made = gym.make(
            "gym_pusht/PushT-v0",
            obs_type="pixels_agent_pos",
            observation_width=SIZE,
            observation_height=SIZE,
        )
        self.table: Any = made.unwrapped
        self.observation_space = gym.spaces.Dict(
            pixels=gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
            agent_pos=gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """T and finger at new places; the same seed gives the same ones."""
        super().reset(seed=seed)
        self.table.reset(seed=0)
        x, y, angle = self.table.goal_pose
        back, aside, turn = self.np_random.uniform((60, -10, -0.2), (100, 10, 0.2))
        forward, right = directions(angle)
        block = np.array([x, y]) - back * forward + aside * right
        finger = block - 60 * forward + self.np_random.uniform(-15, 15, 2)
        self.place(finger, np.zeros(2), block, angle + turn)
        self.target, self._decision = finger, 0
        return self._observation(), {}

    def place(
        self, finger: np.ndarray, velocity: np.ndarray, block: np.ndarray, angle: float
    ) -> None:
        """Puts finger and T somewhere."""
        self.table.agent.position, self.table.agent.velocity = tuple(finger), tuple(velocity)
        self.table.block.angle, self.table.block.position = float(angle), tuple(block)
        self.table.space.reindex_shapes_for_body(self.table.block)
        self.table.space.reindex_shapes_for_body(self.table.agent)

    def step(self, action: np.ndarray) -> Any:
        """Moves where the finger is told to go; the finger follows within a fifth of a second."""
        self.target = np.clip(self.target + REACH * np.clip(action, -1, 1), 15, 497)
        _, _, _, _, info = self.table.step(self.target)
        self._decision += 1
        solved = bool(info["coverage"] > SOLVED)
        over = self._decision >= DECISIONS
        return self._observation(), float(solved), False, over, {"is_success": solved}

    def close(self) -> None:
        """Frees the table."""
        self.table.close()

    def _observation(self) -> dict[str, np.ndarray]:
        seen = self.table.get_obs()
        agent = np.append(seen["agent_pos"], self.target).astype(np.float32)
        return {"pixels": seen["pixels"], "agent_pos": agent}


def directions(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along the T's stem and along its bar, `(2,)` each."""
    return (
        np.array([-np.sin(angle), np.cos(angle)]),
        np.array([np.cos(angle), np.sin(angle)]),
    )


class Planner:
    """Plans one push in a table of its own, and carries it out.

    A push is where along the bar the finger touches, in which direction it goes, and how far. The
    cross-entropy method finds it; then it is off by a little, in two of three episodes.
    """

    spread = np.array([15.0, 0.2, 20.0])
    """Deviations of the first candidates: pixels along the bar, radians, pixels of way."""

    def __init__(self, rng: np.random.Generator, number: int) -> None:
        self.rng, self.number = rng, number
        self.plan: list[np.ndarray] = []

    def act(self, env: PushTPixels) -> np.ndarray:
        """An action in [-1, 1]."""
        if not self.plan:
            push = self.planned(env)
            push += self.rng.normal(0, 0.4, 3) * self.spread * (self.number % 3 > 0)
            self.plan = self.way(env, push)[::-1]
        goal = self.plan.pop() if len(self.plan) > 1 else self.plan[0]
        return np.clip((goal - env.target) / REACH, -1, 1).astype(np.float32)

    def planned(self, env: PushTPixels) -> np.ndarray:
        """`(3,)`, the best push found."""
        model, goal = PushTPixels(), env.table.goal_pose[:2]
        model.table.reset(seed=0)
        forward, right = directions(env.table.block.angle)
        off = goal - np.array(env.table.block.position)
        mean = np.array([0.0, np.arctan2(off @ -right, off @ forward), off @ forward])
        spread = self.spread.copy()
        for _ in range(4):
            pushes = mean + spread * self.rng.standard_normal((24, 3))
            costs = [self.cost(model, env, push) for push in pushes]
            best = pushes[np.argsort(costs)[:6]]
            mean, spread = best.mean(0), best.std(0) + 1e-3
        model.close()
        return mean

    def cost(self, model: PushTPixels, env: PushTPixels, push: np.ndarray) -> float:
        """Pixels from the goal, and 40 a radian, after the push."""
        agent, block = env.table.agent, env.table.block
        model.place(agent.position, agent.velocity, block.position, block.angle)
        table, target = model.table, env.target
        for goal in [*self.way(env, push), None, None]:
            if goal is not None:
                target = target + REACH * np.clip((goal - target) / REACH, -1, 1)
            for _ in range(10):
                place, speed = np.array(table.agent.position), np.array(table.agent.velocity)
                pull = table.k_p * (target - place) - table.k_v * speed
                table.agent.velocity = tuple(speed + pull * table.dt)
                table.space.step(table.dt)
        x, y, angle = env.table.goal_pose
        off = np.hypot(*(np.array(table.block.position) - (x, y)))
        return float(off + 40 * abs(table.block.angle - angle))

    def way(self, env: PushTPixels, push: np.ndarray) -> list[np.ndarray]:
        """Where the finger is told to go, a decision each."""
        touch, direction, far = push
        forward, right = directions(env.table.block.angle)
        begin = np.array(env.table.block.position) + touch * right - 30 * forward
        heading = np.cos(direction) * forward - np.sin(direction) * right
        end = begin + (far + 15) * heading
        points = []
        for a, b in ((env.target, begin), (begin, end)):
            steps = max(1, int(np.ceil(np.abs(b - a).max() / REACH)))
            points += [a + (b - a) * (i + 1) / steps for i in range(steps)]
        return points


gym.register("PushTPixels-v0", "examples.pusht:PushTPixels")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    run(__doc__, arguments, PushTPixels, Planner, DECISIONS, command_size=2)


if __name__ == "__main__":
    main()

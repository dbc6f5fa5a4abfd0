"""Episodes of feature policies, of their plans, and of perturbed replays, done in reality."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.episodes import Episode
from training.features_policy import Act
from training.own_env import AnyEnv
from training.real_env import RealEnv
from world4rl_gym.features import MemoryFeatures
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel

GAIN = (0.97, 1.03)
BIASES = (0.0, 0.01, 0.03)
DEVIATIONS = (0.01, 0.04, 0.1)
PERSISTENCES = (0.5, 0.9, 0.98)
"""How a replay perturbs what it repeats; one of each is drawn an episode."""


def make_real_env(task: str, draw_all: bool = False) -> RealEnv:
    """The twin, played past success; only the first frame of an episode is drawn unless asked."""
    return RealEnv(
        task,
        terminate_on_success=False,
        obs_type="pixels_agent_pos",
        drawn="all" if draw_all else "first",
    )


def play(env: AnyEnv, seed: int, policy: str, act: Act, world_model: WorldModel) -> Episode:
    """One episode of a policy on features, over the whole horizon; `policy` is its name."""
    seen = MemoryFeatures(env, world_model, env.task)
    observation, _ = seen.reset(seed=seed)
    recorder = _Recorder(env)
    for _ in range(env.max_episode_steps):
        action = act(observation[None])[0]
        observation, _, _, _, info = seen.step(action)
        recorder.add(action, info["is_success"])
    return recorder.episode(seed, "policy", policy)


def replay(
    env: AnyEnv, seed: int, behaviour: str, actions: np.ndarray, policy: str = ""
) -> Episode:
    """One episode of given actions `(T, A)`, whatever happens."""
    env.reset(seed=seed)
    recorder = _Recorder(env)
    for action in actions:
        _, _, _, _, info = env.step(action)
        recorder.add(action, info["is_success"])
    return recorder.episode(seed, behaviour, policy)


def perturbed(actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Recorded actions `(T, A)` with a gain, a bias and noise that persists, clipped."""
    deviation, persistence = rng.choice(DEVIATIONS), rng.choice(PERSISTENCES)
    size = actions.shape[1]
    bias = rng.normal(0, rng.choice(BIASES), size)
    gain = rng.uniform(*GAIN)
    noise = np.zeros(size)
    rows = []
    for action in actions:
        fresh = rng.standard_normal(size) * deviation
        noise = persistence * noise + np.sqrt(1 - persistence**2) * fresh
        rows.append(np.clip(action * gain + bias + noise, -1, 1))
    return np.stack(rows).astype(np.float32)


def real_starts(env: AnyEnv, seeds: Sequence[int]) -> InitialFrames:
    """The first frames, states and commands of real start configurations."""
    frames, states, commands = [], [], []
    for seed in seeds:
        env.reset(seed=seed)
        frames.append(env.render())
        states.append(env.state)
        commands.append(env.command)
    return InitialFrames.from_starts(
        np.stack(frames), env.task, np.stack(states), np.stack(commands)
    )


class _Recorder:
    """Collects an episode step by step; begins at the env's present first frame."""

    def __init__(self, env: AnyEnv) -> None:
        self.env = env
        self.frames = [env.render()]
        self.states, self.commands = [env.state], [env.command]
        self.actions: list[np.ndarray] = []
        self.success: list[bool] = []

    def add(self, action: np.ndarray, success: bool) -> None:
        """Notes a decision that was just taken."""
        self.actions.append(np.asarray(action, np.float32))
        self.success.append(success)
        self.states.append(self.env.state)
        self.commands.append(self.env.command)
        if self.env.drawn == "all":
            self.frames.append(self.env.render())

    def episode(self, seed: int, behaviour: str, policy: str) -> Episode:
        """What was collected."""
        return Episode(
            np.stack(self.frames),
            np.stack(self.actions),
            np.array(self.success),
            self.env.task,
            behaviour,
            seed,
            self.env.action_repeat,
            np.stack(self.states),
            np.stack(self.commands),
            policy,
        )


def outcomes(episodes: Sequence[Episode]) -> np.ndarray:
    """Whether each episode solved its task, `(N,)` bool."""
    return np.array([episode.solved for episode in episodes])


def actions_of(episodes: Sequence[Episode]) -> torch.Tensor:
    """All episodes' actions, `(N, T, A)`."""
    return torch.from_numpy(np.stack([episode.actions for episode in episodes]))

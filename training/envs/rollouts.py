"""Episodes of policies, of their plans, and of perturbed replays, done in reality."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from scipy.signal import lfilter
from tqdm import tqdm

from training.envs.own_env import AnyEnv, make_own_env
from training.envs.real_env import TASKS, RealEnv, require_real_env
from world4rl_gym.episodes import Episode
from world4rl_gym.faces import observe
from world4rl_gym.features import MemoryFeatures
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel

GAIN = (0.97, 1.03)
BIASES = (0.0, 0.01, 0.03)
DEVIATIONS = (0.01, 0.04, 0.1)
PERSISTENCES = (0.5, 0.9, 0.98)
"""How a replay perturbs what it repeats; one of each is drawn an episode."""
PERSISTENCE = 0.8
"""Share of the noise on a policy that is left after a decision."""


def make_real_env(task: str, draw_all: bool = False) -> RealEnv:
    """Meta-World, played past success; only the first frame of an episode is drawn unless asked."""
    return RealEnv(
        task,
        terminate_on_success=False,
        obs_type="pixels_agent_pos",
        drawn="all" if draw_all else "first",
    )


def find_env(task: str, world_model: WorldModel, own: str | None, twin: bool) -> AnyEnv | None:
    """The real env of a task, if there is one.

    Args:
        task: The task.
        world_model: Whose sizes and units an env of one's own has.
        own: `module:id` of a Gymnasium env of one's own; None has none.
        twin: Whether Meta-World, else, is the real env of its tasks.

    Raises:
        OwnEnvError: One's own cannot be made, or does not fit the world model.
        RealEnvUnavailableError: Meta-World or GL is missing.
    """
    if own is not None:
        return make_own_env(own, world_model, task)
    if twin and task in TASKS:
        require_real_env()
        return make_real_env(task)
    return None


class Actor(Protocol):
    """What acts: a `Policy`, or one that is `Disturbed`."""

    @property
    def obs_type(self) -> str:
        """What it sees."""

    def act(self, observation: Any) -> np.ndarray:
        """A batch of observations to actions `(B, A)` float32 in [-1, 1]."""


class PersistentNoise:
    """Noise of which the share `PERSISTENCE` is left from one decision to the next.

    Args:
        deviation: Of the noise.
        seed: Of the noise.
    """

    def __init__(self, deviation: float, seed: int) -> None:
        self._deviation = deviation
        self._rng = np.random.default_rng(seed)
        self._noise: np.ndarray | float = 0.0

    def added_to(self, actions: np.ndarray) -> np.ndarray:
        """A decision's actions `(B, A)` and the noise, float32, clipped to [-1, 1]."""
        fresh = self._rng.standard_normal(actions.shape) * self._deviation
        self._noise = PERSISTENCE * self._noise + math.sqrt(1 - PERSISTENCE**2) * fresh
        return np.clip(actions + self._noise, -1, 1).astype(np.float32)


class Disturbed:
    """A policy with `PersistentNoise` on what it does.

    Args:
        actor: The policy.
        deviation: Of the noise.
        seed: Of the noise.
    """

    def __init__(self, actor: Actor, deviation: float, seed: int) -> None:
        self._actor, self._noise = actor, PersistentNoise(deviation, seed)

    @property
    def obs_type(self) -> str:
        """What the policy sees."""
        return self._actor.obs_type

    def act(self, observation: Any) -> np.ndarray:
        """The policy's actions and the noise, clipped."""
        return self._noise.added_to(self._actor.act(observation))


def plan(
    actor: Actor, world_model: WorldModel, starts: InitialFrames
) -> tuple[np.ndarray, np.ndarray]:
    """What a policy does in imagination from N starts, over whole episodes, also past a success.

    Returns:
        Actions `(N, T, A)` float32, and whether success was imagined, `(N,)` bool.
    """
    imagination = Imagination(len(starts), world_model, initial_frames=starts)
    imagination.reset(initial_frame=np.arange(len(starts)))
    actions, best = [], np.zeros(imagination.num_envs)
    for _ in range(imagination.max_episode_steps):
        action = actor.act(observe(imagination, actor.obs_type))
        result = imagination.step(action)
        actions.append(action)
        best = np.maximum(best, result.success_probability.cpu().numpy())
    return np.stack(actions, axis=1), best >= imagination.success_threshold


def play(env: AnyEnv, seed: int, name: str, actor: Actor, world_model: WorldModel) -> Episode:
    """One episode of a policy, over the whole horizon; its record calls the policy `name`.

    All frames are drawn for a policy that looks at them, whatever `env.drawn` says.
    """
    drawn = env.drawn
    seen = observed(env, actor.obs_type, world_model)
    try:
        return record(
            env, seed, "policy", lambda now, _: actor.act(_batch(now))[0], policy=name, seen=seen
        )
    finally:
        env.drawn = drawn


def observed(env: AnyEnv, obs_type: str, world_model: WorldModel) -> gym.Env[Any, Any]:
    """The real env with the observations that a policy of `obs_type` takes."""
    if obs_type == "features":
        return MemoryFeatures(env, world_model, env.task)
    env.drawn = "all"
    if obs_type == "pixels_agent_pos":
        return env
    assert isinstance(env.observation_space, gym.spaces.Dict)
    return gym.wrappers.TransformObservation(
        env, lambda observation: observation["pixels"], env.observation_space["pixels"]
    )


def _batch(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: values[None] for name, values in observation.items()}
    return observation[None]


def record(
    env: AnyEnv,
    seed: int,
    behaviour: str,
    act: Callable[[Any, int], np.ndarray],
    decisions: int | None = None,
    policy: str = "",
    seen: gym.Env[Any, Any] | None = None,
) -> Episode:
    """One episode of what `act` does at each decision, past success.

    Args:
        env: The real env, whose frames, states and commands are kept.
        seed: Of its start.
        behaviour: What the record calls it.
        act: Observation and number of the decision -> action `(A,)` in [-1, 1].
        decisions: How many; None is the env's horizon.
        policy: Name of the policy, if any.
        seen: The same env with the observations that `act` takes; None is `env`.
    """
    seen = env if seen is None else seen
    observation, _ = seen.reset(seed=seed)
    frames, states, commands = [env.render()], [env.state], [env.command]
    actions, success = [], []
    for decision in range(env.max_episode_steps if decisions is None else decisions):
        action = act(observation, decision)
        observation, _, _, _, info = seen.step(action)
        actions.append(np.asarray(action, np.float32))
        success.append(info["is_success"])
        states.append(env.state)
        commands.append(env.command)
        if env.drawn == "all":
            frames.append(env.render())
    state, command = np.stack(states), np.stack(commands)
    return Episode(
        np.stack(frames),
        np.stack(actions),
        np.array(success),
        env.task,
        behaviour,
        seed,
        env.action_repeat,
        state if state.shape[1] else None,
        command if command.shape[1] else None,
        policy,
    )


def replay(
    env: AnyEnv, seed: int, behaviour: str, actions: np.ndarray, policy: str = ""
) -> Episode:
    """One episode of given actions `(T, A)`, whatever happens."""
    return record(env, seed, behaviour, lambda _, t: actions[t], len(actions), policy)


def perturbed(actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Recorded actions `(T, A)` with a gain, a bias and noise that persists, clipped."""
    deviation, persistence = rng.choice(DEVIATIONS), rng.choice(PERSISTENCES)
    bias = rng.normal(0, rng.choice(BIASES), actions.shape[1])
    gain = rng.uniform(*GAIN)
    fresh = rng.standard_normal(actions.shape) * deviation
    noise = lfilter([np.sqrt(1 - persistence**2)], [1, -persistence], fresh, axis=0)
    return np.clip(actions * gain + bias + noise, -1, 1).astype(np.float32)


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


def real_outcomes(
    env: AnyEnv,
    actor: Actor,
    world_model: WorldModel,
    seeds: Sequence[int],
    name: str = "real",
) -> np.ndarray:
    """Whether a policy succeeds from each start in the real env, `(N,)` bool."""
    played = real_episodes(env, actor, world_model, seeds, name)
    return np.array([episode.solved for episode in played])


def real_episodes(
    env: AnyEnv,
    actor: Actor,
    world_model: WorldModel,
    seeds: Sequence[int],
    name: str = "real",
) -> Iterator[Episode]:
    """Plays a policy from each start in the real env, one by one; records call it `name`."""
    for seed in tqdm(seeds, unit="episode", desc=name, mininterval=1.0):
        yield play(env, seed, name, actor, world_model)


def imagined_outcomes(actor: Actor, world_model: WorldModel, starts: InitialFrames) -> np.ndarray:
    """Whether a policy succeeds from each of these starts in imagination, `(N,)` bool."""
    return plan(actor, world_model, starts)[1]

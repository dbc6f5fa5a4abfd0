"""Refines policies by SB3's PPO, in a frozen world model or in the real env, and judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from tqdm import tqdm

from training.envs.real_env import RealEnv, require_real_env, split_seeds
from training.envs.rollouts import Actor, observed
from training.policies.ppo import CRITIC_STEPS, UnitActions, learn_critic, make_ppo, policy_of
from world4rl_gym.faces import observe
from world4rl_gym.features import feature_size
from world4rl_gym.imagination import Imagination
from world4rl_gym.policy import Policy
from world4rl_gym.sb3 import ImaginedVecEnv
from world4rl_gym.world_model import WorldModel

ENOUGH = 0.995
"""Judged success at which PPO stops: with nothing left to gain it only drifts."""
PROGRESS = 1.0
"""What progress from `LEAST_CHANCE` to an even chance of success pays."""
LEAST_CHANCE = 1e-4
STEPS = 800_000
"""Env steps of PPO at most: with half as many, weak clones of lever-pull reach .80, not .96."""
CODE_NOISE, STATE_NOISE = 0.1, 0.05
"""Of `RandomisedFeatures`."""
REAL_STEPS = 100_000
"""The same in the real env, which is slower by far."""
REAL_ROWS = 4
IMAGINED_ROWS = 64


class _TrainStarts(gym.Wrapper[Any, Any, Any, Any]):
    """Begins every episode at a start configuration of the training split."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._rng = np.random.default_rng(seed)

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Draws one of the million training seeds."""
        seed = split_seeds("train", 1, int(self._rng.integers(400_000, 1_000_000)))[0]
        return self.env.reset(seed=seed)


class ChangedReward(VecEnvWrapper):
    """Passes on all but the reward, which `pay` gives."""

    def reset(self) -> Any:
        """Passes on."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Passes on, with what `pay` gives."""
        observation, reward, done, infos = self.venv.step_wait()
        return observation, self.pay(reward, done, infos), done, infos

    def pay(self, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """What a step of B rows earns, `(B,)` float32.

        Args:
            reward: `(B,)`, what the env gave.
            done: `(B,)` bool, where an episode has ended.
            infos: Of the rows.
        """
        raise NotImplementedError


class ProgressReward(ChangedReward):
    """Pays for success that the memory's members agree on, and for coming nearer to it.

    What counts is the present mean probability less the uncertainty. Added to success is what the
    best of an episode so far rose by, in log-odds from `LEAST_CHANCE` to one half. Paid for the
    mean alone, PPO looks for what one member is wrong about; paid for success alone, it finds too
    little from a weak clone.
    """

    def reset(self) -> Any:
        """Passes on; a new episode has made no progress."""
        self._best = np.zeros(self.num_envs)
        return super().reset()

    def pay(self, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """Success where it is believed, and progress."""
        chance = np.array([i["success_probability"] - i["uncertainty"] for i in infos])
        believed = reward * (chance >= 0.5)
        chance = np.clip(chance, LEAST_CHANCE, 0.5)
        progress = 1 - np.log(chance / (1 - chance)) / np.log(LEAST_CHANCE / (1 - LEAST_CHANCE))
        best = np.maximum(self._best, progress)
        paid = believed + PROGRESS * (best - self._best)
        self._best = np.where(done, 0.0, best)
        return paid.astype(np.float32)


class RandomisedFeatures(VecEnvWrapper):
    """Adds to what a policy sees an offset that is drawn for each episode (domain randomisation).

    The eyes are not exact, and a policy that succeeds by a hair in the memory may fail in reality.
    The offset's deviation is `CODE_NOISE` in the code and `STATE_NOISE` in the robot's state, in
    the units of features; the lag stays exact.
    """

    def __init__(self, env: VecEnv, world_model: WorldModel, seed: int) -> None:
        super().__init__(env)
        self._rng = np.random.default_rng(seed)
        self._deviation = np.zeros(feature_size(world_model), np.float32)
        self._deviation[: world_model.state_size] = STATE_NOISE
        self._deviation[-world_model.code_size - 2 : -2] = CODE_NOISE
        self._offset = np.zeros((env.num_envs, len(self._deviation)), np.float32)

    def reset(self) -> Any:
        """Passes on, with new offsets."""
        seen = self.venv.reset()
        assert isinstance(seen, np.ndarray)
        self._draw(np.ones(self.num_envs, bool))
        return seen + self._offset

    def step_wait(self) -> Any:
        """Passes on all but what is seen."""
        seen, reward, done, infos = self.venv.step_wait()
        assert isinstance(seen, np.ndarray)
        for row in np.flatnonzero(done):
            infos[row]["terminal_observation"] = (
                infos[row]["terminal_observation"] + self._offset[row]
            )
        self._draw(done)
        return seen + self._offset, reward, done, infos

    def _draw(self, rows: np.ndarray) -> None:
        drawn = self._rng.standard_normal((int(rows.sum()), len(self._deviation)))
        self._offset[rows] = drawn * self._deviation


class ZeroReward(ChangedReward):
    """Pays nothing, whatever happens: what PPO does of itself."""

    def pay(self, reward: np.ndarray, done: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """Nothing."""
        return np.zeros_like(reward)


def imagined_env(
    world_model: WorldModel,
    task: str,
    seed: int,
    rows: int = IMAGINED_ROWS,
    obs_type: str = "features",
    **options: Any,
) -> VecEnv:
    """Rows of the imagined env, for SB3; `options` are more of `ImaginedEnv`'s arguments."""
    env = ImaginedVecEnv(rows, world_model=world_model, task=task, obs_type=obs_type, **options)
    env.seed(seed)
    return UnitActions(env, world_model)


def practice_env(
    world_model: WorldModel,
    task: str,
    seed: int,
    obs_type: str = "features",
    progress: bool = True,
    **options: Any,
) -> VecEnv:
    """`imagined_env` as PPO practises in it: paid for progress, if so, and features randomised."""
    env = imagined_env(world_model, task, seed, obs_type=obs_type, **options)
    env = ProgressReward(env) if progress else env
    return RandomisedFeatures(env, world_model, seed) if obs_type == "features" else env


def real_env(
    world_model: WorldModel,
    task: str,
    seed: int,
    rows: int = REAL_ROWS,
    obs_type: str = "features",
) -> VecEnv:
    """Rows of the real env, for SB3, all in this process; on features behind `MemoryFeatures`."""
    require_real_env()

    def maker(row: int) -> Callable[[], gym.Env[Any, Any]]:
        def make() -> gym.Env[Any, Any]:
            env = RealEnv(task, obs_type="pixels_agent_pos", drawn="first")
            return _TrainStarts(observed(env, obs_type, world_model), seed * 1000 + row)

        return make

    return DummyVecEnv([maker(row) for row in range(rows)])


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a refinement stood.

    Attributes:
        steps: Env steps so far.
        judged: Share of starts from which the mean action succeeds by the least favourable member
            of the memory; NaN where nothing judged.
    """

    steps: int
    judged: float


class _Progress(BaseCallback):
    """A bar of steps with the share of the last episodes that succeeded; judges now and then."""

    def __init__(
        self,
        steps: int,
        name: str,
        begun: Policy,
        judge: Callable[[Policy], float] | None,
        every: int,
        enough: float,
    ) -> None:
        super().__init__()
        self._begun, self._enough = begun, enough
        self._bar = tqdm(total=steps, unit="step", desc=name, mininterval=1.0)
        self._ended: list[bool] = []
        self._judge, self._every = judge, every
        self.curve: list[Point] = []
        self.best: Policy | None = None

    def consider(self) -> None:
        """Judges the present policy, and keeps it where none before was as good."""
        if self._judge is None or self._is_done():
            return
        policy = policy_of(self.model, self._begun)  # type: ignore[arg-type]
        judged = self._judge(policy)
        if not self.curve or judged > max(point.judged for point in self.curve):
            self.best = policy
        self.curve.append(Point(self.num_timesteps, judged))

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            if done:
                self._ended.append(not info["TimeLimit.truncated"])
        self._bar.update(self.training_env.num_envs)
        if self._ended:
            self._bar.set_postfix(success=f"{np.mean(self._ended[-200:]):.2f}", refresh=False)
        return not self._is_done()

    def _is_done(self) -> bool:
        return bool(self.curve) and self.curve[-1].judged >= self._enough

    def _on_rollout_start(self) -> None:
        if self.num_timesteps // self._every >= len(self.curve):
            self.consider()

    def _on_training_end(self) -> None:
        self.consider()
        self._bar.close()


@dataclasses.dataclass(frozen=True)
class Refined:
    """What a refinement gave.

    Attributes:
        policy: The one to use: the best judged, the clone where none was better; the last where
            nothing judged.
        curve: How it was judged on the way, the clone first.
    """

    policy: Policy
    curve: list[Point]


def refine(
    policy: Policy,
    env: VecEnv,
    steps: int,
    seed: int,
    name: str = "PPO",
    judge: Callable[[Policy], float] | None = None,
    judge_every: int = 16_000,
    critic_steps: int = CRITIC_STEPS,
    enough: float = ENOUGH,
) -> Refined:
    """Refines a copy of the policy.

    Args:
        policy: The clone; it is not changed.
        env: Rows of the observations that the policy takes.
        steps: Env steps.
        seed: Of PPO.
        name: Of the progress bar.
        judge: Success of a policy, by which the best is kept; None keeps the last.
        judge_every: Env steps between two judgements.
        critic_steps: Env steps before those, in which the critic learns alone; as many as `steps`
            at most.
        enough: Judged success at which PPO stops.
    """
    ppo = make_ppo(policy, env, seed)
    learn_critic(ppo, min(critic_steps, steps))
    progress = _Progress(steps, name, policy, judge, judge_every, enough)
    ppo.learn(steps, callback=progress)  # counts its steps from 0 again
    return Refined(progress.best or policy_of(ppo, policy), progress.curve)


def chosen(judged: Sequence[float]) -> int:
    """The point that refinement would hand out: the best up to the first that is enough."""
    enough = [index for index, value in enumerate(judged) if value >= ENOUGH]
    return int(np.argmax(judged[: enough[0] + 1] if enough else judged))


def make_judge(world_model: WorldModel, task: str) -> Callable[[Actor], float]:
    """Judges policies from all of the world model's starts, by its least favourable member."""
    count = len(Imagination(1, world_model, task=task).starts.candidates)
    imagination = Imagination(count, world_model, task=task)
    starts = imagination.starts.candidates

    def judge(policy: Actor) -> float:
        imagination.reset(initial_frame=starts)
        least = np.zeros(count)
        for _ in range(imagination.max_episode_steps):
            imagination.step(policy.act(observe(imagination, policy.obs_type)))
            worst = imagination.memory.logit.amin(dim=1).sigmoid().cpu().numpy()
            least = np.maximum(least, worst)
        return float((least >= imagination.success_threshold).mean())

    return judge


def refine_imagined(
    policy: Policy,
    world_model: WorldModel,
    task: str,
    steps: int,
    seed: int,
    name: str = "PPO",
) -> Refined:
    """Refines a copy of the policy in the world model: paid for progress, judged on the way.

    Args:
        policy: The clone; it is not changed.
        world_model: Where it acts.
        task: The task.
        steps: Env steps at most.
        seed: Of PPO and of the starts.
        name: Of the progress bar.
    """
    rows = practice_env(world_model, task, seed, obs_type=policy.obs_type)
    try:
        return refine(policy, rows, steps, seed, name, make_judge(world_model, task))
    finally:
        rows.close()

"""Policies on features: an MLP of Stable-Baselines3, cloned, refined by its PPO, and played.

The same policy acts in imagination (`obs_type="features"`) and on a real env behind
`MemoryFeatures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from training.episodes import Episode
from training.sequences import Sequences, make_sequences
from world4rl_gym.components import CONFIG_FILE, WEIGHTS_FILE
from world4rl_gym.features import features
from world4rl_gym.imagination import Imagination
from world4rl_gym.memory import TaskMemory
from world4rl_gym.reading import StrictFolder
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import replaced_folder, write_json, write_tensors

HIDDEN = (256, 256)
DEVIATION = 0.25
"""Of a new policy's actions: small, for it begins as a clone."""
ROLLOUT_STEPS = 3200
"""Env steps between two updates of PPO, over all rows."""
CRITIC_STEPS = 16_000
"""Env steps in which the critic learns before the policy does."""

Act = Callable[[np.ndarray], np.ndarray]
"""Features `(B, F)` float32 -> actions `(B, A)` float32 in [-1, 1]."""


def policy_arguments() -> dict[str, object]:
    """The `policy_kwargs` with which SB3 builds the same network as `make_policy`."""
    return {"net_arch": list(HIDDEN), "log_std_init": math.log(DEVIATION)}


def make_policy(feature_size: int, action_size: int, seed: int = 0) -> ActorCriticPolicy:
    """Builds an untrained policy."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = ActorCriticPolicy(
            gym.spaces.Box(-np.inf, np.inf, (feature_size,), np.float32),
            gym.spaces.Box(-1.0, 1.0, (action_size,), np.float32),
            lambda _: 1e-4,
            **policy_arguments(),  # type: ignore[arg-type]
        )
    return policy.float()  # whatever torch's default dtype is


def features_of(
    memory: TaskMemory, sequences: Sequences, horizon: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What was seen and done at every decision: `(N, F)` and `(N, A)` float32.

    Args:
        memory: The task's, for the scale of each number.
        sequences: Recorded episodes.
        horizon: Decisions that count as time 1.
    """
    seen, done = [], []
    last = sequences.state[:, 0]
    for t in range(sequences.actions.shape[1]):
        state = sequences.state[:, t]
        inside = sequences.mask[:, t].bool()
        at_t = features(
            memory.state_origin,
            memory.state_step,
            sequences.first_code,
            state,
            state - last,
            sequences.command[:, t],
            torch.full((len(state),), t / horizon),
        )
        seen.append(at_t[inside])
        done.append(sequences.actions[:, t][inside])
        last = state
    return torch.cat(seen), torch.cat(done)


def clone(
    policy: ActorCriticPolicy,
    seen: torch.Tensor,
    done: torch.Tensor,
    steps: int = 4000,
    learning_rate: float = 1e-3,
    noise: float = 0.03,
    seed: int = 0,
) -> None:
    """Fits a policy's mean action, in place, to what was done; mean absolute error.

    Args:
        policy: The policy.
        seen: `(N, F)` features.
        done: `(N, A)` actions.
        steps: Steps of AdamW, 256 decisions each, decayed to zero by a cosine.
        learning_rate: AdamW's.
        noise: Deviation added to each feature, as a share of its own.
        seed: Seed of batches and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    actor = [
        p for name, p in policy.named_parameters() if "value" not in name and name != "log_std"
    ]
    optimizer = torch.optim.AdamW(actor, lr=learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scale = noise * seen.std(dim=0)
    for _ in range(steps):
        rows = torch.randint(len(seen), (256,), generator=generator)
        blurred = seen[rows] + scale * torch.randn(256, seen.shape[1], generator=generator)
        action = policy.action_net(policy.mlp_extractor.forward_actor(blurred))
        loss = (action - done[rows]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def clone_episodes(
    episodes: Sequence[Episode], world_model: WorldModel, steps: int = 4000, seed: int = 0
) -> ActorCriticPolicy:
    """Clones demonstrations of one task, all in all.

    Args:
        episodes: The demonstrations.
        world_model: For the features of what was seen.
        steps: Gradient steps.
        seed: Seed of the network, of batches and of noise.
    """
    task = episodes[0].task
    seen, done = features_of(
        world_model.task_memory(task),
        make_sequences(episodes, world_model.task_eyes(task)),
        world_model.config.max_episode_steps,
    )
    policy = make_policy(seen.shape[1], done.shape[1], seed)
    clone(policy, seen, done, steps, seed=seed)
    return policy


def make_ppo(policy: ActorCriticPolicy, env: VecEnv, seed: int) -> PPO:
    """SB3's PPO as it comes, with rollouts of `ROLLOUT_STEPS`, on a copy of `policy`."""
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=max(1, ROLLOUT_STEPS // env.num_envs),
        batch_size=400,
        n_epochs=4,
        learning_rate=1e-4,
        gamma=0.999,
        target_kl=0.05,
        seed=seed,
        device="cpu",
        policy_kwargs=policy_arguments(),
    )
    model.policy.load_state_dict(policy.state_dict())
    return model


class UnitActions(VecEnvWrapper):
    """Takes actions in [-1, 1], as policies on features give them, whatever the robot's units.

    Args:
        env: Rows of the imagined env.
        world_model: Whose units they have.
    """

    def __init__(self, env: VecEnv, world_model: WorldModel) -> None:
        space = gym.spaces.Box(-1.0, 1.0, (world_model.action_size,), np.float32)
        super().__init__(env, action_space=space)
        self._unscale = world_model.unscale_actions

    def reset(self) -> Any:
        """Passes on."""
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        """Takes `(num_envs, A)` in [-1, 1]."""
        self.venv.step_async(self._unscale(actions))

    def step_wait(self) -> Any:
        """Passes on."""
        return self.venv.step_wait()


def learn_critic(ppo: PPO, steps: int) -> None:
    """Trains the critic alone, for so many env steps: a clone comes without one.

    With a critic that knows nothing, PPO's first updates lead a strong clone astray.
    """
    actor = [p for name, p in ppo.policy.named_parameters() if "value" not in name]
    for parameter in actor:
        parameter.requires_grad_(False)
    ppo.learn(steps)
    for parameter in actor:
        parameter.requires_grad_(True)


def mean_actions(policy: ActorCriticPolicy) -> Act:
    """The policy's mean action, clipped."""

    def act(seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            hidden = policy.mlp_extractor.forward_actor(torch.from_numpy(seen))
            actions = policy.action_net(hidden).numpy()
        return np.clip(actions, -1, 1)

    return act


def disturbed(act: Act, deviation: float, persistence: float, seed: int) -> Act:
    """Adds noise that persists: `rho` of it is left after a decision."""
    rng = np.random.default_rng(seed)
    noise: np.ndarray | None = None

    def noisy(seen: np.ndarray) -> np.ndarray:
        nonlocal noise
        mean = act(seen)
        fresh = rng.standard_normal(mean.shape) * deviation
        kept = np.zeros_like(fresh) if noise is None else noise
        noise = persistence * kept + math.sqrt(1 - persistence**2) * fresh
        return np.clip(mean + noise, -1, 1).astype(np.float32)

    return noisy if deviation else act


def plan(
    imagination: Imagination, act: Act, initial_frame: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What a policy does in imagination over a whole episode, also past a success.

    Args:
        imagination: Of B rows.
        act: The policy.
        initial_frame: Where each row begins.

    Returns:
        Actions `(B, T, A)` float32, and whether each row's success was imagined, `(B,)` bool.
    """
    imagination.reset(initial_frame=initial_frame)
    actions, best = [], np.zeros(imagination.num_envs)
    for _ in range(imagination.max_episode_steps):
        action = act(imagination.features.cpu().numpy())
        result = imagination.step(action)
        actions.append(action)
        best = np.maximum(best, result.success_probability.cpu().numpy())
    return np.stack(actions, axis=1), best >= imagination.success_threshold


def save_policy(policy: ActorCriticPolicy, folder: Path) -> None:
    """Writes a policy's folder, whole or not at all.

    Raises:
        WorldModelError: It cannot be written, or could not be loaded again.
    """
    sizes = {
        "feature_size": policy.observation_space.shape[0],  # type: ignore[index]
        "action_size": policy.action_space.shape[0],  # type: ignore[index]
    }
    with replaced_folder(folder, (CONFIG_FILE, WEIGHTS_FILE)) as fresh:
        write_json(fresh / CONFIG_FILE, {"_class_name": "FeaturesPolicy", **sizes})
        write_tensors(fresh / WEIGHTS_FILE, policy.state_dict())
        load_policy(fresh)  # what cannot be loaded again is not saved


def load_policy(folder: Path) -> ActorCriticPolicy:
    """Reads what `save_policy` wrote.

    Raises:
        WorldModelError: A file is missing or broken.
    """
    files = StrictFolder(folder)
    record = files.read_json(CONFIG_FILE)
    policy = make_policy(record["feature_size"], record["action_size"])
    shapes = {name: tuple(value.shape) for name, value in policy.state_dict().items()}
    policy.load_state_dict(files.read_tensors(WEIGHTS_FILE, shapes, ("F32",)))
    policy.set_training_mode(False)
    return policy

"""Real episodes of a policy or of its plans, and real first frames."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from training.episodes import Episode
from training.policy import load_policy, load_policy_config, sample_actions
from training.real_env import RealEnv, require_real_env
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.world_model import WorldModel


def _real_episodes(job: tuple[Path, list[int], np.ndarray | None]) -> list[Episode]:
    folder, seeds, plans = job
    os.environ.setdefault("LP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    policy, config = load_policy(folder), load_policy_config(folder)
    env = RealEnv(config.task, frame_size=config.frame_size)
    results = []
    try:
        for row, seed in enumerate(seeds):
            frame, _ = env.reset(seed=seed)
            frames, success = [frame], []
            actions: list[np.ndarray] = []
            over = False
            while not over:
                if plans is None:
                    action = sample_actions(policy, frame[None], None)[0]
                else:
                    action = plans[row][len(actions)]
                frame, _, terminated, truncated, info = env.step(action)
                frames.append(frame)
                actions.append(action)
                success.append(info["is_success"])
                over = terminated or truncated
                over |= plans is not None and len(actions) == len(plans[row])
            if len(actions) == 1:  # an Episode holds two decisions at least
                frames, actions, success = frames + frames[-1:], actions * 2, success * 2
            episode = Episode(
                np.stack(frames),
                np.stack(actions),
                np.array(success),
                env.task,
                "policy",
                seed,
                env.action_repeat,
            )
            results.append(episode)
    finally:
        env.close()
    return results


def real_episodes(
    policy: Path, seeds: Sequence[int], workers: int = 2, plans: np.ndarray | None = None
) -> list[Episode]:
    """Plays the deterministic policy in the real env, once from each seed, in parallel.

    Args:
        policy: Folder of the policy.
        seeds: Seeds of the start configurations.
        workers: Processes.
        plans: `(N, T, A)` actions to take instead, whatever is seen; an episode ends with its plan.

    Raises:
        RealEnvUnavailableError: Meta-World or GL is missing.
    """
    require_real_env()
    jobs = [
        (policy, list(seeds[i : i + 5]), None if plans is None else plans[i : i + 5])
        for i in range(0, len(seeds), 5)
    ]
    episodes: list[Episode] = []
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(min(workers, len(jobs))) as pool,
        tqdm(total=len(seeds), unit="episode", desc="real episodes", mininterval=1) as bar,
    ):
        for results in pool.imap(_real_episodes, jobs):
            episodes.extend(results)
            bar.update(len(results))
    return episodes


def first_frames(task: str, seeds: Sequence[int], world_model: WorldModel) -> InitialFrames:
    """Start contexts of real start configurations, which cost a reset each."""
    require_real_env()
    env = RealEnv(task, frame_size=world_model.frame_size)
    try:
        frames = np.stack([env.reset(seed=seed)[0] for seed in seeds])
    finally:
        env.close()
    return InitialFrames.from_starts(
        frames, task, world_model.context_length, world_model.action_size
    )

"""Puts a world-model folder together: denoiser, reward head, initial frames, model card.

    python -m training.assemble_world_model --denoiser runs/denoiser \\
        --reward-head runs/reward_head --episodes data/episodes --out runs/world_model

With `--demonstrations`, expert episodes are copied beside it, for the demo to clone from.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import tyro

from training import command
from training.collect_episodes import start_frames_path
from training.episodes import Episode, EpisodeError, load_episodes
from training.model_card import model_card
from training.windows import Windows
from world4rl_gym.components import load_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.world_model import WorldModel, WorldModelConfig


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.assemble_world_model`.

    Attributes:
        denoiser: Folder that holds `denoiser/`.
        reward_head: Folder that holds `reward_head/` and `figures.json`.
        out: Folder of the world model; replaced whole.
        episodes: Folder of episodes and start frames.
        contexts: Contexts a task from within expert demonstrations, for "anywhere".
        num_inference_steps: Default denoising steps a frame.
        demonstrations: Where to copy expert episodes to; none given copies none.
        demonstrations_per_task: How many.
        seed: Seed of the choice of contexts.
    """

    denoiser: Path
    reward_head: Path
    out: Path
    episodes: Path = Path("data/episodes")
    contexts: int = 50
    num_inference_steps: int = 1
    demonstrations: Path | None = None
    demonstrations_per_task: int = 10
    seed: int = 0


def gather_initial_frames(
    folder: Path,
    episodes: Sequence[Episode],
    tasks: tuple[str, ...],
    context_length: int,
    contexts: int,
    seed: int,
) -> InitialFrames:
    """Collects all stored start frames and some contexts from before the experts' success."""
    rng = np.random.default_rng(seed)
    parts = []
    action_size = episodes[0].actions.shape[1]
    for number, task in enumerate(tasks):
        path = start_frames_path(folder, task, "train")
        if path.exists():
            with np.load(path, allow_pickle=False) as stored:
                starts = stored["frames"]
        else:
            starts = np.stack([e.frames[0] for e in episodes if e.task == task])
        first = InitialFrames.from_starts(starts, task, context_length, action_size)
        everything = torch.arange(len(first))
        parts.append((number, first.frames_of(everything), first.actions, True))
        experts = [e for e in episodes if e.task == task and e.behaviour == "expert" and e.solved]
        if not experts or not contexts:
            continue
        windows = Windows(experts, context_length)
        now = []
        begin = 0
        for episode in experts:
            now += list(range(begin + context_length - 1, begin + int(episode.success.argmax())))
            begin += len(episode.frames)
        chosen = np.sort(rng.choice(now, min(contexts, len(now)), replace=False))
        batch = windows.at(torch.from_numpy(chosen), 0)
        parts.append((number, batch.frames, batch.actions, False))
    return InitialFrames.from_contexts(
        torch.cat([frames for _, frames, _, _ in parts]),
        torch.cat([actions for _, _, actions, _ in parts]),
        torch.cat([torch.full((len(f),), number) for number, f, _, _ in parts]),
        torch.cat([torch.full((len(f),), start) for _, f, _, start in parts]),
        tasks,
    )


def training_steps(denoiser: Path) -> list[int]:
    """Steps of the runs that a denoiser comes from, the first one first."""
    settings = json.loads((denoiser / "settings.json").read_text())
    before = training_steps(Path(settings["init"])) if settings.get("init") else []
    return [*before, len((denoiser / "losses.csv").read_text().splitlines()) - 1]


def copy_demonstrations(episodes: Path, out: Path, tasks: Sequence[str], count: int) -> None:
    """Copies the first solved expert episodes of each task to `out/TASK/train/`."""
    shutil.rmtree(out, ignore_errors=True)
    for task in tasks:
        (out / task / "train").mkdir(parents=True)
        copied = 0
        for path in sorted((episodes / task / "train").glob("expert-*.npz")):
            if copied < count:
                shutil.copyfile(path, out / task / "train" / path.name)
                copied += 1
        if copied < count:
            raise EpisodeError(f"{episodes}: {task}: expected {count} expert episodes: {copied}")


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    denoiser = load_component(args.denoiser, "denoiser", Denoiser, DenoiserConfig)
    reward_head = load_component(args.reward_head, "reward_head", RewardHead, RewardHeadConfig)
    figures = json.loads((args.reward_head / "figures.json").read_text())
    episodes = load_episodes(args.episodes, "train")
    present = {e.task for e in episodes}
    tasks = tuple(sorted(present))
    initial_frames = gather_initial_frames(
        args.episodes, episodes, tasks, denoiser.config.context_length, args.contexts, args.seed
    )
    settings = json.loads((args.denoiser / "settings.json").read_text())
    config = WorldModelConfig(
        tasks=tasks,
        action_repeat=episodes[0].action_repeat,
        max_episode_steps=len(episodes[0]),
        success_threshold=figures["threshold"],
        num_inference_steps=args.num_inference_steps,
        provenance={
            "training_episodes": len(episodes),
            "training_steps": " + ".join(str(steps) for steps in training_steps(args.denoiser)),
            "batch_size": settings["batch_size"],
            "stream_length": settings["stream_length"],
            "seed": settings["seed"],
        },
    )
    scheduler = EulerScheduler(sigma_data=denoiser.config.sigma_data)
    model = WorldModel(denoiser, scheduler, reward_head, initial_frames, config)
    model.save_pretrained(args.out, card=model_card(model, figures))
    if args.demonstrations:
        copy_demonstrations(args.episodes, args.demonstrations, tasks, args.demonstrations_per_task)
    size = sum(p.stat().st_size for p in args.out.rglob("*") if p.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB, {len(initial_frames)} initial frames")


if __name__ == "__main__":
    command.run(main)

"""How far may the world model be believed? Figures from episodes held out from all training.

    python -m training.evaluate_world_model --episodes data/episodes --out results

Open-loop: every test episode is imagined again from its first frame and its own actions, and
compared with what really happened: the picture (PSNR, SSIM, beside a baseline that never moves from
the first frame) and the outcome (imagined success against true success). The reward head is judged
on the real frames. Works for any world model and episodes of the same tasks.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from training.episodes import Episode, load_episodes
from training.metrics import psnr, rate, ssim
from training.pictures import comparison_strip, save_image, save_videos
from training.replay import replay
from training.train_reward_head import figures as reward_figures
from world4rl_gym.pixels import channels_first
from world4rl_gym.world_model import WorldModel

FRAMES = (1, 5, 15, 30, 50)
GROUPS = {"policy": ("expert", "noisy-expert", "policy"), "random": ("random",)}


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.evaluate_world_model`.

    Attributes:
        world_model: Folder or Hub id; none given means the embedded one.
        episodes: Folder of episodes.
        split: The split that is measured.
        num_inference_steps: Denoising steps a frame; none given takes the model's number.
        out: Folder of `world_model.json` and of `pictures/`.
        pictures: Write a strip of one episode of each task, and a video of all of them.
        seed: Seed of the denoising noise.
    """

    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    split: Literal["validation", "test"] = "test"
    num_inference_steps: int | None = None
    out: Path = Path("results")
    pictures: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Replay:
    """An episode, what was imagined of it, and how solved each imagined frame looks.

    Attributes:
        episode: The real episode.
        imagined: `(T + 1, H, W, 3)` uint8.
        probability: `(T,)` success probability of the imagined frames after each action.
        real_probability: `(T,)` the same of the real frames.
    """

    episode: Episode
    imagined: np.ndarray
    probability: np.ndarray
    real_probability: np.ndarray


def replay_all(
    world_model: WorldModel, episodes: Sequence[Episode], num_inference_steps: int, seed: int
) -> list[Replay]:
    """Imagines every episode again; see `training.replay`."""
    imagined = replay(
        world_model.denoiser, world_model.scheduler, episodes, num_inference_steps, seed
    )
    return [
        Replay(e, f, _probabilities(world_model, f[1:]), _probabilities(world_model, e.frames[1:]))
        for e, f in zip(episodes, imagined, strict=True)
    ]


def _probabilities(world_model: WorldModel, frames: np.ndarray) -> np.ndarray:
    return world_model.success_probability(channels_first(torch.from_numpy(frames))).numpy()


def fidelity(replays: Sequence[Replay]) -> dict[str, Any]:
    """Mean PSNR (dB) and SSIM at `FRAMES`, of the imagination and of the frozen first frame."""
    figures: dict[str, Any] = {"episodes": len(replays)}
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        model, frozen = {}, {}
        for t in FRAMES:
            shown = [r for r in replays if t < len(r.imagined)]
            if not shown:
                continue
            real = np.stack([r.episode.frames[t] for r in shown])
            first = np.stack([r.episode.frames[0] for r in shown])
            imagined = np.stack([r.imagined[t] for r in shown])
            model[str(t)] = round(float(measure(real, imagined).mean()), 4)
            frozen[str(t)] = round(float(measure(real, first).mean()), 4)
        figures[name] = model
        figures[f"{name}_frozen"] = frozen
    return figures


def outcomes(replays: Sequence[Replay], threshold: float) -> dict[str, Any]:
    """Imagined against true outcome of the same starts and actions, with 95 % intervals."""
    true = np.array([r.episode.solved for r in replays])
    imagined = np.array([bool((r.probability >= threshold).any()) for r in replays])
    false_success = rate(imagined[~true])
    missed = rate(~imagined[true])
    return {
        "episodes": len(replays),
        "solved": int(true.sum()),
        "agreement": dataclasses.asdict(rate(true == imagined)),
        "false_success": {"rate": false_success.mean, "upper": false_success.high},
        "missed_success": {"rate": missed.mean, "upper": missed.high},
    }


def summarise(replays: Sequence[Replay], threshold: float) -> dict[str, Any]:
    """All figures of some replays: by group of behaviours, and over all."""
    groups = {
        name: [r for r in replays if r.episode.behaviour in behaviours]
        for name, behaviours in GROUPS.items()
    }
    return {
        **reward_figures(
            [r.episode for r in replays], [r.real_probability for r in replays], threshold
        ),
        **outcomes(replays, threshold),
        **{name: fidelity(group) for name, group in groups.items() if group},
    }


def format_table(report: dict[str, Any]) -> str:
    """A Markdown table: open-loop PSNR by frame, agreement and false successes for each task."""
    lines = [
        "| task | actions | " + " | ".join(f"PSNR@{t}" for t in FRAMES) + " | SSIM@50 | agreement "
        "| false success (upper) | AUROC |",
        "|---" * (len(FRAMES) + 6) + "|",
    ]
    for name, figures in {"all": report, **report["tasks"]}.items():
        for group in GROUPS:
            if group not in figures:
                continue
            cells = [
                f"{figures[group]['psnr'].get(str(t), float('nan')):.1f} "
                f"({figures[group]['psnr_frozen'].get(str(t), float('nan')):.1f})"
                for t in FRAMES
            ]
            shared = [
                f"{figures[group]['ssim'].get('50', float('nan')):.3f}",
                f"{100 * figures['agreement']['mean']:.0f} %",
                f"{100 * figures['false_success']['rate']:.0f} % "
                f"({100 * figures['false_success']['upper']:.0f} %)",
                f"{figures['auroc']:.4f}",
            ]
            lines.append(f"| {name} | {group} | " + " | ".join(cells + shared) + " |")
    return "\n".join(lines)


def save_pictures(replays: Sequence[Replay], folder: Path) -> None:
    """Writes a strip for each task's first solved policy episode, and one video of all of them."""
    shown = []
    for task in sorted({r.episode.task for r in replays}):
        of_task = [r for r in replays if r.episode.task == task]
        shown.append(
            next(
                (r for r in of_task if r.episode.behaviour == "policy" and r.episode.solved),
                of_task[0],
            )
        )
        strip = comparison_strip(shown[-1].episode.frames, shown[-1].imagined)
        save_image(folder / f"{task}.png", strip)
    length = min(len(r.imagined) for r in shown)
    save_videos(
        folder / "rollouts",
        np.concatenate([r.episode.frames[:length] for r in shown], axis=2),
        np.concatenate([r.imagined[:length] for r in shown], axis=2),
        scale=2,
    )


def evaluate_world_model(
    world_model: WorldModel, episodes: Sequence[Episode], num_inference_steps: int, seed: int = 0
) -> tuple[dict[str, Any], list[Replay]]:
    """Measures everything; returns the report and the replays it came from."""
    threshold = world_model.config.success_threshold
    replays = replay_all(world_model, episodes, num_inference_steps, seed)
    report = {
        "num_inference_steps": num_inference_steps,
        "threshold": threshold,
        "seed": seed,
        **summarise(replays, threshold),
        "tasks": {
            task: summarise([r for r in replays if r.episode.task == task], threshold)
            for task in sorted({e.task for e in episodes})
        },
    }
    return report, replays


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    episodes = load_episodes(args.episodes, args.split, world_model.config.tasks)
    steps = args.num_inference_steps or world_model.config.num_inference_steps
    print(f"imagining {len(episodes)} {args.split} episodes, {steps} denoising steps a frame")
    report, replays = evaluate_world_model(world_model, episodes, steps, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "world_model.json").write_text(json.dumps(report, indent=2) + "\n")
    if args.pictures:
        save_pictures(replays, args.out / "pictures")
    print(format_table(report))


if __name__ == "__main__":
    main()

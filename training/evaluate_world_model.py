"""How far may the world model be believed? Figures from episodes held out from all training.

    python -m training.evaluate_world_model --episodes data/episodes --out results

Every test episode is imagined again from its first frame and its own actions, and compared with
what really happened: the picture, beside a baseline that never moves from the first frame; the
outcome; the outcome of probe actions that nobody would call skilled; and whether the uncertainty
that the model tells foretells where it is wrong. The reward head is judged on the real frames.
Works for any world model and episodes of the same tasks. The figures themselves are `trust.py`'s.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from training import command
from training.episodes import BEHAVIOURS, PROBES, Episode, load_episodes
from training.formatting import format_at_most, markdown_table
from training.pictures import comparison_strip, drawing, save_image, save_videos
from training.records import save_record
from training.settings import require_at_least
from training.trust import (
    FRAMES,
    Replay,
    fidelity,
    foretelling,
    optimism,
    outcomes,
    replay_all,
    reward_head_figures,
)
from world4rl_gym.world_model import WorldModel

GROUPS = {"policy": ("expert", "noisy-expert", "policy", "plan"), "random": ("random",)}


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
        most_steps: Compare 1 to so many denoising steps on validation episodes; 0 does not.
        seed: Seed of the denoising noise.
    """

    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    split: Literal["validation", "test"] = "test"
    num_inference_steps: int | None = None
    out: Path = Path("results")
    pictures: bool = True
    most_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "most_steps")
        if self.num_inference_steps is not None:
            require_at_least(self, 1, "num_inference_steps")


def summarise(replays: Sequence[Replay], threshold: float) -> dict[str, Any]:
    """All figures of some replays: over all that are not probes, by group, and of the probes."""
    chosen = [r for r in replays if r.episode.behaviour not in PROBES]
    probes = [r for r in replays if r.episode.behaviour in (*PROBES, "random")]
    report = {
        **reward_head_figures(
            [r.episode for r in chosen], [r.real_probability for r in chosen], threshold
        ),
        **outcomes(chosen, threshold),
        **fidelity(chosen),
        "uncertainty": foretelling(chosen, threshold),
        "optimism": optimism(probes, threshold)["optimism"] if probes else None,
        "probes": {
            name: optimism([r for r in probes if r.episode.behaviour == name], threshold)
            for name in sorted({r.episode.behaviour for r in probes})
        },
    }
    if probes:
        report["probes"]["all"] = optimism(probes, threshold)
    for name, behaviours in GROUPS.items():
        group = [r for r in chosen if r.episode.behaviour in behaviours]
        if group:
            report[name] = fidelity(group)
    return report


def format_table(report: dict[str, Any]) -> str:
    """A Markdown table: open-loop PSNR by frame, agreement and false successes for each task."""
    columns = ["task", "actions", *(f"PSNR@{t}" for t in FRAMES), "SSIM@50"]
    columns += ["agreement", "false success (at most)", "AUROC"]
    rows = []
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
                format_at_most(**figures["false_success"]),
                f"{figures['auroc']:.4f}",
            ]
            rows.append([name, group, *cells, *shared])
    return markdown_table(columns, rows)


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


def sweep_inference_steps(
    world_model: WorldModel, episodes: Sequence[Episode], most: int, seed: int
) -> list[dict[str, Any]]:
    """Fidelity, agreement and time of 1 to `most` denoising steps a frame."""
    threshold = world_model.config.success_threshold
    rows = []
    for steps in range(1, most + 1):
        began = time.monotonic()
        replays = replay_all(world_model, episodes, steps, seed)
        rows.append(
            {
                "num_inference_steps": steps,
                "seconds": round(time.monotonic() - began, 1),
                **fidelity(replays),
                **outcomes(replays, threshold),
            }
        )
        print(f"{steps} denoising steps: PSNR {rows[-1]['psnr']}", flush=True)
    return rows


def plot_inference_steps(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws what `sweep_inference_steps` told: fidelity, and agreement with its interval."""
    at = [row["num_inference_steps"] for row in rows]
    with drawing(path, columns=2, figsize=(9, 3.8)) as (left, right):
        for frame in rows[0]["psnr"]:
            left.plot(at, [row["psnr"][frame] for row in rows], "o-", label=f"frame {frame}")
        left.set(xlabel="denoising steps", ylabel="PSNR, dB", title="open-loop fidelity", xticks=at)
        left.legend(fontsize="small")
        low, mean, high = (
            [100 * row["agreement"][name] for row in rows] for name in ("low", "mean", "high")
        )
        right.plot(at, mean, "o-")
        right.fill_between(at, low, high, alpha=0.12)
        right.set(xlabel="denoising steps", ylabel="%", title="agreement of outcomes", xticks=at)


def plot(report: dict[str, Any], replays: Sequence[Replay], path: Path) -> None:
    """Draws fidelity and agreement by frame, calibration, and uncertainty against error."""
    with drawing(path, columns=3, figsize=(13, 3.8)) as (left, middle, right):
        for group, colour in (("policy", "tab:blue"), ("random", "tab:orange")):
            if group in report:
                at = [int(t) for t in report[group]["psnr"]]
                left.plot(at, list(report[group]["psnr"].values()), "o-", color=colour, label=group)
                frozen = list(report[group]["psnr_frozen"].values())
                left.plot(at, frozen, "x:", color=colour, label=f"{group}, frozen first frame")
        left.set(xlabel="frame", ylabel="PSNR, dB", title="open-loop fidelity")
        left.legend(fontsize="small")
        probability = np.concatenate([r.real_probability for r in replays])
        solved = np.concatenate([r.episode.success for r in replays])
        edges = np.linspace(0, 1, 11)
        which = np.clip(np.digitize(probability, edges) - 1, 0, 9)
        full = [b for b in range(10) if (which == b).any()]
        middle.plot([0, 1], [0, 1], color="0.8")
        middle.plot(
            [probability[which == b].mean() for b in full],
            [solved[which == b].mean() for b in full],
            "o-",
        )
        middle.set(
            xlabel="success probability", ylabel="share solved", title="reward head, real frames"
        )
        threshold = report["threshold"]
        peaks = np.array([r.uncertainty.max() for r in replays])
        wrong = np.array([r.succeeds(threshold) != r.episode.solved for r in replays])
        bins = np.linspace(peaks.min(), peaks.max(), 25)
        right.hist([peaks[~wrong], peaks[wrong]], bins, label=["outcome right", "outcome wrong"])
        right.set(xlabel="highest uncertainty, grey levels", ylabel="episodes", title="uncertainty")
        right.legend(fontsize="small")


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


def _points(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:+.1f} points"


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    episodes = load_episodes(
        args.episodes, args.split, world_model.config.tasks, (*BEHAVIOURS, *PROBES)
    )
    steps = args.num_inference_steps or world_model.config.num_inference_steps
    print(f"imagining {len(episodes)} {args.split} episodes, {steps} denoising steps a frame")
    report, replays = evaluate_world_model(world_model, episodes, steps, args.seed)
    save_record(args.out / "world_model.json", {"split": args.split, **report})
    if args.most_steps:
        steps_file = args.out / "inference_steps.json"
        # A default is chosen from this, so it is measured on validation episodes alone.
        some = load_episodes(args.episodes, "validation", world_model.config.tasks)[::15]
        rows = sweep_inference_steps(world_model, some, args.most_steps, args.seed)
        save_record(steps_file, {"rows": rows})
        plot_inference_steps(rows, steps_file.with_suffix(".png"))
    if args.pictures:
        chosen = [r for r in replays if r.episode.behaviour not in PROBES]
        save_pictures(chosen, args.out / "pictures")
        plot(report, chosen, args.out / "pictures" / "trust.png")
    print(format_table(report))
    told = report["uncertainty"]
    print(
        f"optimism under probe actions: {_points(report['optimism'])}; uncertainty foretells wrong "
        f"outcomes with AUROC {told['auroc']:.3f}"
    )


if __name__ == "__main__":
    command.run(main)

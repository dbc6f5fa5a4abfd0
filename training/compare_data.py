"""What does each kind of training episode buy? World models that differ in their episodes alone.

    training/collect_default.sh
    python -m training.compare_data --steps 4000 --refine lever-pull door-lock --out results

A denoiser is trained from nothing for every mixture of episodes, each for as many steps, and
measured on the same test episodes by the same reward head, that of a finished world model. Each
becomes a world model of its own, `WORK/MIXTURE-SEED/world_model`, in which clones are refined and
measured as `training.reproduce` does. Writes `data.json` and `data.md`; what is done is kept and
skipped, and training resumes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from training import command, reproduce, train_world_model
from training.episodes import BEHAVIOURS, PROBES, Episode, load_episodes
from training.evaluate import format_rate
from training.evaluate_world_model import GROUPS, evaluate_world_model
from training.measured import Measured, by_task, contents, from_plain, merged, plain
from training.metrics import Rate
from training.real_env import check_task
from training.rows import Row, load_rows, save_row
from training.settings import keep_settings, require_at_least
from world4rl_gym.components import load_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

MIXTURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "all": ("everything", BEHAVIOURS),
    "no-random": ("without random actions", ("expert", "noisy-expert", "policy", "plan")),
    "no-policy": ("without what policies played", ("expert", "noisy-expert", "random")),
    "no-noisy-expert": ("without disturbed experts", ("expert", "policy", "plan", "random")),
    "expert": ("experts alone", ("expert",)),
}
"""What each mixture is, and whose episodes it holds."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.compare_data`.

    Attributes:
        mixtures: Which of them, or "every-one".
        seeds: Number of seeds, of weights, batches and noise.
        first_seed: The first of them.
        steps: Gradient steps of each denoiser.
        episodes: Folder of episodes: those to train on, and the test episodes.
        world_model: Folder or Hub id of the world model that lends its size, reward head and
            initial frames; none given means the embedded one.
        refine: Tasks whose clones are refined in each of the world models.
        policy_seeds: Number of seeds of those clones and of their refinement.
        first_policy_seed: The first of them.
        work: Folder of the trained world models and of the policies.
        out: Folder of `data.json` and `data.md`; what is there of other mixtures and seeds is kept.
    """

    mixtures: tuple[str, ...] = ("every-one",)
    seeds: int = 1
    first_seed: int = 0
    steps: int = 4000
    episodes: Path = Path("data/episodes")
    world_model: str | None = None
    refine: tuple[str, ...] = ()
    policy_seeds: int = 2
    first_policy_seed: int = 0
    work: Path = Path("runs/data")
    out: Path = Path("results")

    def __post_init__(self) -> None:
        if self.mixtures == ("every-one",):
            object.__setattr__(self, "mixtures", tuple(MIXTURES))
        for mixture in self.mixtures:
            if mixture not in MIXTURES:
                raise ValueError(f"mixtures: expected {', '.join(MIXTURES)}, got {mixture!r}")
        for task in self.refine:
            check_task(task)
        require_at_least(self, 1, "seeds", "steps", "policy_seeds")
        require_at_least(self, 0, "first_seed", "first_policy_seed")


def make_world_model(args: Args, given: WorldModel, mixture: str, seed: int) -> WorldModel:
    """Trains a mixture's denoiser, where that is not done, and puts it in the given one's place.

    Raises:
        SettingsError: Its folder holds one that was trained with other settings.
    """
    folder = args.work / f"{mixture}-{seed}"
    size = given.denoiser.config
    settings = train_world_model.Args(
        folder,
        args.episodes,
        given.config.tasks,
        MIXTURES[mixture][1],
        args.steps,
        channels=size.channels,
        layers_per_block=size.layers_per_block,
        patch_size=size.patch_size,
        picture_every=0,
        seed=seed,
    )
    keep_settings(settings, folder, leave_out=("until",))  # as training does, where there is none
    if not (folder / "denoiser").exists():
        train_world_model.train(settings)
    made = WorldModel(
        load_component(folder, "denoiser", Denoiser, DenoiserConfig),
        given.scheduler,
        given.reward_head,
        given.initial_frames,
        dataclasses.replace(
            given.config,
            provenance={"mixture": mixture, "training_steps": args.steps, "seed": seed},
        ),
    )
    made.save_pretrained(folder / "world_model")
    return made


def count(args: Args, given: WorldModel, mixture: str) -> int:
    """How many episodes a mixture trains on."""
    return len(load_episodes(args.episodes, "train", given.config.tasks, MIXTURES[mixture][1]))


def measure(world_model: WorldModel, episodes: Sequence[Episode]) -> dict[str, Any]:
    """M1 to M3 of a world model, as a row of the table."""
    report, _ = evaluate_world_model(world_model, episodes, world_model.config.num_inference_steps)
    last = str(max(int(frame) for frame in report["psnr"]))
    probes = report["probes"].get("all")
    return {
        "frame": int(last),
        "psnr": {g: report[g]["psnr"][last] for g in GROUPS if g in report},
        **{name: report[name] for name in ("agreement", "false_success", "missed_success")},
        "optimism": probes and {name: probes[name] for name in ("optimism", "low", "high")},
    }


def policy_args(args: Args, mixture: str, seed: int) -> reproduce.Args:
    """How policies are made in a mixture's world model: by the table's recipe."""
    folder = args.work / f"{mixture}-{seed}"
    return reproduce.Args(
        args.refine,
        args.policy_seeds,
        args.first_policy_seed,
        world_model=str(folder / "world_model"),
        work=folder / "policies",
    )


def make_policies(args: reproduce.Args, world_model: WorldModel) -> list[Measured]:
    """Clones and what refinement made of them, measured; what is done is kept."""
    reproduce.claim(args, world_model)
    cells = ((task, seed) for task in args.tasks for seed in args.every_seed)
    return [one for cell in cells for one in reproduce.make_cell(args, world_model, *cell)]


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as Markdown, per cent and points with 95 % intervals."""
    frame = rows[0]["frame"]
    lines = [
        f"| trained on | episodes | seed | PSNR@{frame}, policies | PSNR@{frame}, random "
        "| agreement | false success (at most) | missed (at most) | optimism of probes |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        false, missed = (
            f"{100 * row[name]['rate']:.0f} % ({100 * row[name]['upper']:.0f} %)"
            for name in ("false_success", "missed_success")
        )
        optimism = row["optimism"] and "{:+.0f} [{:+.0f}, {:+.0f}]".format(
            *(100 * row["optimism"][name] for name in ("optimism", "low", "high"))
        )
        policy, random = (row["psnr"].get(group, math.nan) for group in GROUPS)
        lines.append(
            f"| {row['mixture']}: {MIXTURES[row['mixture']][0]} | {row['episodes']} "
            f"| {row['seed']} | {policy:.1f} | {random:.1f} "
            f"| {format_rate(Rate(**row['agreement']))} | {false} | {missed} | {optimism or '-'} |"
        )
    return "\n".join(lines)


def format_refined(rows: Sequence[Row]) -> str:
    """Policies refined in each world model as Markdown: real success before and after, in per cent.

    Success of the refined policy as imagined in that world model stands in brackets; "" where
    nothing was refined.
    """
    refined = [(row, from_plain(row["policies"])) for row in rows if row["policies"]]
    keys = sorted({(p.task, p.seed) for _, made in refined for p in made})
    if not keys:
        return ""
    head = ["refined in", *(f"{task}, seed {seed}" for task, seed in keys), "mean change"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row, made in refined:
        cells, changes = {}, []
        for key in keys:
            own = {p.method: p for p in made if (p.task, p.seed) == key}
            if own:
                before, after = (100 * own[stage].rate("real").mean for stage in reproduce.STAGES)
                imagined = 100 * own["refined"].rate("imagined").mean
                cells[key] = f"{before:.0f} → {after:.0f} ({imagined:.0f})"
                changes.append(after - before)
        told = [cells.get(key, "-") for key in keys]
        name = f"{row['mixture']}-{row['seed']}"
        lines.append(f"| {name} | " + " | ".join([*told, f"{np.mean(changes):+.1f}"]) + " |")
    return "\n".join(lines)


def format_data(rows: Sequence[Row]) -> str:
    """Both tables."""
    return "\n\n".join(table for table in (format_rows(rows), format_refined(rows)) if table)


def measured_with(args: Args, given: WorldModel, episodes: Sequence[Episode]) -> dict[str, Any]:
    """What rows must share to stand beside each other."""
    return {"steps": args.steps, "world_model": contents(given), "test_episodes": len(episodes)}


def command_lines(settings: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    """The commands that made rows; one for those that share tasks and seeds of policies."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        flags = f"--steps {settings['steps']} --first-seed {row['seed']}"
        policies = from_plain(row["policies"])
        if policies:
            tasks = " ".join(task for _, task in by_task(policies))
            seeds = sorted({policy.seed for policy in policies})
            flags += f" --refine {tasks} --policy-seeds {len(seeds)}"
            flags += f" --first-policy-seed {seeds[0]}"
        lines.setdefault(flags, []).append(row["mixture"])
    command = "python -m training.compare_data --mixtures"
    return [f"{command} {' '.join(mixtures)} {flags}" for flags, mixtures in lines.items()]


def place(row: Row) -> tuple[int, int]:
    """Where a row stands in the table."""
    return list(MIXTURES).index(row["mixture"]), row["seed"]


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    given = WorldModel.from_pretrained(args.world_model)
    episodes = load_episodes(args.episodes, "test", given.config.tasks, (*BEHAVIOURS, *PROBES))
    path, settings = args.out / "data.json", measured_with(args, given, episodes)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for mixture in args.mixtures:
            known = {place(row): row for row in load_rows(path, settings)}
            made = make_world_model(args, given, mixture, seed)
            row: Row = {"mixture": mixture, "seed": seed}
            if place(row) in known:
                row = known[place(row)]
            else:
                row |= {"episodes": count(args, given, mixture), **measure(made, episodes)}
                row["policies"] = []
                save_row(path, settings, row, place)
            if args.refine:
                policies = make_policies(policy_args(args, mixture, seed), made)
                row["policies"] = plain(merged([*from_plain(row["policies"]), *policies]))
            rows = save_row(path, settings, row, place)
            write_whole(args.out / "data.md", (format_data(rows) + "\n").encode())
            print(format_data(rows), flush=True)


if __name__ == "__main__":
    command.run(main)

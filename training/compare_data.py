"""What does each kind of training episode buy? World models that differ in their episodes alone.

    training/collect_default.sh
    python -m training.compare_data --steps 4000 --out results

A denoiser is trained from nothing for every mixture of episodes, each for as many steps, and
measured on the same test episodes by the same reward head, that of a finished world model. Each
becomes a world model of its own, `WORK/MIXTURE-SEED/world_model`, in which policies can be refined:
`python -m training.reproduce --world-model ...`. Writes `data.json`; what is done is kept and
skipped, and training resumes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from training import command, train_world_model
from training.episodes import BEHAVIOURS, PROBES, Episode, load_episodes
from training.evaluate_world_model import GROUPS, evaluate_world_model
from training.formatting import format_at_most, format_optimism, format_rate, markdown_table
from training.measured import contents
from training.metrics import Rate
from training.rows import Row, load_rows, save_rows
from training.settings import keep_settings, require_at_least
from world4rl_gym.components import load_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.world_model import WorldModel

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
        work: Folder of the trained world models.
        out: Folder of `data.json`; what is there of other mixtures and seeds is kept.
    """

    mixtures: tuple[str, ...] = ("every-one",)
    seeds: int = 1
    first_seed: int = 0
    steps: int = 4000
    episodes: Path = Path("data/episodes")
    world_model: str | None = None
    work: Path = Path("runs/data")
    out: Path = Path("results")

    def __post_init__(self) -> None:
        if self.mixtures == ("every-one",):
            object.__setattr__(self, "mixtures", tuple(MIXTURES))
        for mixture in self.mixtures:
            if mixture not in MIXTURES:
                raise ValueError(f"mixtures: expected {', '.join(MIXTURES)}, got {mixture!r}")
        require_at_least(self, 1, "seeds", "steps")
        require_at_least(self, 0, "first_seed")


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


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as Markdown, per cent and points with 95 % intervals."""
    frame = rows[0]["frame"]
    columns = ["trained on", "episodes", "seed", f"PSNR@{frame}, policies", f"PSNR@{frame}, random"]
    columns += ["agreement", "false success (at most)", "missed (at most)", "optimism of probes"]
    told = []
    for row in rows:
        wrong = (row[name] for name in ("false_success", "missed_success"))
        false, missed = (format_at_most(**one) for one in wrong)
        optimism = row["optimism"] and format_optimism(row["optimism"])
        psnr = (f"{row['psnr'].get(group, math.nan):.1f}" for group in GROUPS)
        mixture = f"{row['mixture']}: {MIXTURES[row['mixture']][0]}"
        agreement = format_rate(Rate(**row["agreement"]))
        cells = [mixture, str(row["episodes"]), str(row["seed"]), *psnr, agreement]
        told.append([*cells, false, missed, optimism or "-"])
    return markdown_table(columns, told)


def measured_with(args: Args, given: WorldModel, episodes: Sequence[Episode]) -> dict[str, Any]:
    """What rows must share to stand beside each other.

    Episodes of random actions count twice: as test episodes, and as probes.
    """
    of = [episode.behaviour for episode in episodes]
    return {
        "steps": args.steps,
        "world_model": contents(given),
        "test_episodes": sum(behaviour not in PROBES for behaviour in of),
        "probe_episodes": sum(behaviour in (*PROBES, "random") for behaviour in of),
    }


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
            row: Row = {"mixture": mixture, "seed": seed, "world_model": contents(made)}
            before = known.get(place(row), {})
            if before.get("world_model") != row["world_model"]:  # not yet, or of another training
                row |= {"episodes": count(args, given, mixture), **measure(made, episodes)}
                print(format_rows(save_rows(path, settings, [row], place)), flush=True)


if __name__ == "__main__":
    command.run(main)

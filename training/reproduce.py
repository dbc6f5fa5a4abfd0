"""Reproduces the table: cloned and refined policies of every task, imagined and real.

    python -m training.reproduce --tasks all --seeds 1
    python -m training.reproduce --tasks door-lock --seeds 1      # one cell of it

Each policy is cloned from the shipped demonstrations, refined inside the world model, and evaluated
from the same held-out start configurations in both worlds. What is done is kept and skipped when
the same command runs again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from training import clone_policy, refine_policy
from training.demo import DEMONSTRATIONS
from training.evaluate import draw_scatter, evaluate, format_rate
from training.metrics import Rate, policy_agreement, rate
from training.pictures import drawing
from training.policy import load_policy, save_policy
from training.real_env import TASKS, check_task, split_seeds
from training.settings import keep_settings, require_at_least
from world4rl_gym.world_model import WorldModel

PUBLISHED = {
    "coffee-pull": (47, 68),
    "soccer": (18, 31),
    "hammer": (79, 91),
    "door-lock": (74, 92),
    "lever-pull": (31, 52),
    "handle-pull": (60, 71),
}
"""World4RL's own table (arXiv 2509.19080): real success, %, of clones of 50 demonstrations and of
what refinement made of them."""

WORLDS = ("real", "imagined")

FIRST_TEST_SEED = 100_000
"""Where in the test split's seeds the table's episodes begin."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.reproduce`.

    Attributes:
        tasks: Tasks, or "all".
        seeds: Number of seeds, from 0 on; a seed is that of cloning and of refinement.
        episodes: Real episodes, and imagined ones, a figure.
        demonstrations: Expert episodes a task to clone.
        episodes_folder: Where they are.
        clone_steps: Gradient steps of cloning.
        refine_steps: Imagined steps at most.
        world_model: Folder or Hub id; none given means the embedded one.
        workers: Processes for real episodes.
        work: Folder of policies and of what was measured of them.
        out: Folder of the table, its figures and `policies/`; what is there of other tasks is kept.
    """

    tasks: tuple[str, ...] = ("all",)
    seeds: int = 1
    episodes: int = 100
    demonstrations: int = 5
    episodes_folder: Path = DEMONSTRATIONS
    clone_steps: int = 1000
    refine_steps: int = 24_000
    world_model: str | None = None
    workers: int = 2
    work: Path = Path("runs/reproduce")
    out: Path = Path("results")

    def __post_init__(self) -> None:
        if self.tasks == ("all",):
            object.__setattr__(self, "tasks", TASKS)
        for task in self.tasks:
            check_task(task)
        require_at_least(self, 1, "seeds", "episodes")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One task and seed: outcomes before and after refinement, lists of 0 and 1."""

    task: str
    seed: int
    imagined_steps: int
    kept: int
    cloned: list[int]
    refined: list[int]
    imagined_before: list[int]
    imagined_after: list[int]


def claim(args: Args) -> None:
    """Keeps the settings in every cell's folder, or raises SettingsError where others are there."""
    plain = Args(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Args)})
    for task in args.tasks:
        for seed in range(args.seeds):
            keep_settings(
                plain,
                cell_folder(args, task, seed),
                leave_out=("tasks", "seeds", "workers", "work", "out"),
            )


def cell_folder(args: Args, task: str, seed: int) -> Path:
    """Where the policies of a task and seed are, and what was measured of them."""
    return args.work / f"{task}-{seed}"


def outcomes(
    args: Args, world_model: WorldModel, policy: Path, world: str, video: Path | None = None
) -> list[int]:
    """Outcomes of a policy in one world from the table's starts, kept beside its folder."""
    path = policy.with_name(f"{policy.name}-{world}.json")
    if not path.exists():
        result = evaluate(
            policy,
            world_model,
            split_seeds("test", args.episodes, FIRST_TEST_SEED),
            imagined=world == "imagined",
            real=world == "real",
            workers=args.workers,
            video=video,
        )
        solved = result.real if world == "real" else result.imagined
        assert solved is not None
        path.write_text(json.dumps([int(one) for one in solved]) + "\n")
    return json.loads(path.read_text())


def clone_cell(args: Args, task: str, seed: int) -> Path:
    """Clones a cell's policy, where that is not done, and returns its folder."""
    cloned = cell_folder(args, task, seed) / "cloned"
    if not (cloned / "policy.json").exists():
        clone_policy.run(
            clone_policy.Args(
                task,
                cloned,
                args.episodes_folder,
                args.demonstrations,
                steps=args.clone_steps,
                seed=seed,
            )
        )
    return cloned


def refine_cell(args: Args, task: str, seed: int, name: str = "refined", **changes: Any) -> Path:
    """Refines a cell's clone, where that is not done, and returns the policy's folder.

    Args:
        args: The command line.
        task: The cell's task.
        seed: Its seed.
        name: Of the policy.
        **changes: To the settings of `training.refine_policy`.
    """
    folder = cell_folder(args, task, seed)
    refined = folder / name
    if not (refined / "curve.json").exists():
        settings = refine_policy.Args(
            folder / "cloned",
            refined,
            args.world_model,
            steps=args.refine_steps,
            seed=seed,
            episodes=args.episodes_folder,
            demonstrations=args.demonstrations,
            snapshots=True,
        )
        refine_policy.refine(dataclasses.replace(settings, **changes))
    return refined


def make_cell(args: Args, world_model: WorldModel, task: str, seed: int) -> Cell:
    """Clones, refines and evaluates one policy; every part that an earlier run left is kept."""
    cloned = clone_cell(args, task, seed)
    before = {world: outcomes(args, world_model, cloned, world) for world in WORLDS}
    refined = refine_cell(args, task, seed)
    shipped = load_policy(refined)
    save_policy(shipped, shipped.config, refined, half=True)  # what is measured is what ships
    video = refined.with_name("rollout")
    after = {world: outcomes(args, world_model, refined, world, video) for world in WORLDS}
    curve = json.loads((refined / "curve.json").read_text())
    return Cell(
        task,
        seed,
        curve["curve"][-1]["imagined_steps"],
        curve["kept"],
        cloned=before["real"],
        refined=after["real"],
        imagined_before=before["imagined"],
        imagined_after=after["imagined"],
    )


def make_row(cells: list[Cell]) -> dict[str, Any]:
    """One row of the table: the cells of a task over its seeds, pooled, and each policy apart."""
    row: dict[str, Any] = {
        "task": cells[0].task,
        "seeds": [cell.seed for cell in cells],
        "episodes": len(cells[0].cloned),
    }
    for name in ("cloned", "refined", "imagined_before", "imagined_after"):
        pooled = [solved for cell in cells for solved in getattr(cell, name)]
        row[name] = dataclasses.asdict(rate(pooled))
    row["policies"] = [
        {
            "task": cell.task,
            "seed": cell.seed,
            "policy": policy,
            "real": dataclasses.asdict(rate(getattr(cell, policy))),
            "imagined": dataclasses.asdict(rate(getattr(cell, imagined))),
        }
        for cell in cells
        for policy, imagined in (("cloned", "imagined_before"), ("refined", "imagined_after"))
    ]
    row["gap_before"] = round(row["imagined_before"]["mean"] - row["cloned"]["mean"], 4)
    row["gap_after"] = round(row["imagined_after"]["mean"] - row["refined"]["mean"], 4)
    row["imagined_steps"] = [cell.imagined_steps for cell in cells]
    row["kept_at"] = [cell.kept for cell in cells]
    return row


def format_table(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown, success in per cent with 95 % intervals, gaps in points."""
    lines = [
        "| task | cloned, real | refined, real | cloned, imagined | refined, imagined "
        "| gap before | gap after | World4RL |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = ("cloned", "refined", "imagined_before", "imagined_after")
    for row in rows:
        cells = [format_rate(Rate(**row[name])) for name in names]
        gaps = [f"{100 * row[name]:+.0f}" for name in ("gap_before", "gap_after")]
        published = "{} → {}".format(*PUBLISHED[row["task"]])
        lines.append(f"| {row['task']} | " + " | ".join([*cells, *gaps, published]) + " |")
    means = [f"{100 * np.mean([row[name]['mean'] for row in rows]):.1f} %" for name in names]
    gaps = [
        f"{100 * np.mean([row[name] for row in rows]):+.1f}" for name in ("gap_before", "gap_after")
    ]
    published = " → ".join(
        f"{np.mean([PUBLISHED[row['task']][at] for row in rows]):.1f}" for at in (0, 1)
    )
    lines.append("| **mean** | " + " | ".join([*means, *gaps, published]) + " |")
    return "\n".join(lines)


def ship_policies(args: Args) -> None:
    """Copies the table's refined policies to `out/policies`, for evaluation without training."""
    for task in args.tasks:
        for seed in range(args.seeds):
            policy = load_policy(cell_folder(args, task, seed) / "refined")
            folder = args.out / "policies" / f"{task}-{seed}"
            save_policy(policy, policy.config, folder, half=True)


def draw_table(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws real success before and after, with its intervals, beside the published figures."""
    with drawing(path, figsize=(9, 3.8)) as axes:
        places = np.arange(len(rows))
        for number, (name, colour, mark) in enumerate(
            (("cloned", "tab:gray", "black"), ("refined", "tab:blue", "tab:red"))
        ):
            shift = 0.4 * (number - 0.5)
            means = np.array([100 * row[name]["mean"] for row in rows])
            ends = np.array([[100 * row[name][end] for row in rows] for end in ("low", "high")])
            axes.bar(
                places + shift,
                means,
                0.36,
                yerr=np.abs(ends - means),
                color=colour,
                capsize=3,
                label=f"{name}, real, 95 %",
            )
            axes.plot(
                places + shift,
                [PUBLISHED[row["task"]][number] for row in rows],
                "D",
                color=mark,
                markersize=5,
                label=f"World4RL's {name}",
            )
        axes.set_xticks(places, [row["task"] for row in rows])
        axes.set(ylabel="success, %", ylim=(0, 103))
        axes.legend(fontsize="small", ncols=2)


def save_table(rows: list[dict[str, Any]], out: Path) -> None:
    """Writes `table.json`, `table.md` and two figures; rows of other tasks there are kept.

    The table's policies, cloned and refined, are also what M4 is taken over: does imagination rank
    them as reality does?
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "table.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    by_task = {row["task"]: row for row in [*kept, *rows]}
    merged = [by_task[task] for task in TASKS if task in by_task]
    policies = [policy for row in merged for policy in row["policies"]]
    table: dict[str, Any] = {"rows": merged}
    if len(policies) >= 3:
        table["agreement"] = policy_agreement(
            *([policy[world]["mean"] for policy in policies] for world in ("imagined", "real"))
        )
        draw_scatter(policies, out / "policies.png")
    path.write_text(json.dumps(table, indent=2) + "\n")
    draw_table(merged, out / "table.png")
    (out / "table.md").write_text(format_table(merged) + "\n")


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    claim(args)
    rows = []
    for task in args.tasks:
        cells = [make_cell(args, world_model, task, seed) for seed in range(args.seeds)]
        rows.append(make_row(cells))
        print(format_table(rows), flush=True)
    save_table(rows, args.out)
    ship_policies(args)


if __name__ == "__main__":
    main()

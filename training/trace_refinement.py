"""Real and imagined success along a refinement: where do they part, and what did the rule choose?

    python -m training.refine_policy --policy runs/clone/hammer --out runs/refine/hammer --snapshots
    python -m training.trace_refinement --run runs/refine/* --episodes 50 --out runs/traces

The clone and every snapshot are evaluated in both worlds from the same starts (figure M5 of the
trust figures).
Writes `traces.json` and `traces.png`, where other runs are kept; what is measured of a run is kept
in its own folder too, as `trace.json`, and not measured again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from training import command
from training.evaluate import evaluate
from training.formatting import format_rate
from training.judge import snapshot_path
from training.measured import contents
from training.metrics import Rate
from training.pictures import drawing
from training.real_env import split_seeds
from training.records import save_record
from training.rows import Row, load_rows, save_rows
from training.settings import require_at_least
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.trace_refinement`.

    Attributes:
        run: Folders of refinements that kept their snapshots.
        world_model: Folder or Hub id; none given means the embedded one.
        episodes: Real episodes, and imagined ones, a snapshot.
        split: The split whose seeds are used; choose nothing on "test".
        seed_offset: Where in the split's seeds to begin.
        workers: Processes for real episodes.
        out: Folder of `traces.json` and `traces.png`.
    """

    run: tuple[Path, ...]
    world_model: str | None = None
    episodes: int = 50
    split: Literal["validation", "test"] = "validation"
    seed_offset: int = 100_000
    workers: int = 2
    out: Path = Path("runs/traces")

    def __post_init__(self) -> None:
        require_at_least(self, 1, "episodes", "workers")
        if not self.run:
            raise ValueError("run: expected at least one folder")


def trace(args: Args, world_model: WorldModel, run: Path) -> Row:
    """Evaluates a run's clone and every snapshot; returns the points, the chosen and the best one.

    A point whose `imagined_steps` is None is the clone, where refinement changed it before PPO;
    so is a `chosen` or `best` that is None. `ensemble` is that of the clone and the chosen policy,
    where the run kept it; else None.

    Raises:
        FileNotFoundError: The run has no curve, or kept no snapshots.
        PolicyError: Its clone is no longer where it was.
    """
    curve = json.loads((run / "curve.json").read_text())
    refined = json.loads((run / "settings.json").read_text())
    settings = traced_with(args, world_model)
    path = run / "trace.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("settings") != settings:
        before = {}
    known = {point["imagined_steps"]: point for point in before.get("points", [])}
    seeds = split_seeds(args.split, args.episodes, args.seed_offset)
    report: Row = {
        "run": run.name,
        "task": curve["task"],
        "demonstrations": refined["demonstrations"],
        "seed": refined["seed"],
        "points": [],
        "ensemble": before.get("ensemble"),
    }
    policies: list[tuple[int | None, float, Path]] = []
    if curve["cloned"] is not None:
        policies.append((None, curve["cloned"], Path(refined["policy"])))
    for measured in curve["curve"]:
        steps = measured["imagined_steps"]
        snapshot = snapshot_path(run, steps)
        if not snapshot.exists():
            raise FileNotFoundError(f"{snapshot}: refine with --snapshots to keep it")
        policies.append((steps, measured["judged"], snapshot))
    for steps, judged, policy in policies:
        point = known.get(steps)
        if point is None:
            result = evaluate(policy, world_model, seeds, workers=args.workers)
            point = {"imagined_steps": steps, "judged": judged, **result.record()}
        report["points"].append(point)
        report["chosen"] = curve["kept"]
        report["best"] = max(report["points"], key=lambda p: p["real"]["mean"])["imagined_steps"]
        save_record(path, {"settings": settings, **report})
        print(
            f"{'clone' if steps is None else f'{steps:5d} steps'}: "
            f"real {format_rate(Rate(**point['real']))}, "
            f"imagined {format_rate(Rate(**point['imagined']))}",
            flush=True,
        )
    handed_out = curve["cloned"] is not None and refined.get("ensemble")
    if handed_out and report["ensemble"] is None:
        report["ensemble"] = evaluate(run, world_model, seeds, workers=args.workers).record()
        save_record(path, {"settings": settings, **report})
    return report


def traced_with(args: Args, world_model: WorldModel) -> dict[str, Any]:
    """What runs must share to be drawn beside each other."""
    settings = {name: getattr(args, name) for name in ("episodes", "split", "seed_offset")}
    return {"world_model": contents(world_model), **settings}


def place(report: Row) -> tuple[Any, ...]:
    """Where a run's report stands in the file."""
    return -report["demonstrations"], report["task"], report["seed"], report["run"]


def plot(reports: Sequence[Row], path: Path) -> None:
    """Draws both successes of each run by imagined steps, the point chosen and the best one."""
    columns = min(3, len(reports))
    rows = math.ceil(len(reports) / columns)
    with drawing(
        path, columns, rows, figsize=(4.2 * columns, 3.2 * rows), sharey=True, squeeze=False
    ) as grid:
        for axes, report in zip(grid.flat, reports, strict=False):
            last = report["points"][-1]["imagined_steps"]
            places = {p["imagined_steps"]: p["imagined_steps"] for p in report["points"]}
            if None in places:  # the clone stands before PPO's beginning
                places[None] = -last // 6
                axes.set_xticks([places[None], 0, last], ["clone", 0, last])
            elif not last:  # imagination had nothing to teach the clone
                axes.set_xticks([0], ["clone"])
            at = list(places.values())
            for world, colour in (("real", "black"), ("imagined", "tab:blue")):
                low, means, high = (
                    [100 * p[world][name] for p in report["points"]]
                    for name in ("low", "mean", "high")
                )
                axes.plot(at, means, "o-", color=colour, label=world)
                axes.fill_between(at, low, high, color=colour, alpha=0.12)
                if report["ensemble"]:
                    mean = 100 * report["ensemble"][world]["mean"]
                    label = f"{world}, ensemble of clone and chosen"
                    axes.plot(places[report["chosen"]], mean, "*", ms=13, color=colour, label=label)
            for name, style in (("chosen", "-"), ("best", ":")):
                axes.axvline(
                    places[report[name]], linestyle=style, color="tab:red", label=f"{name} policy"
                )
            title = f"{report['task']} of {report['demonstrations']}, seed {report['seed']}"
            if report["run"] != "refined":
                title = f"{report['run']}: {title}"
            axes.set(xlabel="imagined steps", ylim=(-3, 103))
            axes.set_title(title, fontsize="medium")
        grid[0, 0].set_ylabel("success, %")
        grid[0, 0].legend(fontsize="small")
        for axes in grid.flat[len(reports) :]:
            axes.set_visible(False)


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    world_model = WorldModel.from_pretrained(args.world_model)
    path, settings = args.out / "traces.json", traced_with(args, world_model)
    load_rows(path, settings)
    for run in args.run:
        reports = save_rows(path, settings, [trace(args, world_model, run)], place)
    plot(reports, args.out / "traces.png")


if __name__ == "__main__":
    command.run(main)

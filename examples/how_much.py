"""How many episodes, and how long a training, does a world model need? Tries it on one task.

    python -m examples.how_much --task lever-pull --sizes 10 30 100 220 --out runs/how_much

Takes N of a task's training episodes, with the same shares of experts, rollouts of clones and
random ones as in the whole; one in six, at least two, all of them rollouts, calibrate. Trains a
memory and a denoiser on them with the eyes of a world model that is there, and measures: outcomes
and frames of the test episodes, and for Meta-World's tasks the real success of clones and of what
refinement makes of them. What is done is not done again. The figure is drawn from all tasks in
`--out`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from training.envs.real_env import TASKS
from training.evaluation.pictures import drawing
from training.runs.records import save_record
from world4rl_gym.components import save_component
from world4rl_gym.episodes import task_folder
from world4rl_gym.eyes import Eyes
from world4rl_gym.world_model import WorldModel

KINDS = ("expert", "policy", "random")
"""Behaviours that are counted; perturbed replays and plans are left out."""


def subset(task: str, episodes: Path, size: int, out: Path) -> int:
    """Links `size` episodes, all where there are fewer, and returns how many."""
    source, to = task_folder(episodes, task).absolute(), task_folder(out, task)
    rng = np.random.default_rng(size)
    kinds = {kind: sorted((source / "train").glob(f"{kind}-*.npz")) for kind in KINDS}
    total = sum(map(len, kinds.values()))
    for split in ("train", "validation"):
        (to / split).mkdir(parents=True)
    used = 0
    for kind, files in kinds.items():
        count = max(1, round(min(size, total) * len(files) / total))
        held_out = max(2, size // 6) if kind == "policy" else 0
        chosen = rng.permutation(np.array(files))[:count]
        used += len(chosen)
        for index, file in enumerate(chosen):
            split = "validation" if index < held_out else "train"
            (to / split / Path(file).name).symlink_to(file)
    for shared in [source / "test", *source.glob("start-frames-*.npz")]:
        (to / shared.name).symlink_to(shared)
    return used


def run_command(name: str, *words: Any) -> float:
    """Runs `python -m training.NAME`; returns its seconds."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", f"training.{name}", *map(str, words)], check=True)
    return time.monotonic() - begun


def measure(args: argparse.Namespace, size: int, steps: int) -> dict[str, Any]:
    """Trains and measures one size, by the documented commands."""
    task, out = args.task, args.out / f"{args.task}-{size}-{steps}"
    done = out / "row.json"
    if done.exists():
        return dict(json.loads(done.read_bytes()))
    data, model = out / "data", out / "world_model"
    shutil.rmtree(data, ignore_errors=True)
    used = subset(task, args.episodes, size, data)
    known = WorldModel.from_pretrained(args.world_model)
    eyes = Eyes(1, known.frame_size, known.code_size, known.eyes.config.width)
    eyes.of_task[0].load_state_dict(known.task_eyes(task).state_dict())
    save_component(eyes, out / "eyes" / "eyes")
    of = ["--episodes", data, "--eyes", out / "eyes"]
    memory = run_command(
        "train_memory", "--task", task, *of, "--steps", steps, "--out", out / "memory"
    )
    drawn = out / "denoiser"
    denoiser = 0.0
    if args.denoiser is None:
        denoiser = run_command(
            "train_denoiser", "--tasks", task, *of, "--steps", args.denoiser_steps, "--out", drawn
        )
    parts = ["--memories", out / "memory", "--denoiser", args.denoiser or drawn]
    run_command("assemble_world_model", "--tasks", task, *of, *parts, "--out", model)
    judged = ["--world-model", model, "--episodes", data, "--tasks", task, "--no-twin"]
    run_command("evaluate_world_model", *judged, "--out", out / "report")
    report = json.loads((out / "report/world_model.json").read_bytes())["tasks"][task]
    row: dict[str, Any] = {
        "task": task,
        "episodes": used,
        "memory_steps": steps,
        "memory_seconds": round(memory),
        "denoiser_steps": args.denoiser_steps if args.denoiser is None else None,
        "denoiser_seconds": round(denoiser),
        "auroc": report["policies"]["auroc"],
        "agreement": report["policies"]["agreement"]["mean"],
        "psnr": None if args.denoiser else list(report["frames"]["psnr"].values())[-1],
    }
    if task in TASKS:
        cells = ["--cells", out / "cells", "--out", out / "cells.json", "--workers", 1]
        runs = ["--demonstrations", 5, "--draws", 2, "--seeds", 1, "--episodes", 100]
        run_command(
            *("reproduce", "--tasks", task, *runs, "--policies", "cloned", "refined"),
            *("--steps", 200_000, "--world-model", model, "--episodes-folder", args.episodes),
            *cells,
        )
        rows = json.loads((out / "cells.json").read_bytes())["rows"]
        for name in ("cloned", "refined", "imagined_after"):
            row[name] = [one[name]["mean"] for one in rows]
    save_record(done, row)
    return row


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Outcomes, frames and real success against episodes, and outcomes against training time."""
    usual = max((row["memory_steps"] for row in rows), key=[r["memory_steps"] for r in rows].count)
    with drawing(path, 4, 1, figsize=(15, 3.4)) as panels:
        for task in sorted({row["task"] for row in rows}):
            own = [row for row in rows if row["task"] == task]
            sized = sorted(
                (row for row in own if row["memory_steps"] == usual), key=lambda r: r["episodes"]
            )
            sizes = [row["episodes"] for row in sized]
            panels[0].plot(sizes, [row["auroc"] for row in sized], "o-", label=task)
            panels[1].plot(sizes, [row["psnr"] for row in sized], "o-", label=task)
            if task in TASKS:
                refined = [100 * np.mean(row["refined"]) for row in sized]
                (line,) = panels[2].plot(sizes, refined, "o-", label=task)
                clones = 100 * np.mean([row["cloned"] for row in sized])
                panels[2].axhline(clones, color=line.get_color(), linestyle=":")
            largest = max(row["episodes"] for row in own)
            timed = sorted(
                (row for row in own if row["episodes"] == largest),
                key=lambda r: r["memory_seconds"],
            )
            minutes = [row["memory_seconds"] / 60 for row in timed]
            panels[3].plot(minutes, [row["auroc"] for row in timed], "o-", label=task)
        for axes, title in zip(
            panels,
            (
                "AUROC of outcomes",
                "PSNR at the last decision, dB",
                "real success, %, refined; dotted: clones",
            ),
            strict=False,
        ):
            axes.set(title=title, xlabel="episodes", xscale="log")
            axes.minorticks_off()
            axes.set_xticks(sizes, [str(size) for size in sizes])
        panels[3].set(title="AUROC of outcomes", xlabel="minutes of training, all episodes")
        panels[0].legend()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True)
    parser.add_argument("--episodes", type=Path, default=Path("data/episodes"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 30, 100, 220])
    parser.add_argument("--steps", type=int, nargs="+", default=[1000], help="of the memory")
    parser.add_argument("--denoiser-steps", type=int, default=250)
    parser.add_argument("--denoiser", type=Path, help="one that is there; no frames are judged")
    parser.add_argument("--world-model", help="whose eyes are taken; the embedded one else")
    parser.add_argument("--out", type=Path, default=Path("runs/how_much"))
    args = parser.parse_args(arguments)
    for steps in args.steps:
        for size in args.sizes:
            print(json.dumps(measure(args, size, steps)), flush=True)
    rows = [json.loads(path.read_bytes()) for path in sorted(args.out.glob("*/row.json"))]
    save_record(args.out / "how_much.json", {"rows": rows})
    draw(rows, args.out / "how_much.png")


if __name__ == "__main__":
    main()

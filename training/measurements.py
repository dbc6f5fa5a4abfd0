"""Writes the measured successes as one tidy table: a row a policy and measurement.

    python -m training.measurements

Reads the rows of the JSON files of `results/`, whatever command wrote them, and writes
`measurements.csv` beside them. How far world models are to be believed stands in world_model.json
alone.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from training.evaluation.metrics import Rate, rate, share, unpacked
from training.runs import command
from world4rl_gym.writing import write_whole

COLUMNS = (
    *("file", "task", "recorded_as", "degraded_frames", "training_episodes", "observation"),
    *("demonstrations", "draw", "seed", "variation", "policy", "world"),
    *("episodes", "mean", "low", "high", "real_episodes_spent", "steps"),
)
"""`world` is where the policy acted, "real" or "imagined"; success is a fraction, with its 95 %
interval; `variation` is of an ablation, or names a run of rounds; `steps` are PPO's, and
`real_episodes_spent` are those that the policy learned from itself, not its world model."""
REFINED = ("refined", "real_twin", "zero_reward", "steered", "distilled")
"""Policies that PPO has changed."""
IMAGINED = {
    "imagined_before": "cloned",
    "imagined_after": "refined",
    "distilled_imagined": "distilled",
}
"""Of the names that figures have in the files, those of imagination, and their policies."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.measurements`.

    Attributes:
        results: Folder of the JSON files.
    """

    results: Path = Path("results")


def figures_of(row: dict[str, Any]) -> Iterator[tuple[str, str, Rate]]:
    """Policy, world and success of every measurement in a row of any of the files."""
    if "outcomes" in row:  # an episode a character
        for name, text in row["outcomes"].items():
            success = rate(unpacked(text))
            yield IMAGINED.get(name, name), "imagined" if name in IMAGINED else "real", success
        return
    for name, value in row.items():
        if isinstance(value, dict) and "mean" in value:
            world = "imagined" if name in IMAGINED else "real"
            yield IMAGINED.get(name, name), world, Rate(**value)
        elif isinstance(value, dict) and set(value) == {"imagined", "real"}:
            for world, mean in value.items():
                yield name, world, share(round(mean * row["episodes"]), row["episodes"])


def measurements(results: Path) -> list[dict[str, Any]]:
    """All rows, file by file."""
    found = []
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_bytes())
        file = {} if isinstance(content, list) else content
        rows = content if isinstance(content, list) else content.get("rows", [])
        for row in rows:
            common = {name: row[name] for name in COLUMNS if name in row}
            for policy, world, success in figures_of(row):
                steps = row.get("steps", file.get("steps"))
                if isinstance(steps, dict):
                    steps = steps.get(policy)
                elif policy == "real_twin":
                    steps = file.get("real_steps")
                own: dict[str, Any] = {"file": path.name, "policy": policy, "world": world}
                own |= {"steps": steps if policy in REFINED else None}
                found.append({**common, **own, **dataclasses.asdict(success)})
        for name, report in file.get("improve", {}).items():  # those of training.improve
            task = report.get("task", name)
            of = {"file": path.name, "task": task, "variation": None if name == task else name}
            for policy, figures in report["policies"].items():
                spent = figures["real_episodes_spent"]
                own = {"policy": policy, "world": "real", "real_episodes_spent": spent}
                found.append({**of, **own, **figures["real"]})
    return found


def as_csv(rows: list[dict[str, Any]]) -> str:
    """A line a row, after that of the names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    rows = measurements(args.results)
    write_whole(args.results / "measurements.csv", as_csv(rows).encode())
    print(f"{len(rows)} measurements: {args.results / 'measurements.csv'}")


if __name__ == "__main__":
    command.run(main)

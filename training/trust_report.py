"""One page that says how far to believe a world model, and what was refined in it.

    python -m training.evaluate_world_model --out runs/report
    python -m training.evaluate_policy --task hammer --policy runs/refined/hammer/policy \\
        --out runs/report/hammer-refined.json
    python -m training.trust_report --report runs/report/world_model.json \\
        --policies runs/report/hammer-refined.json
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jinja2
import tyro

from training.evaluation.metrics import rate
from training.evaluation.trust import TRUST, VERDICTS, verdict
from training.runs import command
from training.runs.settings import SettingsError
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.trust_report`.

    Attributes:
        report: What `training.evaluate_world_model` measured.
        policies: What `training.evaluate_policy --out` measured, a file a policy.
        world_model: Folder or Hub id, for what it was made of; None is the embedded one.
        out: The page.
    """

    report: Path
    policies: tuple[Path, ...] = ()
    world_model: str | None = None
    out: Path = Path("runs/report/trust.html")


def page(report: dict[str, Any], policies: list[dict[str, Any]], provenance: dict[str, Any]) -> str:
    """Returns the page; it needs nothing beside itself.

    Args:
        report: Of `training.evaluate_world_model`.
        policies: Each with `name`, `task`, and shares of successes `imagined` and `real`.
        provenance: What the world model was made of.
    """
    tasks = [
        {"name": task, "verdict": verdict(measured), **measured}
        for task, measured in report["tasks"].items()
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        tasks=tasks,
        verdicts=VERDICTS,
        split=report["split"],
        both=report["summary"].get("policies_in_both_worlds"),
        policies=policies,
        provenance=provenance,
    )


def read_policy(path: Path) -> dict[str, Any]:
    """Reads what `training.evaluate_policy --out` wrote.

    Raises:
        SettingsError: It is missing, or something else.
    """
    try:
        record = json.loads(path.read_bytes())
        own = {name: rate(record[name]) for name in ("imagined", "real") if name in record}
        return {"name": path.stem, "task": record["task"], **own}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{path}: policies: not a policy's outcomes ({error!r})") from None


def run(args: Args) -> None:
    """Writes the page.

    Raises:
        SettingsError: A file lacks what the page shows.
        WorldModelError: The world model cannot be loaded.
    """
    world_model = WorldModel.from_pretrained(args.world_model)
    try:
        report = json.loads(args.report.read_bytes())
        made_of = {k: v for k, v in world_model.config.provenance.items() if k != TRUST}
        text = page(report, [read_policy(p) for p in args.policies], made_of)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, jinja2.UndefinedError) as error:
        raise SettingsError(f"{args.report}: report: lacks what the page shows ({error})") from None
    write_whole(args.out, text.encode())
    print(args.out)


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

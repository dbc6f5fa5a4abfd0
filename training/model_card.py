"""The model card of a world model: what it is, what it was measured to do, how to use it.

    python -m training.model_card --folder runs/world_model --report runs/report/world_model.json

writes a folder's card anew, once its figures were measured.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import tyro

from training import command
from training.formatting import format_at_most, markdown_table
from training.measured import contents, load_measured
from training.policy_table import describe_agreement
from training.settings import SettingsError
from world4rl_gym.model_index import CARD_FILE
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.model_card`.

    Attributes:
        folder: Folder of the world model; only its card is changed.
        report: Figures that `training.evaluate_world_model` measured.
        table: Policies that `training.reproduce` measured in it, where that was done.
    """

    folder: Path
    report: Path
    table: Path | None = None


_USE = """```python
import gymnasium as gym
import world4rl_gym

env = gym.make("World4RL-Imagined-v0", world_model="{repo_id}"{revision}, task="{task}")
obs, info = env.reset(seed=0)
for _ in range(50):
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    if terminated or truncated:
        obs, info = env.reset()
env.close()
```"""

_LIMITS = """## Intended use

Refining and comparing policies of these tasks, and research on world models. Not for deciding
without a test in reality that a policy is safe or good, and not for robots, cameras or scenes
other than those of its episodes.

## Limits

Success in imagination is not success in reality: measure a refined policy in the real environment
before you trust it. A policy that is refined for long learns to please the model: stop when
imagined success no longer rises. Actions unlike those of the training episodes, and scenes unlike
the initial frames, are imagined badly."""


def model_card(
    model: WorldModel,
    reward_figures: dict[str, Any] | None = None,
    report: dict[str, Any] | None = None,
    agreement: dict[str, Any] | None = None,
    *,
    repo_id: str = "OWNER/NAME",
    revision: str | None = None,
    picture: str | None = None,
) -> str:
    """Returns the card as Markdown with the Hub's metadata in front.

    Args:
        model: The world model.
        reward_figures: What `training.train_reward_head` measured on test episodes.
        report: What `training.evaluate_world_model` measured on test episodes.
        agreement: What `training.metrics.policy_agreement` told of policies in it and in reality.
        repo_id: The id that the example loads.
        revision: The branch that the example loads, if not the main one.
        picture: Name of a GIF beside the card.

    Raises:
        KeyError: A figure is missing from what is given.
    """
    config = model.config
    parameters = sum(p.numel() for p in model.denoiser.parameters()) / 1e6
    chosen = f', revision="{revision}"' if revision else ""
    measured = []
    split = report["split"] if report is not None else "test"
    if reward_figures is not None:
        measured.append(_reward_text(reward_figures["all"], config.success_threshold, split))
    if report is not None:
        measured.append(_report_text(report))
    if agreement is not None:
        measured.append(
            "Policies evaluated from the same starts in imagination and in reality, each going\n"
            f"where its own actions lead. {describe_agreement(agreement)}"
        )
    provenance = [f"- {key.replace('_', ' ')}: {value}" for key, value in config.provenance.items()]
    parts = [
        "---\nlibrary_name: world4rl-gym\nlicense: mit\npipeline_tag: reinforcement-learning\n"
        "tags: [world-model, robotics, reinforcement-learning, gymnasium, diffusion]\n---",
        f"# A world model of {len(config.tasks)} manipulation tasks",
        *([f"![Imagined episodes]({picture})"] if picture else []),
        f"Imagines {', '.join(config.tasks)}: given the last {model.context_length} camera frames\n"
        f"({model.frame_size} x {model.frame_size}) and actions ({model.action_size} components, "
        f"each held for\n{config.action_repeat} control steps), an EDM denoiser of "
        f"{parameters:.1f} M parameters predicts the next frame,\nand a reward head tells whether "
        "it shows the task solved.",
        _USE.format(repo_id=repo_id, revision=chosen, task=config.tasks[0]),
        "## Data and training",
        "\n".join(provenance) or "Not stated.",
        "## Measured",
        "\n\n".join(measured) or "No figures were given with this model: measure before you trust.",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _reward_text(head: dict[str, Any], threshold: float, split: str) -> str:
    return (
        f"Reward head on {head['frames']} real frames of {split} episodes, threshold {threshold}\n"
        f"(chosen on validation episodes): AUROC {head['auroc']:.4f}, expected calibration error\n"
        f"{head['ece']:.4f}, false positives {_rate(head['false_positive'])}, false negatives\n"
        f"{_rate(head['false_negative'])}."
    )


def _report_text(report: dict[str, Any]) -> str:
    """The trust figures of the paired replay, over all tasks and for each."""
    columns = ["task", "episodes", "agreement", "false success", "missed success"]
    rows = [
        [
            task,
            str(figures["episodes"]),
            f"{100 * figures['agreement']['mean']:.0f} %",
            format_at_most(**figures["false_success"]),
            format_at_most(**figures["missed_success"]),
            f"{figures['auroc']:.4f}",
        ]
        for task, figures in {"all": report, **report["tasks"]}.items()
    ]
    return (
        f"{report['split'].capitalize()} episodes imagined again from their first frames and "
        "their own actions, against what\n"
        "really happened. A false success is an episode that failed in truth and was solved in\n"
        "imagination; in brackets the upper end of its 95 % interval.\n\n"
        + markdown_table([*columns, "reward head's AUROC"], rows)
    )


def _rate(rate: dict[str, float]) -> str:
    return (
        f"{100 * rate['mean']:.2f} % (95 % interval {100 * rate['low']:.2f} to "
        f"{100 * rate['high']:.2f})"
    )


def read_agreement(table: Path | None, model: WorldModel) -> dict[str, Any] | None:
    """M4 of a table of policies; None where no table is given.

    Raises:
        SettingsError: A policy of the table was made in another world model.
        KeyError: The table has too few policies for it.
    """
    if table is None:
        return None
    own = contents(model)
    if any(policy.world_model != own for policy in load_measured(table)):
        raise SettingsError(f"{table}: holds policies of another world model than the card's")
    told: dict[str, Any] = json.loads(table.read_text())["agreement"]
    return told


def write_card(args: Args) -> None:
    """Writes the card of a world model's folder anew, with what was measured of it.

    Raises:
        WorldModelError: The folder's world model is refused.
        SettingsError: A file lacks what the card shows.
    """
    model = WorldModel.from_pretrained(args.folder)
    try:
        report = json.loads(args.report.read_text())
        card = model_card(model, {"all": report}, report, read_agreement(args.table, model))
    except SettingsError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        given = " or ".join(str(path) for path in (args.report, args.table) if path)
        raise SettingsError(f"{given}: lacks what the card shows ({error!r})") from None
    write_whole(args.folder / CARD_FILE, card.encode())


def main() -> None:
    """Runs the command line."""
    write_card(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

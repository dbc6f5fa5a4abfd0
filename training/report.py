"""Writes the README's measured results from the files that the measurements left in `results/`.

    python -m training.report

Everything between the two markers is replaced, so no figure there is typed by hand.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from training import command, compare_data
from training.compare import format_comparison
from training.measured import Measured, by_demonstrations, by_task, load_measured
from training.methods import METHODS
from training.policy_table import describe_agreement, format_table, make_rows
from training.real_env import TASKS
from training.reproduce import Args as TableArgs
from training.settings import SettingsError
from training.trust import FRAMES

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.report`.

    Attributes:
        results: Folder of the measurements.
        readme: The file whose section is replaced.
    """

    results: Path = Path("results")
    readme: Path = Path("README.md")


def policies_section(results: Path) -> str:
    """The tables of cloned and refined policies, their figures, and how the worlds agree."""
    told = json.loads((results / "table.json").read_text())
    parts = [
        "### Policies, before and after",
        "Real episodes on start configurations that nothing was trained on, imagined episodes from "
        "the first frames of those same episodes, 95 % intervals (Clopper-Pearson). *Not the "
        "clone*: in how many seeds what was kept is not the clone as it was. World4RL's figures, "
        "where they stand, are of another camera, horizon and set of demonstrations. The refined "
        "policies are in [results/policies](results/policies):\n"
        "`python -m training.evaluate --policy results/policies/5/door-lock-0` measures one anew.",
    ]
    for number, policies in by_demonstrations(load_measured(results / "table.json")).items():
        commands = [
            "python -m training.reproduce --tasks "
            + ("all" if len(tasks) == len(TASKS) else " ".join(t for t in TASKS if t in tasks))
            + flags
            for tasks, flags in _grids(policies, "task")
        ]
        parts += [
            _told(policies, commands),
            format_table(make_rows(policies)),
            f"![real success before and after](results/table-{number}.png)",
        ]
    parts += [
        "![imagined against real success of these policies](results/policies.png)",
        describe_agreement(told["agreement"]),
    ]
    return "\n\n".join(parts)


def comparison_section(results: Path) -> str:
    """Refinement beside its variants and learning from episodes alone; "" where not measured."""
    path = results / "comparison.json"
    if not path.exists():
        return ""
    parts = [
        "### Beside other ways to use the same data",
        "From the table's starts, real success in per cent with its 95 % interval, imagined "
        "success in brackets; pooled over the seeds whose figures stand beside. What learns from "
        "episodes has the demonstrations and 50 real rollouts of the clone.",
    ]
    for (_, task), group in by_task(load_measured(path)).items():
        commands = [
            f"python -m training.compare --tasks {task} --methods "
            + " ".join(method for method in METHODS if method in methods)
            + flags
            for methods, flags in _grids(group, "method")
        ]
        parts += [f"**{task}**. {_told(group, commands)}", format_comparison(group)]
    return "\n\n".join(parts)


def _told(policies: Sequence[Measured], commands: Sequence[str]) -> str:
    """Of what clones some policies are, and the commands that made them."""
    seeds = sorted({policy.seed for policy in policies})
    every = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(str(seed) for seed in seeds)}"
    one = policies[0]
    words = f"Clones of {one.demonstrations} demonstrations, {every}, {one.episodes} episodes a "
    return "\n".join([f"{words}figure and seed:", *(f"`{command}`" for command in commands)])


def _grids(policies: Sequence[Measured], name: str) -> list[tuple[set[str], str]]:
    """What was measured with which seeds: tasks or methods, and a command's flags for the rest.

    Seeds that follow each other and have the same of them share a command.

    Raises:
        SettingsError: The policies were made by different recipes.
    """
    one = policies[0]
    if len({policy.made_by for policy in policies}) > 1:
        raise SettingsError(
            f"recipe: policies of {one.demonstrations} demonstrations were made by different ones"
        )
    grids: list[tuple[set[str], list[int]]] = []
    for seed in sorted({policy.seed for policy in policies}):
        own = {getattr(policy, name) for policy in policies if policy.seed == seed}
        if grids and grids[-1][0] == own and grids[-1][1][-1] == seed - 1:
            grids[-1][1].append(seed)
        else:
            grids.append((own, [seed]))
    told = []
    for own, seeds in grids:
        given = {"first_seed": seeds[0], "demonstrations": one.demonstrations, **one.recipe}
        given["episodes"] = one.episodes
        changed = {k: v for k, v in given.items() if v != getattr(TableArgs, k)}
        few = "".join(_flag(k, value) for k, value in changed.items())
        told.append((own, f" --seeds {len(seeds)}{few}"))
    return told


def _flag(name: str, value: float) -> str:
    """As a command line takes it, a blank before."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f" --{flag}" if value else f" --no-{flag}"
    return f" --{flag} {value}"


def fidelity_section(results: Path) -> str:
    """Open-loop fidelity, trust figures and strips."""
    report = json.loads((results / "world_model.json").read_text())
    lines = ["| actions | | " + " | ".join(str(t) for t in FRAMES) + " |"]
    lines.append("|---" * (len(FRAMES) + 2) + "|")
    for group, name in (("policy", "policies and experts"), ("random", "uniform random")):
        for measure, label, digits in (("psnr", "PSNR, dB", 1), ("ssim", "SSIM", 3)):
            for suffix, what in (("", label), ("_frozen", "frozen first frame")):
                values = report[group][measure + suffix]
                cells = [f"{values[str(t)]:.{digits}f}" for t in FRAMES]
                lines.append(f"| {name} | {what} | " + " | ".join(cells) + " |")
                name = ""
    figures = "\n".join(lines)
    strips = "\n".join(
        f"| {task} | ![{task}](results/pictures/{task}.png) |" for task in report["tasks"]
    )
    return f"""### The world model

Open-loop imagination of {report["episodes"]} {report["split"]} episodes, \
{report["num_inference_steps"]} denoising step a frame, beside a baseline that never \
leaves the first frame.
`python -m training.evaluate_world_model` (episodes from \
`training/collect_default.sh`; all figures, also by task, in \
[results/world_model.json](results/world_model.json))

{figures}

{_trust_table(report)}

{_probe_table(report)}

![fidelity, calibration, uncertainty](results/pictures/trust.png)

| task | strip: real above, imagined below, frames 0, 1, 5, 10, 15, 20, 30, 40, 50 |
|---|---|
{strips}"""


def _trust_table(report: dict[str, Any]) -> str:
    lines = [
        "| task | agreement | false success (at most) | missed | AUROC, real frames | "
        "real episodes missed | ECE | uncertainty AUROC | doubt AUROC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, told in {"**all**": report, **report["tasks"]}.items():
        false, missed = told["false_success"], told["missed_success"]
        lines.append(
            f"| {name} | {100 * told['agreement']['mean']:.0f} % "
            f"| {100 * false['rate']:.0f} % ({100 * false['upper']:.0f} %) "
            f"| {100 * missed['rate']:.0f} % "
            f"| {told['auroc']:.4f} | {100 * told['episode_missed_success']['mean']:.0f} % "
            f"| {told['ece']:.4f} | {told['uncertainty']['auroc']:.2f} "
            f"| {told['uncertainty']['auroc_of_doubt']:.2f} |"
        )
    lines += [
        "",
        "Agreement is of imagined and true outcome of the same starts and actions; false successes "
        "are counted among true failures, with the 95 % interval's upper end; real episodes missed "
        "are those solved whose real frames never pass the threshold. The last two columns are how "
        'well an episode\'s highest `info["uncertainty"]`, and the doubt that its last success '
        "probability leaves, foretell that its imagined outcome is wrong (0.5 is chance).",
    ]
    return "\n".join(lines)


def _probe_table(report: dict[str, Any]) -> str:
    """M3 by probe: what is imagined to succeed of what nobody would call skilled."""
    tasks = report["tasks"]
    lines = [
        "| probe | true success | imagined | optimism | " + " | ".join(tasks) + " |",
        "|---" * (len(tasks) + 4) + "|",
    ]
    for name, told in report["probes"].items():
        values = [100 * told[key] for key in ("true", "imagined", "optimism", "low", "high")]
        true, imagined, optimism, low, high = values
        cells = [f"{100 * own['probes'][name]['optimism']:+.0f}" for own in tasks.values()]
        lines.append(
            f"| {name}, {told['episodes']} episodes | {true:.0f} % | {imagined:.0f} % "
            f"| {optimism:+.0f} [{low:+.0f}, {high:+.0f}] | " + " | ".join(cells) + " |"
        )
    lines += [
        "",
        "Optimism is imagined minus true success, in points, of actions that are no policy's: the "
        "demonstrations' backwards or shuffled, with the gripper open, random, or none; by task "
        "in the last columns. The mean over probes hides what each alone shows.",
    ]
    return "\n".join(lines)


def data_section(results: Path) -> str:
    """What each kind of training episode buys; "" where that was not measured."""
    path = results / "data.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text())
    settings, rows = record["settings"], record["rows"]
    made = {row["mixture"] for row in rows}
    mixtures = " ".join(name for name in compare_data.MIXTURES if name in made)
    seeds = sorted({row["seed"] for row in rows})
    given = f"--seeds {len(seeds)} --first-seed {seeds[0]} --steps {settings['steps']}"
    return f"""### What each kind of training episode buys

Denoisers that differ in their training episodes alone, trained from nothing for \
{settings["steps"]} steps each (the embedded one has had more, and episodes of refined policies \
beside these), with the embedded reward head, on the same {settings["test_episodes"]} test \
episodes and {settings["probe_episodes"]} of probes; 95 % intervals.
`training/collect_default.sh`
`python -m training.compare_data --mixtures {mixtures} {given}`

{compare_data.format_rows(rows)}"""


def speed_section(results: Path) -> str:
    """The benchmark's table and plot, and fidelity by denoising steps."""
    table = (results / "bench.md").read_text().strip()
    steps = json.loads((results / "inference_steps.json").read_text())["rows"]
    lines = [
        "| denoising steps | " + " | ".join(f"PSNR@{t}" for t in FRAMES) + " | agreement |",
        "|---" * (len(FRAMES) + 2) + "|",
    ]
    for row in steps:
        cells = [f"{row['psnr'][str(t)]:.1f}" for t in FRAMES]
        agreement = f"{100 * row['agreement']['mean']:.0f} %"
        lines.append(f"| {row['num_inference_steps']} | " + " | ".join([*cells, agreement]) + " |")
    sweep = "\n".join(lines)
    return f"""### Speed

`make bench`, everything in one run:

{table}

![cost against rows and frame size](results/bench.png)

One denoising step is the default, by `python -m training.evaluate_world_model --most-steps 5` on \
{steps[0]["episodes"]} validation episodes (of `training/build_default.sh`):

{sweep}"""


def render(results: Path) -> str:
    """The whole section, without its markers."""
    sections = (
        policies_section,
        comparison_section,
        fidelity_section,
        data_section,
        speed_section,
    )
    return "\n\n".join(text for section in sections if (text := section(results)))


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    text = args.readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{args.readme}: expected one {BEGIN} and one {END}")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    args.readme.write_text(f"{before}{BEGIN}\n{render(args.results)}\n{END}{after}")


if __name__ == "__main__":
    command.run(main)

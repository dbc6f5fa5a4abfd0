"""The README's sections about the world model: how true it is, what its data bought, how fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training import compare_data
from training.comparison_table import format_overview
from training.formatting import format_at_most, format_optimism, markdown_table
from training.measured import load_measured
from training.trust import FRAMES


def fidelity_section(results: Path) -> str:
    """Open-loop fidelity, trust figures and strips."""
    report = json.loads((results / "world_model.json").read_text())
    rows = []
    for group, name in (("policy", "policies and experts"), ("random", "uniform random")):
        for measure, label, digits in (("psnr", "PSNR, dB", 1), ("ssim", "SSIM", 3)):
            for suffix, what in (("", label), ("_frozen", "frozen first frame")):
                values = report[group][measure + suffix]
                cells = [f"{values[str(t)]:.{digits}f}" for t in FRAMES]
                rows.append([name, what, *cells])
                name = ""
    figures = markdown_table(["actions", "", *(str(t) for t in FRAMES)], rows)
    strips = markdown_table(
        ["task", "strip: real above, imagined below, frames 0, 1, 5, 10, 15, 20, 30, 40, 50"],
        ([task, f"![{task}](results/pictures/{task}.png)"] for task in report["tasks"]),
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

{strips}"""


def _trust_table(report: dict[str, Any]) -> str:
    columns = ["task", "agreement", "false success (at most)", "missed", "AUROC, real frames"]
    columns += ["real episodes missed", "ECE", "uncertainty AUROC", "doubt AUROC"]
    rows = [
        [
            name,
            f"{100 * told['agreement']['mean']:.0f} %",
            format_at_most(**told["false_success"]),
            f"{100 * told['missed_success']['rate']:.0f} %",
            f"{told['auroc']:.4f}",
            f"{100 * told['episode_missed_success']['mean']:.0f} %",
            f"{told['ece']:.4f}",
            f"{told['uncertainty']['auroc']:.2f}",
            f"{told['uncertainty']['auroc_of_doubt']:.2f}",
        ]
        for name, told in {"**all**": report, **report["tasks"]}.items()
    ]
    return (
        f"{markdown_table(columns, rows)}\n\n"
        "Agreement is of imagined and true outcome of the same starts and actions; false successes "
        "are counted among true failures, with the 95 % interval's upper end; real episodes missed "
        "are those solved whose real frames never pass the threshold. The last two columns are how "
        'well an episode\'s highest `info["uncertainty"]`, and the doubt that its last success '
        "probability leaves, foretell that its imagined outcome is wrong (0.5 is chance)."
    )


def _probe_table(report: dict[str, Any]) -> str:
    """M3 by probe: what is imagined to succeed of what nobody would call skilled."""
    tasks = report["tasks"]
    rows = []
    for name, told in report["probes"].items():
        cells = [f"{100 * own['probes'][name]['optimism']:+.0f}" for own in tasks.values()]
        rates = [f"{100 * told[world]:.0f} %" for world in ("true", "imagined")]
        named = f"{name}, {told['episodes']} episodes"
        rows.append([named, *rates, format_optimism(told), *cells])
    return (
        f"{markdown_table(['probe', 'true success', 'imagined', 'optimism', *tasks], rows)}\n\n"
        "Optimism is imagined minus true success, in points, of actions that are no policy's: the "
        "demonstrations' backwards or shuffled, with the gripper open, random, or none; by task "
        "in the last columns. The mean over probes hides what each alone shows."
    )


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

{compare_data.format_rows(rows)}{_refined_in(results / "mixtures")}"""


def _refined_in(folder: Path) -> str:
    """What refinement makes of the same clones in the world models of mixtures, one folder each."""
    told = []
    for path in sorted(folder.glob("*/comparison.json")):
        name = path.parent.name
        told.append(
            f"**Refined in the world model of {name}**, real success of each seed "
            f"([commands, intervals](results/mixtures/{name}/comparison.md)):\n\n"
            f"{format_overview(load_measured(path))}"
        )
    return "".join(f"\n\n{one}" for one in told)


def speed_section(results: Path) -> str:
    """The benchmark's table and plot, and fidelity by denoising steps."""
    table = (results / "bench.md").read_text().strip()
    steps = json.loads((results / "inference_steps.json").read_text())["rows"]
    told = []
    for row in steps:
        cells = [f"{row['psnr'][str(t)]:.1f}" for t in FRAMES]
        agreement = f"{100 * row['agreement']['mean']:.0f} %"
        told.append([str(row["num_inference_steps"]), *cells, agreement])
    columns = ["denoising steps", *(f"PSNR@{t}" for t in FRAMES), "agreement"]
    sweep = markdown_table(columns, told)
    return f"""### Speed

`make bench`, everything in one run:

{table}

![cost against rows and frame size](results/bench.png)

One denoising step is the default, by `python -m training.evaluate_world_model --most-steps 5` on \
{steps[0]["episodes"]} validation episodes (of `training/build_default.sh`):

{sweep}

![fidelity and agreement by denoising steps](results/inference_steps.png)"""

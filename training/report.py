"""Writes the README's measured results from the files that the measurements left in `results/`.

    python -m training.report

Everything between the two markers is replaced, so no figure there is typed by hand. What is said of
policies comes from `report_policies.py`, of the world model from `report_world_model.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from training import command
from training.report_policies import comparison_section, policies_section, stopping_section
from training.report_world_model import data_section, fidelity_section, speed_section

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


def render(results: Path) -> str:
    """The whole section, without its markers."""
    sections = (
        policies_section,
        stopping_section,
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

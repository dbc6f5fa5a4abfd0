"""The README's figures are those that were measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from training import model_card, report, reproduce
from training.measured import load_measured
from training.policy_table import agreement, describe_agreement
from training.report_policies import policies_section
from training.settings import SettingsError

ROOT = Path(__file__).parent.parent


def test_the_readme_holds_what_was_measured() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.split(report.BEGIN)[1].split(report.END)[0]
    assert section == f"\n{report.render(ROOT / 'results')}\n", "run python -m training.report"


def test_the_embedded_models_card_holds_what_was_measured(tmp_path: Path) -> None:
    shipped = ROOT / "world4rl_gym" / "assets" / "world_model"
    folder = tmp_path / "world_model"
    shutil.copytree(shipped, folder)
    (folder / "README.md").unlink()
    results = ROOT / "results"
    args = model_card.Args(folder, results / "world_model.json", results / "table.json")
    model_card.write_card(args)
    card = (folder / "README.md").read_text()
    assert card == (shipped / "README.md").read_text(), "write it anew: CONTRIBUTING.md"
    assert "| hammer | 50 |" in card
    assert "Pearson" in card
    bare = tmp_path / "bare.json"
    bare.write_text("{}")
    with pytest.raises(SettingsError, match="bare.json"):
        model_card.write_card(model_card.Args(folder, bare))


def test_every_picture_of_the_readme_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    pictures = [part.split(")")[0] for part in text.split("](results/")[1:]]
    assert len(pictures) > 6
    for picture in pictures:
        assert (ROOT / "results" / picture).stat().st_size > 0


def test_only_the_section_between_the_markers_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    results = ["--results", str(ROOT / "results"), "--readme", str(readme)]
    monkeypatch.setattr("sys.argv", ["report", *results])
    report.main()
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n### Policies")
    assert text.endswith(f"{report.END}\nafter\n")
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="expected one"):
        report.main()


def test_the_command_beside_a_table_is_of_its_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    told = json.loads((ROOT / "results" / "table.json").read_text())
    recipe = {**reproduce.Args().recipe, "corrections": 7, "ensemble": False}
    first = told["policies"][0]["seed"]
    policies = [
        {**policy, "demonstrations": 5, "seed": seed, "recipe": dict(recipe)}
        for policy in told["policies"]
        for seed in (0, 1)
        if (policy["demonstrations"], policy["seed"]) == (50, first)
    ]
    (folder / "table.json").write_text(json.dumps({**told, "policies": policies}))
    flags = "--seeds 2 --demonstrations 5 --corrections 7 --no-ensemble`"
    text = policies_section(folder)
    assert flags in text
    of_all = agreement(load_measured(folder / "table.json"))
    assert of_all is not None
    assert text.count(describe_agreement(of_all)) == 2  # of these demonstrations, and of all
    for policy in policies:
        policy["seed"] = {0: 0, 1: 3}[policy["seed"]]
    some = [p for p in policies if p["seed"] == 0 or p["task"] in ("hammer", "soccer")]
    (folder / "table.json").write_text(json.dumps({**told, "policies": some}))
    text = policies_section(folder)
    rest = "--demonstrations 5 --corrections 7 --no-ensemble`"
    assert f"`python -m training.reproduce --tasks all --seeds 1 {rest}" in text
    last = "--tasks soccer hammer --seeds 1 --first-seed 3"
    assert f"`python -m training.reproduce {last} {rest}" in text
    policies[0]["recipe"]["clone_steps"] += 1
    (folder / "table.json").write_text(json.dumps({**told, "policies": policies}))
    with pytest.raises(ValueError, match="recipe"):
        policies_section(folder)

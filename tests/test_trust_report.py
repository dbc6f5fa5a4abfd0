"""The page of trust figures: what it says of which figures, and that it opens."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from browser import LOOKS, check_accessible, chromium, look, needs_chromium

from training.evaluation.trust import (
    VERDICTS,
    checksum,
    forget_verdicts,
    keep_verdicts,
    require_believable,
    stated_verdict,
    verdict,
    verdict_sentence,
)
from training.runs.settings import SettingsError
from training.trust_report import Args, run
from world4rl_gym import WorldModel

REPORT = Path(__file__).parents[1] / "results" / "world_model.json"


def figures(auroc: float | None, agreement: float, bias: float) -> dict[str, Any]:
    return {
        "auroc": auroc,
        "agreement": {"mean": agreement},
        "imagined_minus_real": {"mean": bias},
    }


@pytest.mark.parametrize(
    ("auroc", "agreement", "bias", "expected"),
    [
        (0.97, 0.95, -0.04, "believe"),
        (0.97, 0.95, 0.06, "care"),
        (0.94, 0.95, 0.0, "care"),
        (0.97, 0.89, 0.0, "care"),
        (0.84, 0.95, 0.0, "not"),
        (0.97, 0.95, -0.2, "not"),
        (None, 0.95, 0.0, "unknown"),
        (None, 0.05, 0.95, "not"),
    ],
)
def test_a_verdict_follows_from_figures(
    auroc: float | None, agreement: float, bias: float, expected: str
) -> None:
    assert verdict({"plans": figures(auroc, agreement, bias)}) == expected
    good = figures(0.99, 0.99, 0.0)
    if auroc is not None:
        assert verdict({"plans": figures(auroc, agreement, bias), "policies": good}) == expected
    assert verdict({"plans": {}, "policies": good}) == "believe"
    assert verdict({}) == "unknown"
    all_solved = {"plans": figures(None, 1.0, 0.0), "policies": figures(None, 1.0, 0.0)}
    assert verdict(all_solved) == "unknown"
    assert verdict({**all_solved, "near_misses": good}) == "believe"
    assert verdict({**all_solved, "near_misses": figures(0.8, 1.0, 0.0)}) == "not"
    assert verdict({"plans": figures(None, 1.0, 0.0), "policies": good}) == "believe"
    assert verdict({"plans": figures(math.nan, 1.0, 0.0), "policies": good}) == "believe"
    assert verdict({"plans": figures(None, 0.3, 0.7), "policies": good}) == "not"


def test_the_page_says_what_was_measured(tmp_path: Path) -> None:
    outcomes = {
        "task": "hammer",
        "imagined": [True] * 9 + [False],
        "real": [True] * 8 + [False] * 2,
    }
    (tmp_path / "<mine>.json").write_text(json.dumps(outcomes))
    report = json.loads(REPORT.read_bytes())
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    run(Args(path, (tmp_path / "<mine>.json",), out=tmp_path / "trust.html"))
    text = (tmp_path / "trust.html").read_text("utf-8")
    assert "&lt;mine&gt;" in text and "<mine>" not in text
    assert "90 % [" in text and "80 % [" in text
    for task in report["tasks"]:
        assert f"<h3>{task}</h3>" in text
    assert "http" not in text.replace("http-equiv", "")

    broken = copy.deepcopy(report)
    del broken["tasks"]["hammer"]["policies"]["real"]
    path.write_text(json.dumps(broken))
    with pytest.raises(SettingsError, match="lacks what the page shows"):
        run(Args(path, out=tmp_path / "trust.html"))
    with pytest.raises(SettingsError, match="policies: not a policy's outcomes"):
        run(Args(REPORT, (path,), out=tmp_path / "trust.html"))


def test_policies_without_a_correlation_are_said_to_have_none(tmp_path: Path) -> None:
    report = json.loads(REPORT.read_bytes())
    report["summary"]["policies_in_both_worlds"]["pearson"] = None
    path, out = tmp_path / "report.json", tmp_path / "trust.html"
    path.write_text(json.dumps(report))
    run(Args(path, out=out))
    assert "have no correlation" in out.read_text("utf-8")


@needs_chromium
def test_the_page_is_accessible_and_fits(tmp_path: Path) -> None:
    outcomes = {"task": "hammer", "imagined": [True, False], "real": [True, False]}
    (tmp_path / "mine.json").write_text(json.dumps(outcomes))
    page_file = tmp_path / "trust.html"
    run(Args(REPORT, (tmp_path / "mine.json",), out=page_file))
    with chromium() as browser:
        for scheme, width in LOOKS:
            with look(browser, scheme, width) as page:
                page.goto(page_file.as_uri())
                check_accessible(page, width)


def test_a_world_model_states_its_verdicts(model_folder: Path) -> None:
    world_model = WorldModel.from_pretrained(str(model_folder))
    assert stated_verdict(world_model, "push") is None
    measured = {"push": figures(0.5, 0.5, 0.5), "pull": figures(0.99, 0.99, 0)}
    tasks = {
        task: {"plans": own, "checksum": checksum(world_model, task)}
        for task, own in measured.items()
    }
    keep_verdicts(model_folder, {**tasks, "lift": tasks["push"]})
    world_model = WorldModel.from_pretrained(str(model_folder))
    assert stated_verdict(world_model, "push") == "not"
    assert verdict_sentence(world_model, "pull") == VERDICTS["believe"]
    with pytest.raises(SettingsError, match="push: the world model says .* often wrong"):
        require_believable(world_model, "push")
    require_believable(world_model, "pull")
    better = {"plans": measured["pull"], "checksum": checksum(world_model, "push")}
    keep_verdicts(model_folder, {"push": better})
    world_model = WorldModel.from_pretrained(str(model_folder))
    assert [stated_verdict(world_model, task) for task in ("push", "pull")] == ["believe"] * 2
    keep_verdicts(model_folder, {"push": {**better, "checksum": 7}})  # another model's
    world_model = WorldModel.from_pretrained(str(model_folder))
    assert stated_verdict(world_model, "push") is None
    forget_verdicts(world_model, ["pull"])
    assert stated_verdict(world_model, "pull") is None
    world_model.config.provenance["trust_verdicts"] = ["push"]  # somebody else's
    assert "does not say" in verdict_sentence(world_model, "push")

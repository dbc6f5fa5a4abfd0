"""World models that differ in their episodes alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import make_tiny_world_model
from episode_factory import write_episodes

from training import compare, compare_data, reproduce, train_world_model
from training.command_lines import flags
from training.comparison_table import save_comparison
from training.measured import Measured
from training.report_world_model import data_section
from training.settings import SettingsError
from world4rl_gym.world_model import WorldModel


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    given, episodes = tmp_path / "given", tmp_path / "episodes"
    if not given.exists():
        make_tiny_world_model().save_pretrained(given)
        write_episodes(episodes, ("pull", "push"))
    places = {"world-model": given, "episodes": episodes, "work": tmp_path / "work"}
    words = [word for name, path in places.items() for word in (f"--{name}", str(path))]
    command = ["compare_data", "--out", str(tmp_path / "out"), *words, *flags]
    monkeypatch.setattr("sys.argv", command)
    compare_data.main()


def test_world_models_differ_in_their_denoisers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, monkeypatch, "--steps", "2", "--mixtures", "no-random", "all")
    told = capsys.readouterr().out
    assert "12 episodes" in told  # experts of two tasks
    assert "24 episodes" in told
    record = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [row["mixture"] for row in record["rows"]] == ["all", "no-random"]
    assert record["settings"]["steps"] == 2
    given = WorldModel.from_pretrained(tmp_path / "given")
    made = WorldModel.from_pretrained(tmp_path / "work" / "no-random-0" / "world_model")
    assert made.config.success_threshold == given.config.success_threshold
    assert made.denoiser.config.channels == given.denoiser.config.channels
    for name, value in given.reward_head.state_dict().items():
        assert value.equal(made.reward_head.state_dict()[name])

    monkeypatch.setattr(train_world_model, "train", pytest.fail)  # nothing is trained twice
    run(tmp_path, monkeypatch, "--steps", "2", "--mixtures", "all")
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == record
    stale = json.loads(json.dumps(record))
    stale["rows"][0] |= {"world_model": "of another training", "frame": 7}
    (tmp_path / "out" / "data.json").write_text(json.dumps(stale))
    run(tmp_path, monkeypatch, "--steps", "2", "--mixtures", "all")
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == record
    section = data_section(tmp_path / "out")
    assert "| no-random: without random actions | 12 | 0 |" in section
    assert "`python -m training.compare_data --mixtures all no-random --seeds 1 --first-seed 0" in (
        section
    )
    assert "Refined in" not in section
    policies = [
        Measured("hammer", 50, 2, method, reproduce.Args().recipe, "0123", 100, real, 5)
        for method, real in (("cloned", 30), ("refined", 45))
    ]
    folder = tmp_path / "out" / "mixtures" / "all-0"
    args = compare.Args(world_model="model", out=Path("here"))
    save_comparison(policies, folder, flags(args, compare.PLACES))
    section = data_section(tmp_path / "out")
    assert "| refined: refined in imagination, as in the table | 45 | +15 of 1 |" in section
    assert "(results/mixtures/all-0/comparison.md)" in section
    assert (
        "`python -m training.compare --tasks hammer --methods cloned refined --seeds 1 "
        "--first-seed 2 --world-model model --out here`"
    ) in (folder / "comparison.md").read_text()
    assert data_section(tmp_path) == ""
    with pytest.raises(SettingsError, match="data.json: settings: steps: 2 there, 3 now"):
        run(tmp_path, monkeypatch, "--steps", "3", "--mixtures", "all")
    (tmp_path / "out" / "data.json").unlink()
    with pytest.raises(SettingsError, match="steps: 2 there, 3 now"):
        run(tmp_path, monkeypatch, "--steps", "3", "--mixtures", "all")


def test_what_cannot_be_mixed_is_named() -> None:
    with pytest.raises(ValueError, match="mixtures: expected all, no-random"):
        compare_data.Args(mixtures=("magic",))
    with pytest.raises(ValueError, match="behaviours"):
        train_world_model.Args(Path("out"), behaviours=("magic",))

"""World models that differ in their episodes alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import make_tiny_world_model
from episode_factory import write_episodes

from training import compare_data, reproduce, train_world_model
from training.measured import plain
from training.policy import PolicyConfig, make_policy, save_policy
from training.records import save_record
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
    table = (tmp_path / "out" / "data.md").read_text()
    assert "| no-random: without random actions | 12 | 0 |" in table
    with pytest.raises(SettingsError, match="data.json: settings: .*steps"):
        run(tmp_path, monkeypatch, "--steps", "3", "--mixtures", "all")
    (tmp_path / "out" / "data.json").unlink()
    with pytest.raises(SettingsError, match="steps: 2 there, 3 now"):
        run(tmp_path, monkeypatch, "--steps", "3", "--mixtures", "all")


def test_policies_refined_in_a_mixture_stand_below_it(tmp_path: Path) -> None:
    given = make_tiny_world_model()
    asked = compare_data.Args(refine=("hammer",), policy_seeds=1, work=tmp_path)
    args = compare_data.policy_args(asked, "no-random", 0)
    assert args.world_model == str(tmp_path / "no-random-0" / "world_model")
    cell = reproduce.cell_folder(args, "hammer", 0)
    for stage, solved in (("cloned", 40), ("refined", 60)):  # as an earlier run left them
        save_policy(make_policy(PolicyConfig("hammer")), PolicyConfig("hammer"), cell / stage)
        for world, less in (("real", 0), ("imagined", 10)):
            outcomes = [1] * (solved - less) + [0] * (100 - solved + less)
            save_record(cell / f"{stage}-{world}.json", outcomes)
    curve = {"cloned": 0.3, "kept": 6400, "curve": [{"imagined_steps": 6400}]}
    save_record(cell / "refined" / "curve.json", curve)
    claimed = cell / "settings.json"
    assert not claimed.exists()
    policies = compare_data.make_policies(args, given)
    assert claimed.exists()
    rows = [
        {"mixture": "all", "seed": 0, "policies": []},
        {"mixture": "no-random", "seed": 0, "policies": plain(policies)},
    ]
    assert compare_data.format_refined(rows).splitlines() == [
        "| refined in | hammer, seed 0 | mean change |",
        "|---|---|---|",
        "| no-random-0 | 40 → 60 (50) | +20.0 |",
    ]
    assert compare_data.format_refined(rows[:1]) == ""
    assert compare_data.command_lines({"steps": 3}, rows) == [
        "python -m training.compare_data --mixtures all --steps 3 --first-seed 0",
        "python -m training.compare_data --mixtures no-random --steps 3 --first-seed 0 "
        "--refine hammer --policy-seeds 1 --first-policy-seed 0",
    ]


def test_what_cannot_be_mixed_is_named() -> None:
    with pytest.raises(ValueError, match="mixtures: expected all, no-random"):
        compare_data.Args(mixtures=("magic",))
    with pytest.raises(ValueError, match="task"):
        compare_data.Args(refine=("magic",))
    with pytest.raises(ValueError, match="behaviours"):
        train_world_model.Args(Path("out"), behaviours=("magic",))

"""The table of refinement: its cells, how they resume, and its intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from gl import needs_gl

from training import reproduce
from training.data.trainable import DEMONSTRATIONS, load_demonstrations
from training.reproduce import (
    Args,
    Cell,
    bootstrap,
    measure,
    run,
    summarise,
)
from training.runs.settings import SettingsError
from world4rl_gym.components import WEIGHTS_FILE
from world4rl_gym.world_model import WorldModel

SMALL = Args(
    tasks=("door-lock",),
    demonstrations=(5,),
    draws=1,
    seeds=1,
    policies=("cloned", "refined"),
    clone_steps=50,
    steps=3200,
    episodes=3,
    episodes_folder=DEMONSTRATIONS,
    workers=1,
)
CELL = Cell("door-lock", 5, 0, 0)


@needs_gl
def test_a_cell_resumes_and_takes_more_policies(tmp_path: Path) -> None:
    args = dataclasses.replace(SMALL, cells=tmp_path / "cells", out=tmp_path / "table.json")
    (row,) = run(args)
    assert set(row["outcomes"]) == {"cloned", "refined", "imagined_before", "imagined_after"}
    assert all(len(output) == 3 for output in row["outcomes"].values())
    assert 0 <= row["refined"]["low"] <= row["refined"]["mean"] <= row["refined"]["high"] <= 1
    kept = tmp_path / "cells" / CELL.name / "cloned" / WEIGHTS_FILE
    before = kept.stat().st_mtime_ns
    more = measure(dataclasses.replace(args, policies=("cloned", "refined", "zero_reward")), CELL)
    assert "zero_reward" in more["outcomes"]
    assert more["outcomes"]["refined"] == row["outcomes"]["refined"]
    assert kept.stat().st_mtime_ns == before
    other = measure(dataclasses.replace(args, real_steps=7), CELL)  # of PPO that was not asked for
    assert other["outcomes"] == more["outcomes"]
    some = dataclasses.replace(args, policies=("filtered", "flow", "steered"), rollouts=2)
    assert set(measure(some, CELL)["outcomes"]) == {*more["outcomes"], *some.policies}
    with pytest.raises(SettingsError, match=r"rollouts: 2 there, 3 now"):
        measure(dataclasses.replace(some, rollouts=3), CELL)
    with pytest.raises(SettingsError, match=r"steps: 3200 there, 6400 now"):
        measure(dataclasses.replace(args, steps=6400), CELL)


@needs_gl
def test_nothing_is_refined_where_the_world_model_is_not_to_be_believed(tmp_path: Path) -> None:
    model = WorldModel.from_pretrained()
    model.config.provenance["trust_verdicts"] = {"door-lock": "not"}
    model.save_pretrained(tmp_path / "model")
    args = dataclasses.replace(
        SMALL,
        cells=tmp_path / "cells",
        world_model=str(tmp_path / "model"),
        policies=("cloned", "refined", "flow", "steered"),
        episodes=1,
    )
    row = measure(args, CELL)
    assert row["refused"]
    cell = args.cells / CELL.name
    for same, other in (("cloned", "refined"), ("flow/flow", "steered/flow")):
        files = [cell / name / WEIGHTS_FILE for name in (same, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not (cell / "steered" / "steering").exists()
    model.config.provenance.clear()
    model.save_pretrained(tmp_path / "model")
    reproduce._world_model.cache_clear()
    with pytest.raises(SettingsError, match="refused: True there, False now"):
        measure(args, CELL)


@needs_gl
def test_steps_in_the_real_env_belong_to_a_cell_that_has_some(tmp_path: Path) -> None:
    policies = ("cloned", "real_twin")
    args = dataclasses.replace(SMALL, cells=tmp_path, policies=policies, real_steps=64)
    assert "real_twin" in measure(args, CELL)["outcomes"]
    with pytest.raises(SettingsError, match=r"real_steps: 64 there, 128 now"):
        measure(dataclasses.replace(args, real_steps=128), CELL)


@pytest.mark.parametrize("field", ["tasks", "policies"])
def test_what_is_none_of_the_choices_is_named(field: str) -> None:
    known = "coffee-pull, soccer" if field == "tasks" else "cloned, refined"
    with pytest.raises(SettingsError, match=rf"{field}: expected one of {known}.*got 'fly'"):
        Args(**{field: ("fly",)})


def test_too_few_demonstrations_are_named() -> None:
    with pytest.raises(SettingsError, match=r"holds 5 expert episodes of door-lock.* least 50"):
        load_demonstrations(SMALL.episodes_folder, "door-lock", 50)


def test_a_draw_has_its_own_demonstrations_while_there_are_enough() -> None:
    def seeds(count: int, draw: int) -> list[int]:
        shown = load_demonstrations(SMALL.episodes_folder, "door-lock", count, draw)
        return [episode.seed - 10_000 for episode in shown]

    assert [seeds(2, draw) for draw in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert seeds(5, 1) == [0, 1, 2, 3, 4]


def test_the_interval_comes_from_runs_and_episodes() -> None:
    alike = bootstrap(np.ones((4, 50)))
    assert (alike.mean, alike.low, alike.high) == (1.0, 1.0, 1.0)
    apart = bootstrap(np.repeat([[1.0], [0.0]], 100, axis=1))
    assert (apart.mean, apart.low, apart.high) == (0.5, 0.0, 1.0)
    episodes = bootstrap(np.tile([0.0, 1.0], (50, 20)))
    assert 0.45 < episodes.low < 0.5 < episodes.high < 0.55


def test_the_share_of_the_real_gain_is_of_the_same_episodes() -> None:
    real = np.tile([0.0, 1.0], (6, 50))
    same = bootstrap(real, real)
    assert (same.mean, same.low, same.high) == (1.0, 1.0, 1.0)
    half = bootstrap(real / 2, real)
    assert (half.mean, half.low, half.high) == (0.5, 0.5, 0.5)


def test_the_table_has_a_mean_and_leaves_out_what_is_missing() -> None:
    half = "0" * 50 + "1" * 50
    outcomes = {"cloned": half, "refined": "0" * 25 + "1" * 75, "imagined_before": half}
    rows = [
        {"task": task, "demonstrations": 5, "outcomes": dict(outcomes)}
        for task in ("hammer", "soccer")
    ]
    rows[0]["outcomes"]["real_twin"] = "1" * 100
    output = summarise(rows).splitlines()
    assert output[0].endswith("| clone | refined | PPO in the real env | clone, imagined |")
    assert output[2].startswith("| hammer, 5 | 1 | +25")
    assert "| 50 % [" in output[2]  # +25 of +50 points
    rows[0]["outcomes"]["real_twin"] = half[1:] + "1"  # +1 point is no gain for sure
    assert "%" not in summarise(rows)
    assert output[-1].startswith("| **mean, 5** | 2 | +25 ")
    assert output[-1].endswith("| 50 | 75 | - | 50 |")
    del rows[0]["outcomes"]["refined"], rows[1]["outcomes"]["refined"]
    assert summarise(rows).splitlines()[-1] == "| **mean, 5** | 2 | 50 | - | 50 |"

"""How a refinement's policies are judged, and which of them is chosen."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import make_tiny_world_model

from training.judge import Judge, Measurement, chosen, split_starts
from training.policy import load_policy
from world4rl_gym.world_model import WorldModel


def test_starts_to_train_and_to_judge_on_are_disjoint(tiny_world_model) -> None:
    train, judge = split_starts(tiny_world_model, "push", 40)
    assert len(train) + len(judge) == 3
    trained_on, judged_on = (one.frames_of(torch.arange(len(one))) for one in (train, judge))
    for frames in judged_on:
        assert not any(torch.equal(frames, other) for other in trained_on)


def test_the_first_of_the_best_points_is_chosen() -> None:
    curve = [Measurement(step, judged, None, 0.0) for step, judged in enumerate((0.2, 0.6, 0.6))]
    assert chosen(curve, 0.1).imagined_steps == 1
    assert chosen(curve, 0.4).imagined_steps == 1


def test_without_a_gain_to_believe_the_first_policy_stays() -> None:
    curve = [Measurement(step, judged, None, 0.0) for step, judged in enumerate((0.5, 0.4, 0.55))]
    assert chosen(curve, 0.1).imagined_steps == 0
    assert chosen(curve, 0.0).imagined_steps == 2
    assert chosen(curve[:1], 0.1).imagined_steps == 0


def test_of_several_judges_the_least_favourable_counts(cloned: Path, tmp_path: Path) -> None:
    lenient, strict = (
        make_tiny_world_model(success_threshold=0.05),
        make_tiny_world_model(success_threshold=0.99),
    )

    def judged(*world_models: WorldModel) -> float:
        judge = Judge(
            load_policy(cloned),
            world_models,
            split_starts(lenient, "push", 2)[1],
            tmp_path / "kept",
            every=1,
            decay=0.0,
            saturation=1.0,
            least_gain=0.1,
            half=False,
            snapshots=False,
            total=1,
            seed=0,
        )
        judge.measure()
        return judge.curve[0].judged

    assert judged(lenient) == 1.0
    assert judged(lenient, strict) == judged(strict, lenient) == 0.0

"""The benchmark measures what it says, at tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_tiny_world_model

from training import bench


def test_the_table_has_every_figure(tmp_path: Path) -> None:
    folder = tmp_path / "world_model"
    make_tiny_world_model().save_pretrained(folder)
    args = bench.Args(
        str(folder), rows=(1, 3), seconds=0.01, real=False, device="cpu", ppo_steps=100
    )
    report = bench.measure(args)
    rates = report["env_steps_a_second"]
    drawn = ["imagined, drawn, float32", "DIAMOND's configuration, float32"]
    assert {bench.FEATURES, bench.MIXED, *drawn} <= set(rates)
    for own in rates.values():
        assert set(own) == {"1", "3"}
        assert min(own.values()) > 0
    assert report["ppo_seconds"] > 0
    assert report["gflop_a_frame"] > 0
    report["real"] = {"Meta-World, default rendering": rates[drawn[0]]["1"] / 7}
    table = bench.format_table(report)
    for words in (*drawn, "drawn, float32: times DIAMOND's configuration |", "PPO on"):
        assert words in table
    assert "| drawn, float32: times Meta-World, default rendering | 7 |" in table


def test_ratios_are_of_the_same_dtype_and_number_of_rows() -> None:
    rates = {
        bench.FEATURES: {"8": 100.0, "1024": 900.0},
        f"{bench.DRAWN}, float32": {"8": 60.0, "1024": 80.0},
        f"{bench.DIAMOND}, float32": {"8": 3.0},
        f"{bench.DRAWN}, bfloat16": {"8": 90.0, "1024": 120.0},
        f"{bench.DIAMOND}, bfloat16": {"8": 2.0},
    }
    report = {
        "env_steps_a_second": rates,
        "real": {"Meta-World, lean rendering": 10.0},
        "device": "CPU",
        "cores": 2,
        "threads": 2,
        "gflop_a_frame": 0.1,
    }
    table = bench.format_table(report)
    for line in (
        "| drawn, float32: times DIAMOND's configuration | 20 | - |",
        "| drawn, bfloat16: times DIAMOND's configuration | 45 | - |",
        "| drawn, float32: times Meta-World, lean rendering | 6 | 8 |",
        "| drawn, bfloat16: times Meta-World, lean rendering | 9 | 12 |",
    ):
        assert line in table


def test_frames_are_drawn_in_the_dtype_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = make_tiny_world_model(), []
    monkeypatch.setattr(bench, "rate_of", lambda step, _: seen.append(model.draw_dtype) or 1.0)
    bench.drawn_rate(model, 2, torch.bfloat16, 0.01)
    assert seen == [torch.bfloat16]
    assert model.draw_dtype is None


def test_more_inference_steps_cost_more_operations() -> None:
    model = make_tiny_world_model()
    once, whole = (
        bench.denoiser_flops(make_tiny_world_model(frame_size=size)) for size in (16, 32)
    )
    assert whole == pytest.approx(4 * once, rel=0.3)
    assert bench.denoiser_flops(model) == once


def test_a_rate_is_of_calls_a_second() -> None:
    calls = []
    rate = bench.rate_of(lambda: calls.append(torch.zeros(1)), 0.05)
    assert 0 < rate
    assert len(calls) >= 3


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        bench.Args(rows=(0,))

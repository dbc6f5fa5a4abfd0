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
        str(folder), rows=(1, 3), frame_sizes=(16, 32), seconds=0.01, real=False, device="cpu"
    )
    report = bench.measure(args)
    assert set(report["imagined"]) == set(report["diamond"]) == {"1", "3"}
    assert set(report["frame_sizes"]) == {"16", "32"}
    assert min(report["imagined"].values()) > 0
    assert min(report["step_ms"]["whole step"], report["step_ms"]["denoiser"]) > 0
    assert 0 < report["denoiser_share_of_matmul"] < 1
    report["real"] = {"default rendering": 7.0}
    table = bench.format_table(report)
    assert "DIAMOND" in table
    assert "Meta-World, default rendering" in table
    bench.plot(report, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").stat().st_size > 0


def test_operations_are_counted() -> None:
    model = make_tiny_world_model()
    twice = bench.make_untrained(model, frame_size=32)
    assert bench.denoiser_flops(twice) == pytest.approx(4 * bench.denoiser_flops(model), rel=0.2)
    diamond = bench.make_diamond(model).denoiser.config
    assert (diamond.patch_size, diamond.channels) == (1, (64, 64, 64, 64))


def test_a_rate_is_of_calls_a_second() -> None:
    calls = []
    rate = bench.rate_of(lambda: calls.append(torch.zeros(1)), 0.05)
    assert 0 < rate
    assert len(calls) >= 3


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        bench.Args(rows=(0,))

"""Streams: what the network imagined becomes its context, until a stream ends or is lost."""

from __future__ import annotations

import pytest
import torch
from episode_factory import HORIZON, make_episode

from training.streams import StreamBatch, Streams, worst_block
from training.windows import Windows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def begun(windows: Windows) -> tuple[Streams, StreamBatch]:
    streams = Streams(windows, 8, generator())
    return streams, streams.draw(8, generator(1))


@pytest.fixture
def windows() -> Windows:
    return Windows([make_episode(seed) for seed in range(3)], 4)


def test_a_true_prediction_goes_on_along_the_episode(windows: Windows) -> None:
    streams, batch = begun(windows)
    on = windows.follows(streams.state_dict()["now"][batch.rows] + 1)
    streams.advance(batch, batch.target, 1e9, generator(2))
    again = streams.draw(8, generator(1))
    assert torch.equal(again.rows, batch.rows)
    assert on.sum() >= 4
    assert torch.equal(again.context[on, -1], batch.target[on])
    assert torch.equal(again.context[on, :-1], batch.context[on, 1:])
    assert torch.equal(again.anchor[on], batch.anchor[on])
    assert torch.equal(again.actions[on, :-1], batch.actions[on, 1:])


def test_context_is_what_was_predicted_and_not_what_was_true(windows: Windows) -> None:
    streams, batch = begun(windows)
    on = windows.follows(streams.state_dict()["now"][batch.rows] + 1)
    predicted = (batch.target.int() + 3).clamp(max=255).to(torch.uint8)
    streams.advance(batch, predicted, 1e9, generator(2))
    again = streams.draw(8, generator(1))
    assert torch.equal(again.context[on, -1], predicted[on])


def test_streams_end_with_their_episodes(windows: Windows) -> None:
    streams = Streams(windows, 4, generator())
    for step in range(3 * HORIZON):
        batch = streams.draw(4, generator(step))
        streams.advance(batch, batch.target, 1e9, generator(step))
        assert windows.follows(streams.state_dict()["now"]).all()


def test_a_lost_stream_begins_anew(windows: Windows) -> None:
    streams, batch = begun(windows)
    streams.advance(batch, 255 - batch.target, 1e9, generator(2))
    again = streams.draw(8, generator(1))
    assert not (again.context[:, -1] == 255 - batch.target).flatten(1).all(1).any()


def test_length_one_always_begins_from_the_truth(windows: Windows) -> None:
    streams = Streams(windows, 8, generator())
    for step in range(20):
        batch = streams.draw(8, generator(step))
        truth = {frame.numpy().tobytes() for frame in windows.frames}
        assert all(frame.numpy().tobytes() in truth for frame in batch.context.flatten(0, 1))
        streams.advance(batch, batch.target + 1, 1.0, generator(step))


def test_the_worst_block_is_found() -> None:
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    others = frames.clone()
    others[1, :, :8, 8:] = 255
    assert worst_block(frames, others).tolist() == pytest.approx([0.0, 1.0])

"""Eyes and memories at tiny size: what they learn from, and that they learn it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from episode_factory import make_episode, with_robot

from training import train_eyes
from training.data.sequences import Sequences, join, make_sequences
from training.data.start_frames import start_frames_path
from training.evaluation.metrics import auroc
from training.world_model.assembly import (
    calibrate,
    load_task_eyes,
    load_task_memory,
    save_task_memory,
)
from training.world_model.memory import MemoryRun, command_rule, make_memory, train_memory, unroll
from world4rl_gym.episodes import EpisodeError
from world4rl_gym.eyes import Eyes, TaskEyes


@pytest.fixture(scope="module")
def eyes() -> TaskEyes:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Eyes(frame_size=16, code_size=6, width=4).eval().task(0)


@pytest.fixture(scope="module")
def sequences(eyes: TaskEyes) -> Sequences:
    made = [make_episode(i, "push", "expert" if i % 3 == 0 else "random") for i in range(60)]
    return make_sequences([with_robot(episode) for episode in made], eyes)


def test_the_command_rule_is_found_with_its_bounds(sequences: Sequences) -> None:
    rule = command_rule(sequences)
    assert float(rule["command_keep"]) == pytest.approx(1.0, abs=1e-3)
    assert float(rule["command_gain"]) == pytest.approx(0.1, abs=1e-3)
    assert float(rule["command_low"]) == pytest.approx(-0.25, abs=1e-3)
    assert float(rule["command_high"]) == pytest.approx(0.55, abs=1e-3)


def test_a_command_that_no_rule_gives_is_refused(sequences: Sequences) -> None:
    wild = torch.rand(sequences.command.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="command: component 0 is not a function"):
        command_rule(dataclasses.replace(sequences, command=wild))


@pytest.mark.parametrize("values", [(0.4, 0.4), (0.0, 1.0)])
def test_a_command_that_never_varies_or_only_opens_and_closes_has_a_rule(
    sequences: Sequences, values: tuple[float, float]
) -> None:
    closed = sequences.actions[:, :, :1] > 0
    predicted = torch.where(closed, values[1], values[0])
    command = torch.cat([predicted[:, :1], predicted], dim=1)
    actions = torch.where(closed, 1.0, -1.0)
    rule = command_rule(dataclasses.replace(sequences, command=command, actions=actions))
    memory = make_memory(
        dataclasses.replace(sequences, command=command, actions=actions), 1, 8, seed=0
    )
    for action, value in zip((-1.0, 1.0), values, strict=True):
        after = memory.next_command(torch.tensor([[0.7]]), torch.tensor([[action]]))
        assert float(after) == pytest.approx(value, abs=1e-3), rule


def test_a_memory_learns_outcomes_and_motion(sequences: Sequences, tmp_path: Path) -> None:
    memory = make_memory(sequences, 2, 16, 0)
    score = lambda: unroll(memory, sequences).logit.mean(dim=2).amax(dim=1).detach().numpy()  # noqa: E731
    before = auroc(score(), sequences.outcome.numpy())
    run = MemoryRun(steps=250, batch_size=16, learning_rate=5e-3)
    memory = train_memory(memory, [(sequences, 1.0)], run, tmp_path)
    memory.eval()
    assert auroc(score(), sequences.outcome.numpy()) > max(0.9, before)
    predicted = unroll(memory, sequences).state.mean(dim=2).detach()
    assert float((predicted - sequences.state[:, 1:]).abs().mean()) < 0.05
    save_task_memory(memory, tmp_path / "memory")
    again = load_task_memory(tmp_path / "memory").eval()
    assert torch.allclose(
        unroll(again, sequences).logit, unroll(memory, sequences).logit, atol=1e-6
    )


def test_joined_sequences_are_those_of_all_episodes_at_once(eyes: TaskEyes) -> None:
    short = [with_robot(make_episode(seed, horizon=5)) for seed in range(3)]
    long = [with_robot(make_episode(seed)) for seed in range(3, 5)]
    joined = join([make_sequences(short, eyes), make_sequences(long, eyes)])
    at_once = make_sequences([*short, *long], eyes)
    for field in dataclasses.fields(Sequences):
        assert torch.equal(getattr(joined, field.name), getattr(at_once, field.name)), field.name


def test_one_step_training_goes_on_from_true_states(sequences: Sequences) -> None:
    memory = make_memory(sequences, 1, 8, 0).eval()
    state = sequences.state.clone()
    state[:, 3] += 1.0  # after the third decision
    moved = dataclasses.replace(sequences, state=state)
    for open_loop in (True, False):
        before, after = (unroll(memory, s, 4, open_loop).state for s in (sequences, moved))
        assert torch.equal(before[:, :3], after[:, :3])
        assert torch.equal(before[:, 3], after[:, 3]) == open_loop


def test_calibration_undoes_a_bias(sequences: Sequences, tmp_path: Path) -> None:
    memory = make_memory(sequences, 1, 16, 0)
    run = MemoryRun(steps=250, batch_size=16, learning_rate=5e-3)
    memory = train_memory(memory, [(sequences, 1.0)], run, tmp_path).eval()
    honest = calibrate(memory, sequences)
    with torch.no_grad():  # from now on it is an optimist
        memory.outputs[-1].bias[:, :, memory.config.state_size] += 1.5
    assert calibrate(memory, sequences) > honest + 0.3
    with torch.no_grad():
        memory.outputs[-1].bias[:, :, memory.config.state_size] -= 3.0
    assert calibrate(memory, sequences) == -0.5  # at most half a logit more optimistic


def test_states_in_some_episodes_alone_are_refused(eyes: TaskEyes) -> None:
    some = [with_robot(make_episode(0)), make_episode(1)]
    with pytest.raises(EpisodeError, match="state: expected in all episodes or in none"):
        make_sequences(some, eyes)


def test_eyes_train_from_frames_alone_and_code_what_moves(tmp_path: Path) -> None:
    episodes = [make_episode(i) for i in range(64)]
    seeds = np.arange(64)
    empty = np.zeros((64, 0), np.float32)
    frames = np.stack([episode.frames[0] for episode in episodes])
    path = start_frames_path(tmp_path / "data", "push", "train")
    path.parent.mkdir(parents=True)
    np.savez(path, seeds=seeds, frames=frames, state=empty, command=empty)
    for episode in episodes[:4]:
        episode.save(tmp_path / "data" / "push" / "train" / f"expert-{episode.seed:07d}.npz")
    args = train_eyes.Args(
        "push", tmp_path / "data", tmp_path / "eyes", code_size=4, width=8, steps=150
    )
    trained = load_task_eyes(train_eyes.train(args), "push")
    codes = trained.encode(torch.from_numpy(frames).permute(0, 3, 1, 2))
    row = torch.tensor([float(np.flatnonzero(f[:, :, 0].max(axis=1) > 200)[0]) for f in frames])
    known = torch.cat([codes, torch.ones(64, 1)], dim=1)
    predicted = known @ torch.linalg.lstsq(known, row.unsqueeze(1)).solution
    assert float((predicted[:, 0] - row).abs().mean()) < 0.5 * float(
        (row - row.mean()).abs().mean()
    )


def test_degraded_frames_are_those_of_a_worse_camera() -> None:
    """Half stay as they are; the others differ by some levels, and never out of range."""
    frames = torch.full((400, 3, 16, 16), 60, dtype=torch.uint8)
    frames[:, :, 4:8, 4:8] = torch.tensor([220, 40, 40], dtype=torch.uint8).view(1, 3, 1, 1)
    kept = frames.clone()
    worse = train_eyes.degraded(frames, torch.Generator().manual_seed(0))
    assert worse.dtype == torch.uint8 and torch.equal(frames, kept)
    off = (worse.float() - frames.float()).abs().mean(dim=(1, 2, 3))
    assert 0.4 < float((off == 0).float().mean()) < 0.6
    assert 1 < float(off[off > 0].mean()) < 10
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(3 * 8 * 8)
    worse = train_eyes.degraded(extremes.view(2, 3, 8, 8), torch.Generator().manual_seed(1))
    assert float((worse.float() - extremes.view(2, 3, 8, 8).float()).abs().max()) < 60

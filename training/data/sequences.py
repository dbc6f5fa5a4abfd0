"""Whole episodes as the memory is trained on them: codes, robot states, commands, outcomes."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from world4rl_gym.episodes import Episode, EpisodeError
from world4rl_gym.eyes import TaskEyes
from world4rl_gym.pixels import channels_first


@dataclasses.dataclass(frozen=True)
class Sequences:
    """N episodes of at most T decisions; shorter ones are padded, and the padding is masked.

    Attributes:
        first_code: `(N, K)` float32, the first frames' codes.
        state: `(N, T + 1, S)` float32, the robot's states; S is 0 without them.
        command: `(N, T + 1, C)` float32, its commands; C is 0 without them.
        actions: `(N, T, A)` float32 in [-1, 1].
        success: `(N, T)` float32, 1.0 where the task stands solved.
        code_change: `(N, T, K)` float32, how the codes of later frames differ from the first's; 0
            where they were not drawn.
        drawn: `(N,)` float32, 1.0 where they were.
        mask: `(N, T)` float32, 1.0 within the episode.
    """

    first_code: Tensor
    state: Tensor
    command: Tensor
    actions: Tensor
    success: Tensor
    code_change: Tensor
    drawn: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.first_code)

    def rows(self, index: Tensor | slice) -> Sequences:
        """Returns the episodes of these indices."""
        return Sequences(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    def to(self, device: torch.device) -> Sequences:
        """Returns a copy on a device."""
        return Sequences(*(getattr(self, f.name).to(device) for f in dataclasses.fields(self)))

    @property
    def outcome(self) -> Tensor:
        """Whether an episode solves its task at any decision, `(N,)` bool."""
        return (self.success * self.mask).amax(dim=1) > 0

    def fingerprint(self) -> str:
        """A checksum of the episodes' actions and states."""
        parts = (self.actions, self.state, self.first_code)
        return "-".join(f"{zlib.crc32(p.contiguous().numpy().tobytes()):08x}" for p in parts)


def join(parts: Sequence[Sequences]) -> Sequences:
    """All of several sets of episodes; shorter ones are padded."""
    length = max(part.actions.shape[1] for part in parts)
    parts = [_lengthened(part, length) for part in parts]
    fields = [f.name for f in dataclasses.fields(Sequences)]
    return Sequences(*(torch.cat([getattr(p, name) for p in parts]) for name in fields))


def _lengthened(part: Sequences, length: int) -> Sequences:
    """Sequences of `length` decisions, padded as `make_sequences` does."""
    missing = length - part.actions.shape[1]
    if not missing:
        return part

    def followed_by_zeros(values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)

    return dataclasses.replace(
        part,
        **{
            name: _held(getattr(part, name), missing)
            for name in ("state", "command", "actions", "success")
        },
        **{name: followed_by_zeros(getattr(part, name)) for name in ("code_change", "mask")},
    )


def _held(values: Tensor, missing: int) -> Tensor:
    """`(N, T, ...)` values, the last ones repeated `missing` times."""
    return torch.cat([values, values[:, -1:].expand(-1, missing, *values.shape[2:])], dim=1)


@torch.no_grad()
def codes_of(eyes: TaskEyes, frames: np.ndarray) -> Tensor:
    """Codes `(N, K)` of `(N, H, W, 3)` uint8 frames."""
    return torch.cat(
        [
            eyes.encode(channels_first(torch.from_numpy(frames[i : i + 256])))
            for i in range(0, len(frames), 256)
        ]
    )


def make_sequences(episodes: Iterable[Episode], eyes: TaskEyes) -> Sequences:
    """Turns episodes of one task into sequences; no more than one episode's frames are kept.

    Raises:
        EpisodeError: There are none, or only some have a state or a command.
    """
    known: list[Episode] = []
    codes: list[Tensor] = []
    for episode in episodes:
        codes.append(codes_of(eyes, episode.frames))
        known.append(dataclasses.replace(episode, frames=episode.frames[:1].copy()))
    if not known:
        raise EpisodeError("episodes: expected at least one")
    length = max(len(episode) for episode in known)
    first_code = torch.stack([own[0] for own in codes])
    code_change = torch.zeros(len(known), length, first_code.shape[1])
    for row, own in enumerate(codes):
        code_change[row, : len(own) - 1] = own[1:] - own[0]
    return Sequences(
        first_code=first_code,
        state=_padded(known, "state", length + 1),
        command=_padded(known, "command", length + 1),
        actions=_padded(known, "actions", length),
        success=_padded(known, "success", length),
        code_change=code_change,
        drawn=torch.tensor([float(len(own) > 1) for own in codes]),
        mask=torch.stack([(torch.arange(length) < len(e)).float() for e in known]),
    )


def _padded(episodes: Sequence[Episode], name: str, length: int) -> Tensor:
    """A field of all episodes, each padded with its last value; of width 0 where none has it."""
    values = [getattr(episode, name) for episode in episodes]
    if all(value is None for value in values):
        return torch.zeros(len(episodes), length, 0)
    if any(value is None for value in values):
        raise EpisodeError(f"{name}: expected in all episodes or in none")
    rows = []
    for value in values:
        tensor = torch.from_numpy(np.asarray(value, np.float32))
        rows.append(_held(tensor[None], length - len(tensor)))
    return torch.cat(rows)

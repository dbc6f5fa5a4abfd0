"""The memory: the recurrent state of an imagined episode, from which its outcome is read.

It begins from the code of the first frame and the robot's state, is driven by actions and commands,
and follows its own predictions: no imagined frame is ever fed back.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from world4rl_gym.arguments import require_integers

FAR = 10.0
"""Decisions' worth of motion that count as far; lag counts half as much."""


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Shape of `Memory`.

    Attributes:
        tasks: Number of tasks, each with a network of its own.
        members: Networks a task that are trained apart; their mean is the prediction.
        action_size: Action components A.
        state_size: Numbers of the robot's state S; 0 without one.
        command_size: Numbers of its command C, at most S: command j is the target of state j.
        code_size: Numbers in a frame's code K.
        width: Units of the recurrent state.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    tasks: int = 1
    members: int = 2
    action_size: int = 4
    state_size: int = 4
    command_size: int = 3
    code_size: int = 24
    width: int = 160

    def __post_init__(self) -> None:
        require_integers(self, tasks=(1, 256), members=(1, 16), action_size=(1, 64))
        require_integers(self, state_size=(0, 256), command_size=(0, 256), code_size=(1, 256))
        require_integers(self, width=(4, 1024))
        if self.command_size > min(self.state_size, self.action_size):
            raise ValueError(
                f"command_size: expected at most {min(self.state_size, self.action_size)} "
                f"(state_size, action_size), got {self.command_size}"
            )


class MemoryState(NamedTuple):
    """The memory of B rows in M members; every tensor's first axis is the row's.

    Attributes:
        hidden: `(B, M, W)`, the recurrent state.
        motion: `(B, M, W // 2)`, the recurrent state that predicts free motion.
        start: `(B, M, W)`, what the first frame and state say of the whole episode.
        state: `(B, M, S)`, each member's robot state, in the robot's units.
        velocity: `(B, M, S)`, its last change.
        first_code: `(B, K)`, the code of the first frame.
        code_change: `(B, M, K)`, how each member's code of the present frame differs from it.
        command: `(B, C)`, what the robot is commanded to.
        logit: `(B, M)`, of success in the present frame.
    """

    hidden: Tensor
    motion: Tensor
    start: Tensor
    state: Tensor
    velocity: Tensor
    first_code: Tensor
    code_change: Tensor
    command: Tensor
    logit: Tensor

    @property
    def code(self) -> Tensor:
        """The code of the present frame, `(B, K)`."""
        return self.first_code + self.code_change.mean(dim=1)

    @property
    def success_probability(self) -> Tensor:
        """The members' mean probability that the task stands solved, `(B,)`."""
        return self.probabilities.mean(dim=1).float()

    @property
    def probabilities(self) -> Tensor:
        """Each member's probability that the task stands solved, `(B, M)` float64.

        In double precision: where a row lies in a vector register may change the last bit.
        """
        return self.logit.double().sigmoid()


class _Linear(nn.Module):
    """A linear layer of M members: `(B, M, inputs)` -> `(B, M, outputs)`."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = max(inputs, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class _GruCell(nn.Module):
    """A gated recurrent unit of M members (Cho et al., arXiv 1406.1078)."""

    def __init__(self, members: int, inputs: int, width: int) -> None:
        super().__init__()
        self.of_input = _Linear(members, inputs, 3 * width)
        self.of_hidden = _Linear(members, width, 3 * width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        reset_x, update_x, new_x = self.of_input(x).chunk(3, dim=2)
        reset_h, update_h, new_h = self.of_hidden(hidden).chunk(3, dim=2)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return torch.lerp(new, hidden, torch.sigmoid(update_x + update_h))


class TaskMemory(nn.Module):
    """The memory of one task: M members of the same shape, each with its own weights.

    Two recurrent networks share the work: a small one predicts how the robot moves when nothing is
    in its way, a larger one corrects it and tells success and the next frame's code.
    """

    logit_shift: Tensor
    state_origin: Tensor
    state_step: Tensor
    command_keep: Tensor
    command_gain: Tensor
    command_offset: Tensor
    command_low: Tensor
    command_high: Tensor

    def __init__(self, config: MemoryConfig) -> None:
        super().__init__()
        self.config = config
        members, width, half = config.members, config.width, config.width // 2
        states, commands, codes = config.state_size, config.command_size, config.code_size
        inputs = config.action_size + 2 * states + 2 * commands + codes
        self.begin_layers = nn.Sequential(
            _Linear(members, codes + states, width),
            nn.SiLU(),
            _Linear(members, width, width),
            nn.SiLU(),
            _Linear(members, width, width),
        )
        self.start_layer = _Linear(members, width, width)
        self.motion_cell = _GruCell(members, inputs, half)
        self.motion_layers = nn.Sequential(
            _Linear(members, half + inputs, half), nn.SiLU(), _Linear(members, half, states)
        )
        self.cell = _GruCell(members, inputs + states + commands, width)
        self.mixed_layer = _Linear(members, width + inputs + states, width)
        self.outputs = nn.Sequential(
            nn.SiLU(),
            nn.Dropout(0.1),
            _Linear(members, width, width),
            nn.SiLU(),
            _Linear(members, width, states + 1 + codes),
        )
        with torch.no_grad():  # begin with free motion and an object that stays
            last = self.outputs[-1]
            assert isinstance(last, _Linear)
            last.weight[:, :, :states] = 0.0
            last.bias[:, :, :states] = 0.0
        self.register_buffer("logit_shift", torch.zeros(()))
        self.register_buffer("state_origin", torch.zeros(states))
        self.register_buffer("state_step", torch.ones(states))
        self.register_buffer("command_keep", torch.ones(commands))
        self.register_buffer("command_gain", torch.zeros(commands))
        self.register_buffer("command_offset", torch.zeros(commands))
        self.register_buffer("command_low", torch.full((commands,), -1e6))
        self.register_buffer("command_high", torch.full((commands,), 1e6))
        self.float()  # whatever torch's default dtype is

    def begin(self, code: Tensor, state: Tensor, command: Tensor) -> MemoryState:
        """Begins episodes.

        Args:
            code: `(B, K)`, the first frames' codes.
            state: `(B, S)`, the robot's states.
            command: `(B, C)`, its commands.
        """
        rows, members = len(code), self.config.members
        state = state.unsqueeze(1).expand(-1, members, -1)
        seen = code.unsqueeze(1).expand(-1, members, -1)
        start = self.begin_layers(torch.cat([seen, self._place(state)], dim=2))
        return MemoryState(
            hidden=start.tanh(),
            motion=start.new_zeros(rows, members, self.config.width // 2),
            start=self.start_layer(start),
            state=state,
            velocity=torch.zeros_like(state),
            first_code=code,
            code_change=torch.zeros_like(seen),
            command=command,
            logit=start.new_full((rows, members), -20.0),
        )

    def next_command(self, command: Tensor, action: Tensor) -> Tensor:
        """The command after an action: `(B, C)` and `(B, A)` -> `(B, C)`."""
        moved = self.command_keep * command + self.command_offset
        moved = moved + self.command_gain * action[:, : command.shape[1]]
        return torch.minimum(torch.maximum(moved, self.command_low), self.command_high)

    def step(
        self, memory: MemoryState, action: Tensor, next_command: Tensor | None = None
    ) -> MemoryState:
        """The memory after one action.

        Args:
            memory: Of B rows.
            action: `(B, A)` in [-1, 1].
            next_command: `(B, C)`, where the command after the action was recorded; None computes
                it by `next_command`.
        """
        states, commands = self.config.state_size, self.config.command_size
        if next_command is None:
            next_command = self.next_command(memory.command, action)
        members = (-1, self.config.members, -1)
        where = memory.state[:, :, :commands]
        reach = FAR / 2 * self.state_step[:commands]
        inputs = torch.cat(
            [
                action.unsqueeze(1).expand(*members),
                self._place(memory.state),
                memory.velocity / self.state_step,
                (next_command.unsqueeze(1) - where) / reach,
                (memory.command.unsqueeze(1) - where) / reach,
                memory.code_change,
            ],
            dim=2,
        )
        motion = self.motion_cell(inputs, memory.motion)
        free = self.motion_layers(torch.cat([motion, inputs], dim=2))
        target = self._place(next_command.unsqueeze(1), commands).expand(*members)
        hidden = self.cell(torch.cat([inputs, free, target], dim=2), memory.hidden)
        mixed = self.mixed_layer(torch.cat([hidden, inputs, free], dim=2)) + memory.start
        correction, logit, change = self.outputs(mixed).split(
            [states, 1, self.config.code_size], dim=2
        )
        velocity = (free + correction) * self.state_step
        return MemoryState(
            hidden=hidden,
            motion=motion,
            start=memory.start,
            state=memory.state + velocity,
            velocity=velocity,
            first_code=memory.first_code,
            code_change=memory.code_change + change,
            command=next_command,
            logit=logit.squeeze(2) - self.logit_shift,
        )

    def _place(self, state: Tensor, size: int | None = None) -> Tensor:
        """A state, or a command of `size` numbers, in units of far motion from the usual start."""
        return (state - self.state_origin[:size]) / (FAR * self.state_step[:size])


class Memory(ModelMixin, ConfigMixin):
    """The memories of all tasks of a world model, one network a task."""

    @register_to_config
    def __init__(
        self,
        tasks: int = 1,
        members: int = 2,
        action_size: int = 4,
        state_size: int = 4,
        command_size: int = 3,
        code_size: int = 24,
        width: int = 160,
    ) -> None:
        super().__init__()
        config = MemoryConfig(
            tasks, members, action_size, state_size, command_size, code_size, width
        )
        self.of_task = nn.ModuleList([TaskMemory(config) for _ in range(tasks)])

    def task(self, index: int) -> TaskMemory:
        """The memory of a task."""
        memory = self.of_task[index]
        assert isinstance(memory, TaskMemory)
        return memory

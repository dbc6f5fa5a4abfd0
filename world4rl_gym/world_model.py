"""The world model: eyes, memory, denoiser, sampler and initial frames, frozen."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from world4rl_gym.actions import scaled, unscaled
from world4rl_gym.arguments import composed
from world4rl_gym.components import load_component, write_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.eyes import Eyes, EyesConfig, TaskEyes
from world4rl_gym.hub import EMBEDDED, find_folder, upload
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.memory import Memory, MemoryConfig, MemoryState, TaskMemory
from world4rl_gym.model_index import (
    ALL_FILES,
    CARD_FILE,
    INDEX_FILE,
    NETWORKS,
    PART_FILES,
    SCHEDULER_FILE,
    ModelIndex,
    WorldModelConfig,
    read_index,
)
from world4rl_gym.pixels import to_float, to_uint8
from world4rl_gym.reading import StrictFolder, WorldModelError, make_config
from world4rl_gym.scheduler import SchedulerConfig
from world4rl_gym.tensors import plain_tensors
from world4rl_gym.writing import replaced_folder, write_json

__all__ = ["WorldModel", "WorldModelConfig", "WorldModelError"]

DRAWN_AT_ONCE = 128
"""Rows; more of them outgrow a CPU's caches, and each takes longer (results/log.md)."""


class WorldModel(nn.Module):
    """A frozen world model of one or more tasks.

    Args:
        eyes: Give a frame's code.
        memory: Imagines what happens.
        denoiser: Draws it.
        scheduler: Noise levels of the drawing.
        initial_frames: Contexts that episodes begin from.
        config: The rest.

    Attributes:
        draw_dtype: `torch.float32` or `torch.bfloat16`, in which frames are drawn; None takes the
            one that the device multiplies faster. Pixels differ by a few of 255 grey levels.

    Raises:
        WorldModelError: The parts do not fit one another; the message names the field.
    """

    def __init__(
        self,
        eyes: Eyes,
        memory: Memory,
        denoiser: Denoiser,
        scheduler: SchedulerConfig,
        initial_frames: InitialFrames,
        config: WorldModelConfig,
    ) -> None:
        super().__init__()
        self.eyes = eyes
        self.memory = memory
        self.denoiser = denoiser
        self.scheduler_config = scheduler
        self.scheduler = scheduler.make()
        self.initial_frames = initial_frames
        self.config = config
        self.draw_dtype: torch.dtype | None = None
        frame = (3, self.frame_size, self.frame_size)
        bounds = 1 if len(config.action_low) == 1 else self.action_size
        for field, expected, got in (
            ("eyes' tasks", len(config.tasks), eyes.config.tasks),
            ("memory's tasks", len(config.tasks), memory.config.tasks),
            ("memory's code_size", eyes.config.code_size, memory.config.code_size),
            ("denoiser's code_size", eyes.config.code_size, denoiser.config.code_size),
            ("denoiser's state_size", self.state_size, denoiser.config.state_size),
            ("denoiser's frame_size", self.frame_size, denoiser.config.frame_size),
            ("initial frames' shape", frame, tuple(initial_frames.frames.shape[1:])),
            ("initial frames' state size", self.state_size, initial_frames.state.shape[1]),
            ("initial frames' command size", self.command_size, initial_frames.command.shape[1]),
            ("initial frames' tasks", config.tasks, initial_frames.tasks),
            ("number of action bounds", bounds, len(config.action_low)),
        ):
            if expected != got:
                raise WorldModelError(f"{field}: expected {expected}, got {got}")
        self.eval().requires_grad_(False)
        for network in (self.eyes, self.denoiser):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def frame_size(self) -> int:
        """Height and width of a frame in pixels."""
        return int(self.eyes.config.frame_size)

    @property
    def code_size(self) -> int:
        """Numbers in a frame's code K."""
        return int(self.eyes.config.code_size)

    @property
    def action_size(self) -> int:
        """Number of action components A."""
        return int(self.memory.config.action_size)

    def scale_actions(self, actions: np.ndarray) -> np.ndarray:
        """`(..., A)` in the robot's units, as the envs take them -> in [-1, 1], as `Imagination`
        does and as policies on features give them."""
        return scaled(actions, self.config.action_low, self.config.action_high)

    def unscale_actions(self, actions: np.ndarray) -> np.ndarray:
        """The reverse of `scale_actions`, for a real robot."""
        return unscaled(actions, self.config.action_low, self.config.action_high)

    @property
    def state_size(self) -> int:
        """Numbers of the robot's state S; 0 for a model without it."""
        return int(self.memory.config.state_size)

    @property
    def command_size(self) -> int:
        """Numbers of the robot's command C; 0 for a model without it."""
        return int(self.memory.config.command_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def task_memory(self, task: str | None = None) -> TaskMemory:
        """Returns the memory of a task; as `task_index`."""
        return self.memory.task(self.task_index(task))

    def task_eyes(self, task: str | None = None) -> TaskEyes:
        """Returns the eyes of a task; as `task_index`."""
        return self.eyes.task(self.task_index(task))

    def task_index(self, task: str | None = None) -> int:
        """Returns the index of a task; None where the model has one task only.

        Raises:
            ValueError: The task is unknown.
        """
        names = self.config.tasks
        if task is None and len(names) == 1:
            task = names[0]
        if isinstance(task, str):
            task = composed(task)
        if task not in names:
            raise ValueError(f"task: expected one of {', '.join(names)}, got {task!r}")
        return names.index(task)

    @torch.no_grad()
    def encode(self, frames: Tensor, task_ids: np.ndarray) -> Tensor:
        """Codes `(B, K)` float32 of `(B, 3, H, W)` uint8 frames, each of the task of its index."""
        codes = torch.zeros(len(frames), self.code_size, dtype=torch.float32, device=frames.device)
        for task_id in np.unique(task_ids):
            rows = torch.from_numpy(np.flatnonzero(task_ids == task_id)).to(frames.device)
            for part in rows.split(256):
                codes[part] = self.eyes.task(int(task_id)).encode(frames[part])
        return codes

    @torch.no_grad()
    def begin(
        self, task_ids: np.ndarray, code: Tensor, state: Tensor, command: Tensor
    ) -> MemoryState:
        """Begins episodes.

        Args:
            task_ids: `(B,)`, indices into the tasks.
            code: `(B, K)`, the first frames' codes.
            state: `(B, S)`, the robot's states.
            command: `(B, C)`, its commands.
        """
        return by_task(
            lambda task, *rows: self.memory.task(task).begin(*rows), task_ids, code, state, command
        )

    @torch.no_grad()
    def advance(self, task_ids: np.ndarray, memory: MemoryState, actions: Tensor) -> MemoryState:
        """The memory after one action of every row; a pure function of its arguments.

        Args:
            task_ids: `(B,)`, indices into the tasks.
            memory: Of B rows.
            actions: `(B, A)` float32 in [-1, 1].
        """
        return by_task(
            lambda task, action, *rows: self.memory.task(task).step(MemoryState(*rows), action),
            task_ids,
            actions,
            *memory,
        )

    @torch.no_grad()
    def draw(
        self,
        anchor: Tensor,
        first_code: Tensor,
        code: Tensor,
        state: Tensor,
        noise: Tensor,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """Draws frames out of the memory; a pure function of its arguments and `draw_dtype`.

        Args:
            anchor: `(B, 3, H, W)` uint8, the episodes' first frames.
            first_code: `(B, K)`, their codes.
            code: `(B, K)`, codes of the frames to draw.
            state: `(B, S)`, the robot's states in them.
            noise: `(B, 3, H, W)` float32, standard normal.
            num_inference_steps: Denoising steps; None takes the model's own number.

        Returns:
            `(B, 3, H, W)` uint8.

        Raises:
            ValueError: `draw_dtype` is neither float32 nor bfloat16.
        """
        at_once = DRAWN_AT_ONCE if anchor.device.type == "cpu" else max(len(anchor), 1)
        parts = [rows.split(at_once) for rows in (anchor, first_code, code, state, noise)]
        steps = num_inference_steps or self.config.num_inference_steps
        return torch.cat([self._draw(steps, *rows) for rows in zip(*parts, strict=True)])

    def _draw(
        self,
        num_inference_steps: int,
        anchor: Tensor,
        first_code: Tensor,
        code: Tensor,
        state: Tensor,
        noise: Tensor,
    ) -> Tensor:
        first = to_float(anchor)
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps)
        sample = noise * self.scheduler_config.sigma_max
        with autocast(anchor.device, self.draw_dtype):
            condition = self.denoiser.condition(first, first_code, code, state)
            for timestep in scheduler.timesteps:
                scaled = scheduler.scale_model_input(sample, timestep)
                output = self.denoiser(scaled, timestep, condition)
                sample = scheduler.step(output.float(), timestep, sample).prev_sample
        return to_uint8(first + sample * self.denoiser.config.residual_scale)

    def save_pretrained(self, folder: str | os.PathLike[str], card: str | None = None) -> None:
        """Writes the world model's folder, replacing one that is there whole or not at all.

        Weights are kept exactly: as float16 where that holds them, else as float32.

        Args:
            folder: Where to; a folder that holds anything but a world model is not replaced.
            card: Text of the model card, `README.md`.

        Raises:
            WorldModelError: It cannot be written, or could not be loaded again; what was there
                before is untouched.
        """
        parts = {name.split("/")[0] for name in ALL_FILES}
        # "reward_head" is a part of folders of format 1.
        allowed = {*parts, "reward_head", ".gitattributes", ".cache"}
        with replaced_folder(Path(folder), allowed) as fresh:
            for name in NETWORKS:
                (fresh / name).mkdir()
                write_component(getattr(self, name), fresh / name)
            (fresh / "scheduler").mkdir()
            levels = dataclasses.asdict(self.scheduler_config)
            write_json(fresh / SCHEDULER_FILE, {"_class_name": "EDMEulerScheduler", **levels})
            self.initial_frames.to("cpu").save(fresh)
            if card is not None:
                (fresh / CARD_FILE).write_bytes(card.encode())
            try:
                write_json(fresh / INDEX_FILE, self._index(fresh).record())
            except (TypeError, ValueError) as error:
                raise WorldModelError(f"{folder}: provenance: is not JSON ({error})") from None
            try:
                self._read(fresh)  # what cannot be loaded again is not saved
            except WorldModelError as error:
                raise WorldModelError(str(error).replace(str(fresh), str(folder))) from None

    def _index(self, folder: Path) -> ModelIndex:
        """The index of this world model as it lies in `folder`."""
        starts = int(self.initial_frames.is_start.sum())
        return ModelIndex(
            **dataclasses.asdict(self.config),
            **{name: getattr(self, name) for name in _SIZES},
            initial_frames=(starts, len(self.initial_frames) - starts),
            files={
                name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
                for name in PART_FILES
            },
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> WorldModel:
        """Loads a world model: the embedded default (None), a folder, a listed name, or a Hub id.

        Every file is checked before it is used: names, sizes, tensors, values, digests. No code is
        run and nothing outside the folder is read.

        Args:
            source: None, a folder, a name of `list_pretrained()`, or `owner/name` on the Hub.
            revision: Branch, tag or commit on the Hub.
            local_files_only: Use the Hub's cache alone, without any network call.

        Raises:
            WorldModelError: It cannot be loaded; the message names the file and the field.
        """
        return cls._read(find_folder(source, revision, local_files_only, ALL_FILES))

    @classmethod
    @plain_tensors
    def _read(cls, folder: Path) -> WorldModel:
        files = StrictFolder(folder, links_may_leave=folder == EMBEDDED)
        index = read_index(files)
        path = folder / SCHEDULER_FILE
        record = files.read_json(SCHEDULER_FILE)
        scheduler = make_config(SchedulerConfig, record, path, "EDMEulerScheduler")
        eyes = load_component(files, "eyes", Eyes, EyesConfig)
        memory = load_component(files, "memory", Memory, MemoryConfig)
        denoiser = load_component(files, "denoiser", Denoiser, DenoiserConfig)
        found = {**eyes.config, **memory.config}
        for name in _SIZES:
            if found[name] != getattr(index, name):
                raise WorldModelError(
                    f"{folder / INDEX_FILE}: {name}: the networks have {found[name]}, the index "
                    f"{getattr(index, name)}"
                )
        initial_frames = InitialFrames.load(files, index)
        files.check_digests(index.files, PART_FILES, INDEX_FILE)
        try:
            return cls(eyes, memory, denoiser, scheduler, initial_frames, index.config)
        except WorldModelError as error:
            raise WorldModelError(f"{folder}: {error}") from None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool = False,
        card: str | None = None,
    ) -> str:
        """Uploads the world model to the Hugging Face Hub as one commit.

        Args:
            repo_id: `owner/name`; the repository is made where it is missing.
            revision: Branch; None is the main branch.
            private: Whether a new repository is private.
            card: Text of the model card.

        Returns:
            The commit's hash, which `from_pretrained(repo_id, revision=...)` takes.

        Raises:
            WorldModelError: The Hub refuses or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / "world_model"
            self.save_pretrained(folder, card)
            names = [name for name in ALL_FILES if (folder / name).exists()]
            return upload(folder, names, repo_id, revision=revision, private=private)


_SIZES = ("frame_size", "code_size", "action_size", "state_size", "command_size")


def by_task(
    function: Callable[..., MemoryState], task_ids: np.ndarray, *tensors: Tensor
) -> MemoryState:
    """What `function(task_id, *rows)` gives for the tensors' rows of each task, put together."""
    present = np.unique(task_ids)
    if len(present) == 1:
        return function(int(present[0]), *tensors)
    whole: list[Tensor] = []
    for task_id in present:
        rows = torch.from_numpy(np.flatnonzero(task_ids == task_id)).to(tensors[0].device)
        parts = function(int(task_id), *(tensor[rows] for tensor in tensors))
        if not whole:
            whole = [part.new_empty((len(task_ids), *part.shape[1:])) for part in parts]
        for all_rows, part in zip(whole, parts, strict=True):
            all_rows[rows] = part
    return MemoryState(*whole)


def autocast(device: torch.device, dtype: torch.dtype | None = None) -> torch.autocast:
    """Computes in bfloat16 or float32; None takes `faster_dtype`.

    Raises:
        ValueError: It is another dtype.
    """
    dtype = dtype or faster_dtype(device)
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"draw_dtype: expected torch.float32 or torch.bfloat16, got {dtype}")
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def faster_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32

"""The world model: denoiser, sampler, reward head and initial frames, with the frozen rules."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.hub import (
    CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    WorldModelError,
    check_digests,
    digests,
    find_folder,
    load_component,
    make_config,
    read_json,
    replaced_folder,
    save_component,
    write_json,
)
from world4rl_gym.initial_frames import INITIAL_FRAMES_FILES, InitialFrames
from world4rl_gym.pixels import to_float, to_uint8
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.scheduler import EulerScheduler

FORMAT_VERSION = 1
SCHEDULER_FILE = "scheduler/scheduler_config.json"
PART_FILES = [
    f"denoiser/{CONFIG_FILE}",
    f"denoiser/{WEIGHTS_FILE}",
    SCHEDULER_FILE,
    f"reward_head/{CONFIG_FILE}",
    f"reward_head/{WEIGHTS_FILE}",
    *INITIAL_FRAMES_FILES,
]
"""The files whose digests the index keeps."""


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """What holds for a world model as a whole; `model_index.json` keeps it.

    Attributes:
        tasks: Names of the tasks that it imagines.
        action_repeat: Simulator or robot control steps for which one action is held.
        max_episode_steps: Default horizon in decisions.
        success_threshold: Success probability from which a frame counts as solved.
        num_inference_steps: Default denoising steps a frame.
        provenance: Where it comes from: data, training, figures; strings and numbers.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    tasks: tuple[str, ...]
    action_repeat: int = 1
    max_episode_steps: int = 50
    success_threshold: float = 0.5
    num_inference_steps: int = 1
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.tasks
        if not 1 <= len(names) <= 256 or len(set(names)) != len(names):
            raise ValueError(f"tasks: expected 1 to 256 different names, got {names!r:.80}")
        if any(not name or len(name) > 100 for name in names):
            raise ValueError("tasks: expected names of 1 to 100 characters")
        for name, most in (
            ("action_repeat", 1000),
            ("max_episode_steps", 100_000),
            ("num_inference_steps", 100),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}: expected within [1, {most}], got {getattr(self, name)}")
        if not 0 < self.success_threshold < 1:
            raise ValueError(f"success_threshold: expected in (0, 1), got {self.success_threshold}")


class WorldModel(nn.Module):
    """A frozen world model of one or more tasks.

    Args:
        denoiser: Predicts the next frame.
        scheduler: Samples from the denoiser.
        reward_head: Tells solved frames.
        initial_frames: Contexts that episodes begin from.
        config: The rest.

    Raises:
        WorldModelError: The parts do not fit one another; the message names the field.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scheduler: EulerScheduler,
        reward_head: RewardHead,
        initial_frames: InitialFrames,
        config: WorldModelConfig,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scheduler = scheduler
        self.reward_head = reward_head
        self.initial_frames = initial_frames
        self.config = config
        shape = (self.context_length, 3, self.frame_size, self.frame_size)
        for field, expected, got in (
            ("reward head's frame_size", self.frame_size, reward_head.config.frame_size),
            ("scheduler's sigma_data", denoiser.config.sigma_data, scheduler.sigma_data),
            ("initial frames' shape", shape, tuple(initial_frames.frames.shape[1:])),
            ("initial actions' size", self.action_size, initial_frames.actions.shape[2]),
            ("initial frames' tasks", config.tasks, initial_frames.tasks),
        ):
            if expected != got:
                raise WorldModelError(f"{field}: expected {expected}, got {got}")
        self.eval().requires_grad_(False)

    @property
    def frame_size(self) -> int:
        """Height and width of a frame in pixels."""
        return self.denoiser.config.frame_size

    @property
    def action_size(self) -> int:
        """Number of action components."""
        return self.denoiser.config.action_size

    @property
    def context_length(self) -> int:
        """Number of past frames that a prediction sees."""
        return self.denoiser.config.context_length

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.denoiser.parameters()).device

    def predict(
        self,
        frames: Tensor,
        actions: Tensor,
        noise: Tensor,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """Predicts the next frame; a pure function of its arguments.

        Args:
            frames: `(B, T, 3, H, W)` uint8, oldest first.
            actions: `(B, T, A)` float32 in [-1, 1]; the last leads to the frame predicted.
            noise: `(B, 3, H, W)` float32, standard normal.
            num_inference_steps: Denoising steps; None takes the model's own number.

        Returns:
            `(B, 3, H, W)` uint8.
        """
        steps = num_inference_steps or self.config.num_inference_steps
        return sample_next_frame(self.denoiser, self.scheduler, frames, actions, noise, steps)

    @torch.no_grad()
    def success_probability(self, frames: Tensor) -> Tensor:
        """How likely each of `(B, 3, H, W)` uint8 frames shows the task solved: `(B,)` float32."""
        with _autocast(frames.device):
            return self.reward_head.success_probability(frames)

    def save_pretrained(self, folder: str | os.PathLike[str], card: str | None = None) -> None:
        """Writes the world model's folder, replacing one that is there whole or not at all.

        Args:
            folder: Where to.
            card: Text of the model card, `README.md`.

        Raises:
            WorldModelError: It cannot be written; what was there before is untouched.
        """
        with replaced_folder(Path(folder)) as fresh:
            save_component(self.denoiser, fresh / "denoiser")
            save_component(self.reward_head, fresh / "reward_head")
            (fresh / "scheduler").mkdir()
            levels = dataclasses.asdict(self.scheduler)
            write_json(fresh / SCHEDULER_FILE, {"_class_name": "EDMEulerScheduler", **levels})
            self.initial_frames.to("cpu").save(fresh)
            starts = int(self.initial_frames.is_start.sum())
            index = {
                "_class_name": type(self).__name__,
                "format_version": FORMAT_VERSION,
                **dataclasses.asdict(self.config),
                "frame_size": self.frame_size,
                "context_length": self.context_length,
                "action_size": self.action_size,
                "action_low": -1.0,
                "action_high": 1.0,
                "initial_frames": [starts, len(self.initial_frames) - starts],
                "files": digests(fresh, PART_FILES),
            }
            write_json(fresh / INDEX_FILE, index)
            if card is not None:
                (fresh / "README.md").write_text(card)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> WorldModel:
        """Loads a world model: the embedded default (None), a folder, or a Hub id.

        Every file is checked before it is used: names, sizes, digests, tensors, values. No code is
        run and nothing outside the folder is read.

        Args:
            source: None, a folder, or `owner/name` on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            local_files_only: Use the Hub's cache alone, without any network call.

        Raises:
            WorldModelError: It cannot be loaded; the message names the file and the field.
        """
        wanted = [INDEX_FILE, "README.md", *PART_FILES]
        folder = find_folder(source, revision, local_files_only, wanted)
        index = read_json(folder, INDEX_FILE)
        path = folder / INDEX_FILE
        version = index.pop("format_version", None)
        if version != FORMAT_VERSION or type(version) is not int:
            raise WorldModelError(
                f"{path}: format_version: this release reads {FORMAT_VERSION}, got {version!r:.80}"
            )
        files, counts = index.pop("files", None), index.pop("initial_frames", None)
        stated = {
            name: index.pop(name, None)
            for name in ("frame_size", "context_length", "action_size", "action_low", "action_high")
        }
        config = make_config(WorldModelConfig, index, path, cls.__name__)
        if (
            not isinstance(counts, list)
            or len(counts) != 2
            or any(type(count) is not int for count in counts)
        ):
            raise WorldModelError(f"{path}: initial_frames: expected two integers")
        check_digests(folder, files, PART_FILES)
        scheduler = make_config(
            EulerScheduler,
            read_json(folder, SCHEDULER_FILE),
            folder / SCHEDULER_FILE,
            "EDMEulerScheduler",
        )
        denoiser = load_component(folder, "denoiser", Denoiser, DenoiserConfig)
        reward_head = load_component(folder, "reward_head", RewardHead, RewardHeadConfig)
        shape = denoiser.config
        found = {
            "frame_size": shape.frame_size,
            "context_length": shape.context_length,
            "action_size": shape.action_size,
            "action_low": -1.0,
            "action_high": 1.0,
        }
        for name, value in found.items():
            if stated[name] != value or isinstance(stated[name], bool):
                raise WorldModelError(
                    f"{path}: {name}: the weights have {value}, the index {stated[name]!r:.80}"
                )
        initial_frames = InitialFrames.load(
            folder,
            config.tasks,
            (counts[0], counts[1]),
            shape.context_length,
            shape.action_size,
            shape.frame_size,
        )
        return cls(denoiser, scheduler, reward_head, initial_frames, config)


@torch.no_grad()
def sample_next_frame(
    denoiser: Denoiser,
    scheduler: EulerScheduler,
    frames: Tensor,
    actions: Tensor,
    noise: Tensor,
    num_inference_steps: int,
) -> Tensor:
    """Samples the frame after a context, quantised to 8 bits as it will be fed back.

    Shapes are those of `WorldModel.predict`.
    """
    context = to_float(frames)
    last = context[:, -1]

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(noisy, sigma, context, actions)

    with _autocast(frames.device):
        residual = scheduler.sample(denoise, noise, num_inference_steps)
    return to_uint8(denoiser.to_frame(residual, last))


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it faster than float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)

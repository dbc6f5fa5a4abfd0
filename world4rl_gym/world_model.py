"""The world model: denoiser, sampler, reward head and initial frames, with the frozen rules."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from world4rl_gym.components import load_component, write_component
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.hub import find_folder, upload
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.model_index import (
    ALL_FILES,
    CARD_FILE,
    INDEX_FILE,
    PART_FILES,
    SCHEDULER_FILE,
    ModelIndex,
    WorldModelConfig,
    read_index,
)
from world4rl_gym.pixels import to_float, to_uint8
from world4rl_gym.reading import StrictFolder, WorldModelError, make_config
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.scheduler import EulerScheduler
from world4rl_gym.writing import replaced_folder, write_json

__all__ = [
    "Prediction",
    "WorldModel",
    "WorldModelConfig",
    "WorldModelError",
    "sample_next_frame",
]


class Prediction(NamedTuple):
    """What `WorldModel.predict` gives.

    Attributes:
        frames: `(B, 3, H, W)` uint8, the next frames.
        uncertainty: `(B,)` float32, the root mean squared error, in grey levels, that the denoiser
            expects of the patch of the frame of which it is least sure.
    """

    frames: Tensor
    uncertainty: Tensor


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
            ("initial frames' shape", shape, initial_frames.context_shape),
            ("initial actions' size", self.action_size, initial_frames.actions.shape[2]),
            ("initial frames' tasks", config.tasks, initial_frames.tasks),
        ):
            if expected != got:
                raise WorldModelError(f"{field}: expected {expected}, got {got}")
        self.eval().requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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
        anchor: Tensor,
        frames: Tensor,
        actions: Tensor,
        noise: Tensor,
        num_inference_steps: int | None = None,
    ) -> Prediction:
        """Predicts the next frame; a pure function of its arguments.

        Args:
            anchor: `(B, 3, H, W)` uint8, the frame that the rollout began from.
            frames: `(B, T, 3, H, W)` uint8, oldest first.
            actions: `(B, T, A)` float32 in [-1, 1]; the last leads to the frame predicted.
            noise: `(B, 3, H, W)` float32, standard normal.
            num_inference_steps: Denoising steps; None takes the model's own number.
        """
        steps = num_inference_steps or self.config.num_inference_steps
        return sample_next_frame(
            self.denoiser, self.scheduler, anchor, frames, actions, noise, steps
        )

    @torch.no_grad()
    def success_probability(self, frames: Tensor) -> Tensor:
        """How likely each of `(B, 3, H, W)` uint8 frames shows the task solved: `(B,)` float32."""
        with _autocast(frames.device):
            return self.reward_head.success_probability(frames)

    def save_pretrained(self, folder: str | os.PathLike[str], card: str | None = None) -> None:
        """Writes the world model's folder, replacing one that is there whole or not at all.

        Weights are kept exactly: as float16 where that holds them, else as float32.

        Args:
            folder: Where to; a folder that holds anything but a world model is not replaced.
            card: Text of the model card, `README.md`.

        Raises:
            WorldModelError: It cannot be written; what was there before is untouched.
        """
        parts = {name.split("/")[0] for name in ALL_FILES}
        with replaced_folder(Path(folder), {*parts, ".gitattributes", ".cache"}) as fresh:
            for name in ("denoiser", "reward_head", "scheduler", "initial_frames"):
                (fresh / name).mkdir()
            write_component(self.denoiser, fresh / "denoiser", exact=True)
            write_component(self.reward_head, fresh / "reward_head", exact=True)
            levels = dataclasses.asdict(self.scheduler)
            write_json(fresh / SCHEDULER_FILE, {"_class_name": "EDMEulerScheduler", **levels})
            self.initial_frames.to("cpu").save(fresh)
            if card is not None:
                (fresh / CARD_FILE).write_text(card)
            try:
                write_json(fresh / INDEX_FILE, self._index(fresh).record())
            except (TypeError, ValueError) as error:
                raise WorldModelError(f"{folder}: provenance: is not JSON ({error})") from None

    def _index(self, folder: Path) -> ModelIndex:
        """The index of this world model as it lies in `folder`."""
        starts = int(self.initial_frames.is_start.sum())
        return ModelIndex(
            **dataclasses.asdict(self.config),
            frame_size=self.frame_size,
            context_length=self.context_length,
            action_size=self.action_size,
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
        folder = find_folder(source, revision, local_files_only, ALL_FILES)
        files = StrictFolder(folder)
        index = read_index(files)
        path = folder / SCHEDULER_FILE
        record = files.read_json(SCHEDULER_FILE)
        scheduler = make_config(EulerScheduler, record, path, "EDMEulerScheduler")
        denoiser = load_component(files, "denoiser", Denoiser, DenoiserConfig)
        for name in ("frame_size", "context_length", "action_size"):
            found, stated = getattr(denoiser.config, name), getattr(index, name)
            if found != stated:
                raise WorldModelError(
                    f"{folder / INDEX_FILE}: {name}: the denoiser has {found}, the index {stated}"
                )
        reward_head = load_component(files, "reward_head", RewardHead, RewardHeadConfig)
        initial_frames = InitialFrames.load(
            files,
            index.tasks,
            (index.initial_frames[0], index.initial_frames[1]),
            index.context_length,
            index.action_size,
            index.frame_size,
        )
        files.check_digests(index.files, PART_FILES, INDEX_FILE)
        try:
            return cls(denoiser, scheduler, reward_head, initial_frames, index.config)
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


@torch.no_grad()
def sample_next_frame(
    denoiser: Denoiser,
    scheduler: EulerScheduler,
    anchor: Tensor,
    frames: Tensor,
    actions: Tensor,
    noise: Tensor,
    num_inference_steps: int,
) -> Prediction:
    """Samples the frame after a context, quantised to 8 bits as it will be fed back.

    Shapes are those of `WorldModel.predict`.
    """
    context, memory = to_float(frames), to_float(anchor)
    last = context[:, -1]

    uncertainty = None

    def denoise(noisy: Tensor, sigma: Tensor) -> Tensor:
        nonlocal uncertainty
        denoised = denoiser(noisy, sigma, memory, context, actions)
        if uncertainty is None:  # of the first step, which decides what happens
            expected = denoiser.expected_error(denoised.log_error, sigma)
            uncertainty = expected.flatten(1).amax(dim=1).clamp(max=255)
        return denoised.residual

    with _autocast(frames.device):
        residual = scheduler.sample(denoise, noise, num_inference_steps)
    assert uncertainty is not None  # at least one step was taken
    return Prediction(to_uint8(denoiser.to_frame(residual, last)), uncertainty)


def _autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it faster than float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)

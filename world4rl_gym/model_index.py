"""The index of a world-model folder: a closed, versioned schema, and the files it vouches for."""

from __future__ import annotations

import dataclasses
from typing import Any

from world4rl_gym import __version__
from world4rl_gym.arguments import check_name, require_integers
from world4rl_gym.components import CONFIG_FILE, WEIGHTS_FILE
from world4rl_gym.initial_frames import INITIAL_FRAMES_FILES
from world4rl_gym.reading import StrictFolder, WorldModelError, make_config, shown

FORMAT_VERSION = 2
_FARTHEST = 1e9
INDEX_FILE = "model_index.json"
NETWORKS = ("eyes", "memory", "denoiser")
SCHEDULER_FILE = "scheduler/scheduler_config.json"
PART_FILES = [
    *(f"{name}/{file}" for name in NETWORKS for file in (CONFIG_FILE, WEIGHTS_FILE)),
    SCHEDULER_FILE,
    *INITIAL_FRAMES_FILES,
]
"""The files whose digests the index keeps."""
CARD_FILE = "README.md"
CARD_PICTURE = "rollout.gif"
ALL_FILES = [INDEX_FILE, CARD_FILE, CARD_PICTURE, *PART_FILES]
"""Every file that a world-model folder may hold; nothing else is uploaded or downloaded."""


@dataclasses.dataclass(frozen=True)
class WorldModelConfig:
    """What holds for a world model as a whole; `model_index.json` keeps it.

    Attributes:
        tasks: Names of the tasks that it imagines.
        action_repeat: Simulator or robot control steps for which one action is held.
        max_episode_steps: Default horizon in decisions.
        success_threshold: Success probability from which the task counts as solved.
        num_inference_steps: Default denoising steps a frame.
        provenance: Where it comes from: data, training, figures; plain JSON values.
        action_low: Smallest value of each action component in the robot's units, or of all; the
            memory is given actions scaled from there to -1.
        action_high: Largest one, which becomes 1.

    Raises:
        ValueError: A value is out of range; the message names the field.
    """

    tasks: tuple[str, ...]
    action_repeat: int = 1
    max_episode_steps: int = 50
    success_threshold: float = 0.5
    num_inference_steps: int = 1
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    action_low: tuple[float, ...] = (-1.0,)
    action_high: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        names = self.tasks
        if not isinstance(names, (tuple, list)) or not 1 <= len(names) <= 256:
            raise ValueError(f"tasks: expected 1 to 256 names, got {shown(names)}")
        names = tuple(check_name("tasks", name) for name in names)
        if len(set(names)) != len(names):
            raise ValueError(f"tasks: expected different names, got {shown(names)}")
        object.__setattr__(self, "tasks", names)
        require_integers(self, action_repeat=(1, 1000), max_episode_steps=(1, 100_000))
        require_integers(self, num_inference_steps=(1, 100))
        threshold = self.success_threshold
        if type(threshold) not in (int, float) or not 0 < threshold < 1:
            raise ValueError(f"success_threshold: expected in (0, 1), got {shown(threshold)}")
        low, high = tuple(self.action_low), tuple(self.action_high)
        if len(low) != len(high) or not all(
            -_FARTHEST <= a < b <= _FARTHEST for a, b in zip(low, high, strict=True)
        ):
            raise ValueError(
                "action_low, action_high: expected as many of each, the low ones below the high, "
                f"within {_FARTHEST:g}, got {shown(low)} and {shown(high)}"
            )
        object.__setattr__(self, "action_low", low)
        object.__setattr__(self, "action_high", high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelIndex(WorldModelConfig):
    """All that `model_index.json` holds, beside the names of the class and of the format.

    Attributes:
        frame_size: As in the eyes' configuration.
        code_size: The same.
        action_size: As in the memory's configuration.
        state_size: The same.
        command_size: The same.
        initial_frames: Number of real starts and of later contexts.
        saved_with: Version of this package that wrote it.
        files: SHA-256, in hexadecimal, of every one of `PART_FILES`.
    """

    frame_size: int
    code_size: int
    action_size: int
    state_size: int
    command_size: int
    initial_frames: tuple[int, ...]
    saved_with: str = __version__
    files: dict[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.action_low) not in (1, self.action_size):
            raise ValueError(
                f"action_low: expected {self.action_size} (action_size) numbers, "
                f"got {len(self.action_low)}"
            )
        if len(self.initial_frames) != 2:
            raise ValueError(f"initial_frames: expected two, got {shown(self.initial_frames)}")
        if len(self.saved_with) > 40:
            raise ValueError(f"saved_with: expected a version, got {shown(self.saved_with)}")

    @property
    def config(self) -> WorldModelConfig:
        """The part that the world model itself carries."""
        fields = dataclasses.fields(WorldModelConfig)
        return WorldModelConfig(**{field.name: getattr(self, field.name) for field in fields})

    def record(self) -> dict[str, Any]:
        """What is written to `model_index.json`; bounds of -1 and 1 as two plain numbers."""
        values = dataclasses.asdict(self)
        if (self.action_low, self.action_high) == ((-1.0,), (1.0,)):
            values.update(action_low=-1.0, action_high=1.0)
        return {"_class_name": "WorldModel", "format_version": FORMAT_VERSION, **values}


def read_index(files: StrictFolder) -> ModelIndex:
    """Reads and checks `model_index.json`.

    Raises:
        WorldModelError: It is missing, of another format or holds anything unknown; of a newer
            format the message says which release reads it.
    """
    record = files.read_json(INDEX_FILE)
    path = files.folder / INDEX_FILE
    version = record.pop("format_version", None)
    if type(version) is not int or version < 1:
        raise WorldModelError(
            f"{path}: format_version: expected {FORMAT_VERSION}, got {shown(version)}"
        )
    if version < FORMAT_VERSION:
        raise WorldModelError(
            f"{path}: format_version: this release, {__version__}, reads {FORMAT_VERSION}, got "
            f"{version}: a world model that predicts frames from frames, without a memory; "
            "train it anew with training/build_default.sh, or install world4rl-gym "
            f"{shown(record.get('saved_with'))}"
        )
    if version > FORMAT_VERSION:
        raise WorldModelError(
            f"{path}: format_version: this release, {__version__}, reads {FORMAT_VERSION}, "
            f"got {shown(version)}; world4rl-gym {shown(record.get('saved_with'))} wrote it: "
            "install that release or a newer one"
        )
    for name, only in (("action_low", -1), ("action_high", 1)):
        value = record.get(name)
        if type(value) in (int, float):
            if value != only:
                raise WorldModelError(f"{path}: {name}: expected {only} or a list, got {value}")
            record[name] = [value]
    index: ModelIndex = make_config(ModelIndex, record, path, "WorldModel")
    return index

"""What an imagined episode leaves behind: an `.npz` episode, an MP4, a GIF."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from world4rl_gym.episodes import Episode
from world4rl_gym.faces import enlarge

VIDEO_SCALE = 6
FPS = 10
NEEDS_IMAGEIO = (
    "MP4 needs imageio and ffmpeg: pip install 'world4rl-gym[play]'; a GIF needs nothing more"
)


class RecordingError(ValueError):
    """The recording cannot be made; the message says what is missing."""


class Recording:
    """An imagined episode of T decisions, as it grows.

    Args:
        task: The task's name.
        start: Index of the initial frame that it began from.
        action_repeat: Control steps for which an action is held.
        frame: `(H, W, 3)` uint8, the first.
        state: `(S,)` float32, the robot's first state.
        command: `(C,)` float32, its first command.
    """

    def __init__(
        self,
        task: str,
        start: int,
        action_repeat: int,
        frame: np.ndarray,
        state: np.ndarray,
        command: np.ndarray,
    ) -> None:
        self.task = task
        self.start = start
        self.action_repeat = action_repeat
        self.frames = [frame]
        self.states, self.commands = [state], [command]
        self.actions: list[np.ndarray] = []
        self.success: list[bool] = []
        self.drivers: list[str] = []

    def __len__(self) -> int:
        return len(self.actions)

    def add(
        self,
        action: np.ndarray,
        solved: bool,
        frame: np.ndarray,
        state: np.ndarray,
        command: np.ndarray,
        driver: str,
    ) -> None:
        """Notes a decision, `action` `(A,)` float32 in [-1, 1], and what came of it."""
        self.actions.append(action)
        self.success.append(solved)
        self.frames.append(frame)
        self.states.append(state)
        self.commands.append(command)
        self.drivers.append(driver)

    def episode(self) -> bytes:
        """Returns the episode as an `.npz` file, the file of an `Episode`.

        `policy` names who drove, `seed` is the index of the initial frame, and `imagined` is set.

        Raises:
            RecordingError: It has fewer than two decisions.
        """
        if len(self) < 2:
            raise RecordingError(f"episode: expected at least 2 decisions, got {len(self)}")
        drivers = sorted(set(self.drivers))
        episode = Episode(
            frames=np.stack(self.frames),
            actions=np.stack(self.actions),
            success=np.array(self.success),
            task=self.task,
            behaviour="random" if drivers == ["random"] else "policy",
            seed=self.start,
            action_repeat=self.action_repeat,
            state=np.stack(self.states) if self.states[0].size else None,
            command=np.stack(self.commands) if self.commands[0].size else None,
            policy=" and ".join(drivers),
            imagined=True,
        )
        return episode.to_bytes()

    def video(self, kind: str) -> bytes:
        """Returns the frames as a video, `FPS` a second, each pixel `VIDEO_SCALE` wide.

        Args:
            kind: "mp4" or "gif".

        Raises:
            RecordingError: `kind` is unknown, or imageio or ffmpeg is missing.
        """
        if kind not in ("mp4", "gif"):
            raise RecordingError(f"video: expected mp4 or gif, got {kind!r:.20}")
        frames = [enlarge(frame, VIDEO_SCALE) for frame in self.frames]
        if kind == "gif":
            file = io.BytesIO()
            first, *rest = [Image.fromarray(frame) for frame in frames]
            first.save(file, "GIF", save_all=True, append_images=rest, duration=1000 // FPS, loop=0)
            return file.getvalue()
        try:
            import imageio.v3 as iio
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise RecordingError(NEEDS_IMAGEIO) from None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "episode.mp4"
            iio.imwrite(path, np.stack(frames), fps=FPS, codec="libx264", macro_block_size=1)
            return path.read_bytes()

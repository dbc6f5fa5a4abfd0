"""The window of `render_mode="human"`; needs the `human` extra and a display."""

from __future__ import annotations

import os

import gymnasium as gym
import numpy as np

_INVISIBLE = ("offscreen", "dummy")


class Window:
    """A window that shows one frame after another, no faster than `fps`.

    Args:
        caption: What its title bar says.
        fps: Frames a second; `show` waits so as not to be faster.

    Raises:
        gymnasium.error.DependencyNotInstalled: pygame is missing.
        gymnasium.error.Error: There is no display.
    """

    def __init__(self, caption: str, fps: int) -> None:
        try:
            import pygame
        except ImportError as error:
            raise gym.error.DependencyNotInstalled(
                "render_mode 'human' needs pygame: pip install 'world4rl-gym[human]'"
            ) from error
        self._pygame = pygame
        self._fps = fps
        try:
            pygame.display.init()
            driver = pygame.display.get_driver()
        except pygame.error as error:
            raise gym.error.Error(_no_display(str(error))) from error
        # Without a display SDL draws into memory and says nothing, unless that was asked for.
        if driver in _INVISIBLE and os.environ.get("SDL_VIDEODRIVER") != driver:
            pygame.display.quit()
            raise gym.error.Error(_no_display(f"SDL found only {driver!r}"))
        self._clock = pygame.time.Clock()
        self._caption = caption

    def show(self, frame: np.ndarray) -> None:
        """Shows `(H, W, 3)` uint8, and keeps the window responsive."""
        pygame = self._pygame
        size = (frame.shape[1], frame.shape[0])
        screen = pygame.display.get_surface()
        if screen is None or screen.get_size() != size:
            screen = pygame.display.set_mode(size)
            pygame.display.set_caption(self._caption)
        pygame.surfarray.blit_array(screen, frame.swapaxes(0, 1))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Closes the window."""
        self._pygame.display.quit()


def _no_display(reason: str) -> str:
    return (
        f"render_mode 'human' needs a display, and there is none ({reason}); set DISPLAY or "
        "WAYLAND_DISPLAY, or use render_mode='rgb_array'"
    )

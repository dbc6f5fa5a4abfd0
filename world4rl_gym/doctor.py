"""What this machine has for world4rl-gym, and what each missing thing costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys

from world4rl_gym import __version__

_PROBE = (
    "import mujoco; m = mujoco.MjModel.from_xml_string('<mujoco/>'); "
    "r = mujoco.Renderer(m, 8, 8); r.update_scene(mujoco.MjData(m)); r.render(); r.close()"
)
_EXTRAS = (
    ("stable-baselines3", "stable_baselines3", "sb3", "no ImaginedVecEnv"),
    ("pygame", "pygame", "human", "no window with render_mode='human'"),
    ("moviepy", "moviepy", "video", "no videos through Gymnasium's RecordVideo"),
    ("aiohttp", "aiohttp", "play", "no page with 'world4rl play'; --video works without"),
    ("imageio", "imageio", "play", "no MP4; GIF works without"),
    ("imageio-ffmpeg", "imageio_ffmpeg", "play", "no MP4; GIF works without"),
    ("rerun-sdk", "rerun", "rerun", "no recordings for Rerun's viewer by 'world4rl inspect'"),
    ("metaworld", "metaworld", "metaworld", "no real Meta-World: nothing is measured in reality"),
)


def examine() -> tuple[list[tuple[bool, str, str]], bool]:
    """Looks at what is installed and what works.

    Returns:
        Rows of whether a thing is there, its name, and what is known of it or what its lack costs;
        and whether all that the package cannot do without is there.
    """
    rows = [(True, "world4rl-gym", f"{__version__}, Python {platform.python_version()}")]
    try:
        import torch

        rows.append((True, "torch", f"{torch.__version__}, {torch.get_num_threads()} CPU threads"))
        rows += _hardware()
        rows.append(_embedded())
    except ImportError as error:
        rows.append((False, "torch", f"nothing works without it ({error})"))
    works = all(there for there, name, _ in rows if name in ("torch", "embedded world model"))
    for name, module, extra, cost in _EXTRAS:
        if importlib.util.find_spec(module) is None:
            rows.append((False, name, f"{cost}; pip install 'world4rl-gym[{extra}]'"))
        else:
            rows.append((True, name, importlib.metadata.version(name)))
    rows += [_gl(), _display()]
    return rows, works


def _hardware() -> list[tuple[bool, str, str]]:
    import torch

    from world4rl_gym.world_model import faster_dtype

    if torch.cuda.is_available():
        cuda = (True, "CUDA", torch.cuda.get_device_name(0))
    else:
        cuda = (False, "CUDA", "all is computed on the CPU; 5,000 denoiser steps take half an hour")
    fast = faster_dtype(torch.device("cuda" if cuda[0] else "cpu")) == torch.bfloat16
    detail = "frames are drawn in it" if fast else "frames are drawn in float32, a little slower"
    return [cuda, (fast, "bfloat16", detail)]


def _embedded() -> tuple[bool, str, str]:
    from world4rl_gym.world_model import WorldModel, WorldModelError

    try:
        tasks = WorldModel.from_pretrained().config.tasks
    except WorldModelError as error:
        return False, "embedded world model", f"install the package anew ({error})"
    return True, "embedded world model", ", ".join(tasks)


def _gl() -> tuple[bool, str, str]:
    """Tries GL in processes of their own, since a failed backend spoils the one that tried it."""
    if importlib.util.find_spec("mujoco") is None:
        return False, "GL", "was not tried: MuJoCo is missing; only real Meta-World needs it"
    chosen = os.environ.get("MUJOCO_GL")
    for backend in [chosen] if chosen else ["egl", "osmesa"]:
        tried = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
        )
        if tried.returncode == 0:
            return True, "GL", f"renders with MUJOCO_GL={backend}"
    return (
        False,
        "GL",
        "real Meta-World draws nothing; on Debian or Ubuntu: apt-get install libegl1 "
        "libgl1-mesa-dri libosmesa6, then MUJOCO_GL=egl or osmesa",
    )


def _display() -> tuple[bool, str, str]:
    if sys.platform in ("win32", "darwin"):
        return True, "display", "the system's own"
    for name in ("WAYLAND_DISPLAY", "DISPLAY"):
        if os.environ.get(name):
            return True, "display", f"{name}={os.environ[name]}"
    return False, "display", "no window with render_mode='human'; 'world4rl play' needs none"

"""How fast is imagination, beside what one would pick instead? One table, measured in one run.

    python -m training.bench --out runs/bench

Rows are imagined through `gym.make_vec`, on features and drawn; beside them forward passes of
DIAMOND's configuration (arXiv 2405.12399), and the real twin in as many processes as there are
cores, with Meta-World's default rendering and with lean rendering. What draws is measured in
float32, and in bfloat16 where the hardware has it. Run it on a quiet machine; ratios within one
run are what may be compared.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from diffusers import UNet2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from training.envs.real_env import RealEnv, RealEnvUnavailableError, require_real_env
from training.evaluation.formatting import markdown_table
from training.policies.ppo import make_ppo
from training.policies.refinement import imagined_env
from training.runs import command
from training.runs.records import save_table
from training.runs.settings import (
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Settings,
    SettingsError,
)
from world4rl_gym import ENV_ID
from world4rl_gym.denoiser import GroupNorm
from world4rl_gym.model_index import NETWORKS
from world4rl_gym.policy import make_policy, policy_config
from world4rl_gym.world_model import WorldModel, autocast, faster_dtype

FEATURES, MIXED = "imagined, features, one task", "imagined, features, all tasks mixed"
DRAWN, DIAMOND = "imagined, drawn", "DIAMOND's configuration"
"""What is measured, as the table calls it."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.bench`.

    Attributes:
        world_model: Folder or Hub id; none given means the embedded one.
        rows: Numbers of rows.
        seconds: Least time of each measurement.
        device: Where to imagine; none given takes a GPU where there is one.
        real: Measure the real twin too, where it can be had.
        diamond: Measure DIAMOND's configuration too, up to 128 rows.
        ppo_steps: Length of the PPO run that is timed; 0 times none.
        out: Folder of `bench.json` and `bench.md`.
    """

    world_model: str | None = None
    rows: tuple[PositiveInt, ...] = (1, 8, 32, 128, 1024)
    seconds: PositiveFloat = 3.0
    device: str | None = None
    real: bool = True
    diamond: bool = True
    ppo_steps: NonNegativeInt = 100_000
    out: Path = Path("runs/bench")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rows:
            raise SettingsError("rows: expected some numbers, got none")


def rate_of(step: Callable[[], object], seconds: float) -> float:
    """Calls a second, over at least `seconds` and two calls, after one that warms up."""
    step()
    _synchronize()
    calls, began = 0, time.perf_counter()
    while calls < 2 or time.perf_counter() - began < seconds:
        step()
        _synchronize()
        calls += 1
    return calls / (time.perf_counter() - began)


def imagined_rate(
    world_model: WorldModel, rows: int, obs_type: str, seconds: float, task: str | None = None
) -> float:
    """Env-steps a second of `rows` rows of one task, or of all, through `make_vec`, resets
    included."""
    env = gym.make_vec(ENV_ID, rows, world_model=world_model, obs_type=obs_type, task=task)
    env.reset(seed=0)
    actions = np.zeros((rows, world_model.action_size), np.float32)
    try:
        return rows * rate_of(lambda: env.step(actions), seconds)
    finally:
        env.close()


def ppo_seconds(world_model: WorldModel, steps: int) -> float:
    """Seconds of a whole run of SB3's PPO on features, updates included, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    task = world_model.config.tasks[0]
    env = imagined_env(world_model, task, seed=0)
    policy = make_policy(policy_config(world_model, task))
    began = time.perf_counter()
    try:
        make_ppo(policy, env, seed=0).learn(steps)
    finally:
        env.close()
        torch.set_num_threads(threads)
    return time.perf_counter() - began


def drawn_rate(world_model: WorldModel, rows: int, dtype: torch.dtype, seconds: float) -> float:
    """Env-steps a second of `rows` rows of all tasks whose frames are drawn in `dtype`."""
    world_model.draw_dtype = dtype
    try:
        return imagined_rate(world_model, rows, "pixels", seconds)
    finally:
        world_model.draw_dtype = None


def diamond_rate(rows: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Env-steps a second of a U-Net of DIAMOND's configuration: its forward passes alone.

    Four levels of 64 channels, two layers a level, on pixels, with four past frames, three Euler
    steps a frame (arXiv 2405.12399). Its norms are ours, for torch's own would slow it down in
    bfloat16 on a CPU, and flatter us.
    """
    unet = UNet2DModel(
        sample_size=64,
        in_channels=15,
        out_channels=3,
        block_out_channels=(64, 64, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
    )
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = GroupNorm
    unet = unet.to(device, memory_format=torch.channels_last).eval()
    frames = torch.zeros(rows, 15, 64, 64, device=device)

    @torch.no_grad()
    def step() -> None:
        with autocast(device, dtype):
            for _ in range(3):
                unet(frames, 0)

    return rows * rate_of(step, seconds)


def denoiser_flops(world_model: WorldModel) -> float:
    """Operations that draw one frame."""
    size, device = world_model.frame_size, world_model.device
    frame = torch.zeros(1, 3, size, size, device=device)
    code = torch.zeros(1, world_model.code_size, device=device)
    state = torch.zeros(1, world_model.state_size, device=device)
    with FlopCounterMode(display=False) as counter:
        world_model.draw(frame.to(torch.uint8), code, code, state, frame)
    return float(counter.get_total_flops())


def _real_steps(job: tuple[bool, float]) -> float:
    lean, seconds = job
    os.environ.setdefault("LP_NUM_THREADS", "1")
    env = RealEnv("hammer", lean_rendering=lean)
    try:
        env.reset(seed=0)
        action = np.zeros(4, np.float32)

        def step() -> None:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset(seed=0)

        return rate_of(step, seconds)
    finally:
        env.close()


def real_rate(lean: bool, seconds: float) -> float:
    """Env-steps a second of the real twin, one process a core."""
    cores = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        return float(sum(pool.map(_real_steps, [(lean, max(5.0, seconds))] * cores, chunksize=1)))


def measure(args: Args) -> dict[str, Any]:
    """Measures everything, with a progress bar."""
    world_model = WorldModel.from_pretrained(args.world_model)
    world_model.to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    device, seconds, task = world_model.device, args.seconds, world_model.config.tasks[0]
    jobs: list[tuple[str, int, Callable[[], float]]] = []
    for rows in args.rows:
        imagined = partial(imagined_rate, world_model, rows, "features", seconds)
        jobs.append((FEATURES, rows, partial(imagined, task)))
        jobs.append((MIXED, rows, imagined))
        for dtype in dict.fromkeys((torch.float32, faster_dtype(device))):
            name = str(dtype).removeprefix("torch.")
            draw = partial(drawn_rate, world_model, rows, dtype, seconds)
            jobs.append((f"{DRAWN}, {name}", rows, draw))
            if args.diamond and rows <= 128:
                other = partial(diamond_rate, rows, device, dtype, seconds)
                jobs.append((f"{DIAMOND}, {name}", rows, other))
    rates: dict[str, dict[str, float]] = {name: {} for name, _, _ in jobs}
    bar = tqdm(jobs, desc="bench", unit="measurement")
    for name, rows, job in bar:
        bar.set_postfix(now=f"{name}, {rows} rows")
        rates[name][str(rows)] = job()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gflop_a_frame": denoiser_flops(world_model) / 1e9,
        "parameters": {
            name: sum(p.numel() for p in getattr(world_model, name).parameters())
            for name in NETWORKS
        },
        "env_steps_a_second": rates,
        "real": {},
    }
    if args.ppo_steps:
        report["ppo_steps"] = args.ppo_steps
        report["ppo_seconds"] = ppo_seconds(world_model, args.ppo_steps)
    if args.real:
        try:
            require_real_env()
            report["real"] = {
                "Meta-World, default rendering": real_rate(False, args.seconds),
                "Meta-World, lean rendering": real_rate(True, args.seconds),
            }
        except RealEnvUnavailableError as error:
            print(error)
    return report


def format_table(report: dict[str, Any]) -> str:
    """The table as Markdown: env-steps a second, and how many times slower the others are."""
    rates = report["env_steps_a_second"]
    columns = list(rates[FEATURES])
    real = {name: dict.fromkeys(columns, rate) for name, rate in report["real"].items()}
    lines = {**rates, **real}
    for name, drawn in rates.items():
        if name.startswith(DRAWN):
            dtype = name.removeprefix(DRAWN)
            for other in (f"{DIAMOND}{dtype}", *real):
                if own := lines.get(other):
                    ratios = {rows: drawn[rows] / rate for rows, rate in own.items()}
                    lines[f"drawn{dtype}: times {other.removesuffix(dtype)}"] = ratios
    table = markdown_table(
        ["env-steps a second", *(f"{rows} rows" for rows in columns)],
        (
            [name, *(f"{values[r]:,.4g}" if r in values else "-" for r in columns)]
            for name, values in lines.items()
        ),
    )
    footnote = (
        f"{report['device']}, {report['cores']} cores, {report['threads']} threads; "
        f"{report['gflop_a_frame']:.3f} GFLOP a drawn frame."
    )
    if "ppo_seconds" in report:
        footnote += (
            f" PPO on features, {report['ppo_steps']:,} steps with its updates, on one thread: "
            f"{report['ppo_seconds']:.1f} s."
        )
    return f"{table}\n\n{footnote}"


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    report = measure(args)
    save_table(args.out / "bench.json", report, format_table(report))


if __name__ == "__main__":
    command.run(main)

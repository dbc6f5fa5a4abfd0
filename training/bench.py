"""How fast is imagination, beside what one would pick instead? One table, measured in one run.

    python -m training.bench --out runs/bench

Rows are imagined by the same code in the model's own configuration and in DIAMOND's (pixels, four
levels of 64 channels, three Euler steps; arXiv 2405.12399); the real twin runs in as many processes
as there are cores, with Meta-World's default rendering and with lean rendering. Run it on a quiet
machine; ratios within one run are what may be compared.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from training import command
from training.formatting import markdown_table
from training.pictures import drawing
from training.real_env import RealEnv, RealEnvUnavailableError, require_real_env
from training.records import save_record
from world4rl_gym.denoiser import Denoiser, DenoiserConfig
from world4rl_gym.imagination import Imagination
from world4rl_gym.initial_frames import InitialFrames
from world4rl_gym.noise import row_noise
from world4rl_gym.reward import RewardHead, RewardHeadConfig
from world4rl_gym.vector_env import ImaginedVectorEnv
from world4rl_gym.world_model import WorldModel, WorldModelConfig


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.bench`.

    Attributes:
        world_model: Folder or Hub id; none given means the embedded one.
        rows: Numbers of rows.
        frame_sizes: Frame sizes of the cost plot.
        seconds: Least time of each measurement.
        device: Where to imagine; none given takes a GPU where there is one.
        compile: Compile the imagined step (needs a GPU).
        real: Measure the real twin too, where it can be had.
        diamond: Measure DIAMOND's configuration too.
        out: Folder of `bench.json`, `bench.md` and `bench.png`.
    """

    world_model: str | None = None
    rows: tuple[int, ...] = (1, 8, 32, 128)
    frame_sizes: tuple[int, ...] = (64, 96, 128)
    seconds: float = 3.0
    device: str | None = None
    compile: bool = False
    real: bool = True
    diamond: bool = True
    out: Path = Path("runs/bench")

    def __post_init__(self) -> None:
        if not self.rows or min(self.rows) < 1:
            raise ValueError(f"rows: expected numbers of at least 1, got {self.rows}")
        if self.seconds <= 0:
            raise ValueError(f"seconds: expected more than 0, got {self.seconds}")


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


def matmul_rate(device: torch.device, seconds: float) -> float:
    """Operations a second of a 2048 x 2048 matrix product in bfloat16."""
    matrix = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16)
    return 2 * 2048**3 * rate_of(lambda: matrix @ matrix, seconds)


def imagined_rate(world_model: WorldModel, rows: int, args: Args) -> float:
    """Env-steps a second of `rows` rows, all steps together with what resets them."""
    imagination = Imagination(rows, world_model, device=args.device, compile=args.compile)
    imagination.rngs = [np.random.default_rng(row) for row in range(rows)]
    imagination.reset()
    actions = torch.zeros(rows, world_model.action_size, device=imagination.device)

    def step() -> None:
        result = imagination.step(actions)
        over = result.terminated | result.truncated
        if bool(over.any()):
            imagination.reset(over)

    return rows * rate_of(step, args.seconds)


def make_untrained(
    like: WorldModel, frame_size: int | None = None, num_inference_steps: int = 1, **config: Any
) -> WorldModel:
    """A world model of random weights, which cost what trained ones do."""
    size = frame_size or like.frame_size
    settings = {**dataclasses.asdict(like.denoiser.config), "frame_size": size, **config}
    denoiser = Denoiser(DenoiserConfig(**settings))
    starts = np.zeros((1, size, size, 3), np.uint8)
    return WorldModel(
        denoiser,
        like.scheduler,
        RewardHead(RewardHeadConfig(size, like.reward_head.config.width)),
        InitialFrames.from_starts(
            starts, "bench", denoiser.config.context_length, like.action_size
        ),
        WorldModelConfig(("bench",), num_inference_steps=num_inference_steps),
    ).to(like.device)


def make_diamond(like: WorldModel) -> WorldModel:
    """DIAMOND's configuration of the same code: pixels, 64 channels x 4, depth 2, three steps."""
    return make_untrained(
        like, num_inference_steps=3, patch_size=1, channels=(64, 64, 64, 64), layers_per_block=2
    )


def denoiser_flops(world_model: WorldModel) -> float:
    """Operations of one row's forward pass."""
    config = world_model.denoiser.config
    shape = (3, config.frame_size, config.frame_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        world_model.denoiser(
            *(
                torch.zeros(1, *size, device=world_model.device)
                for size in (
                    shape,
                    (),
                    shape,
                    (config.context_length, *shape),
                    (config.context_length, config.action_size),
                )
            )
        )
    return float(counter.get_total_flops())


def step_shares(world_model: WorldModel, rows: int, args: Args) -> dict[str, float]:
    """Milliseconds of a step of `rows` rows of the vector env, and of its parts."""
    env = ImaginedVectorEnv(rows, world_model, device=args.device)
    env.reset(seed=0)
    actions = np.zeros((rows, world_model.action_size), np.float32)
    core = env.imagination
    shape = tuple(core.frames.shape[1:])
    seeds = torch.arange(rows, device=core.device)
    noise = row_noise(seeds, seeds, shape)
    anchor, frames, past = core._anchors, core._frames, core._actions
    parts: dict[str, Callable[[], object]] = {
        "noise": lambda: row_noise(seeds, seeds, shape),
        "denoiser": lambda: core.world_model.predict(anchor, frames, past, noise),
        "reward head": lambda: core.world_model.success_probability(frames[:, -1]),
        "whole step": lambda: env.step(actions),
    }
    times = {name: 1e3 / rate_of(part, args.seconds) for name, part in parts.items()}
    rest = times["whole step"] - sum(times[name] for name in ("noise", "denoiser", "reward head"))
    return {**times, "arrays, rules and info": max(0.0, rest)}


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
    device = world_model.device
    diamond = make_diamond(world_model)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "matmul_gflops": matmul_rate(device, args.seconds) / 1e9,
        "gflop_a_row": denoiser_flops(world_model) / 1e9,
        "parameters": sum(p.numel() for p in world_model.denoiser.parameters()),
        "imagined": {},
        "diamond": {},
        "frame_sizes": {},
        "real": {},
    }
    jobs = [("imagined", rows, world_model) for rows in args.rows]
    jobs += [("diamond", rows, diamond) for rows in args.rows if args.diamond]
    jobs += [("frame_sizes", s, make_untrained(world_model, s)) for s in args.frame_sizes]
    bar = tqdm(jobs, desc="bench", unit="measurement")
    for name, number, model in bar:
        bar.set_postfix(now=f"{name} {number}")
        rows = 32 if name == "frame_sizes" else number
        report[name][str(number)] = imagined_rate(model, rows, args)
    report["step_ms"] = step_shares(world_model, 32, args)
    done = 32 * report["gflop_a_row"] / (report["step_ms"]["denoiser"] / 1e3)
    report["denoiser_share_of_matmul"] = done / report["matmul_gflops"]
    if args.real:
        try:
            require_real_env()
            report["real"] = {
                "default rendering": real_rate(False, args.seconds),
                "lean rendering": real_rate(True, args.seconds),
            }
        except RealEnvUnavailableError as error:
            print(error)
    return report


def format_table(report: dict[str, Any]) -> str:
    """The table as Markdown: env-steps a second, and how many times slower the others are."""
    rows = list(report["imagined"])
    ours = [report["imagined"][r] for r in rows]
    others = {name: [value] * len(rows) for name, value in report["real"].items()}
    if report["diamond"]:
        others = {
            "DIAMOND's configuration": [report["diamond"][r] for r in rows],
            **others,
        }
    lines = {"this world model": ours}
    for name, values in others.items():
        lines[name if name.startswith("DIAMOND") else f"Meta-World, {name}"] = values
    for name, values in others.items():
        lines[f"times {name}"] = [a / b for a, b in zip(ours, values, strict=True)]
    table = markdown_table(
        ["env-steps a second", *(f"{r} rows" for r in rows)],
        ([name, *(f"{value:,.4g}" for value in values)] for name, values in lines.items()),
    )
    parts = ", ".join(f"{name} {ms:.1f} ms" for name, ms in report["step_ms"].items())
    return "\n".join(
        [
            table,
            "",
            f"{report['device']}, {report['threads']} threads; {report['gflop_a_row']:.3f} GFLOP a "
            f"row and step; bfloat16 matrix product {report['matmul_gflops']:.0f} GFLOP/s, of "
            f"which the denoiser reaches {100 * report['denoiser_share_of_matmul']:.0f} %. A step "
            f"of 32 rows: {parts}.",
        ]
    )


def plot(report: dict[str, Any], path: Path) -> None:
    """Draws the cost of a step against the number of rows and against the frame size."""
    with drawing(path, columns=2, figsize=(9, 3.6)) as (left, right):
        for name, label in (
            ("imagined", "this world model"),
            ("diamond", "DIAMOND's configuration"),
        ):
            if report[name]:
                rows = [int(r) for r in report[name]]
                left.loglog(rows, [1e3 / v for v in report[name].values()], "o-", label=label)
        left.set(xlabel="rows", ylabel="ms a row and step", title="cost against rows")
        left.legend(fontsize="small")
        sizes = [int(s) for s in report["frame_sizes"]]
        right.plot(sizes, [1e3 / v for v in report["frame_sizes"].values()], "o-")
        right.set(
            xlabel="frame size, pixels", title="cost against frame size, 32 rows", ylim=(0, None)
        )


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    report = measure(args)
    table = format_table(report)
    save_record(args.out / "bench.json", report)
    (args.out / "bench.md").write_text(table + "\n")
    plot(report, args.out / "bench.png")
    print(table)


if __name__ == "__main__":
    command.run(main)

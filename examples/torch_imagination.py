"""Plain PyTorch: many rows stepped together, every tensor on one device, nothing but torch.

python examples/torch_imagination.py --rows 4096 --device cuda
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from world4rl_gym import Imagination


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_600, help="env steps, all rows together")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--world-model", help="a folder or a Hub id; the embedded default else")
    args = parser.parse_args(arguments)

    imagination = Imagination(args.rows, args.world_model, device=args.device)
    imagination.reset()
    seen = imagination.features  # (rows, F) float32; imagination.frames would draw
    policy = nn.Sequential(
        nn.Linear(seen.shape[1], 64),
        nn.ReLU(),
        nn.Linear(64, imagination.world_model.action_size),
        nn.Tanh(),
    ).to(args.device)

    successes = torch.zeros((), device=args.device)
    episodes = torch.zeros((), device=args.device)
    began = time.perf_counter()
    for _ in range(max(args.steps // args.rows, 1)):
        with torch.no_grad():
            actions = policy(imagination.features)
        result = imagination.step(actions)
        over = result.terminated | result.truncated
        successes += result.terminated.sum()
        episodes += over.sum()
        imagination.reset(over)  # rows that are not over go on
    seconds = time.perf_counter() - began
    rate = max(args.steps // args.rows, 1) * args.rows / seconds
    print(
        f"Imagination, {args.rows} rows on {args.device}: {rate:.0f} env steps/s, "
        f"{int(successes)} successes in {int(episodes)} episodes"
    )


if __name__ == "__main__":
    main()

"""Writes as many synthetic episodes as asked for, to try training's loader at scale.

    python tests/many_episodes.py --out runs/many --episodes 100000
    python -m training.train_eyes --task push --episodes runs/many --out runs/many/eyes --steps 200
    python -m training.train_memory --task push --episodes runs/many --eyes runs/many/eyes \\
        --out runs/many/memory --steps 200
    python -m training.train_denoiser --tasks push --episodes runs/many --eyes runs/many/eyes \\
        --out runs/many/denoiser --steps 200
"""

from __future__ import annotations

import argparse
from pathlib import Path

from episode_factory import make_episode, with_robot

DISTINCT = 1000
"""Episodes that differ; all others are links to one of them, and are read like any file."""


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=100_000)
    args = parser.parse_args()
    for seed in range(args.episodes):
        behaviour = ("expert", "random")[seed % 2]
        path = args.out / "push" / "train" / f"{behaviour}-{seed:07d}.npz"
        if seed < DISTINCT:
            with_robot(make_episode(seed, behaviour=behaviour)).save(path)
        else:
            first = path.with_name(f"{behaviour}-{seed % DISTINCT:07d}.npz")
            path.hardlink_to(first)
    print(f"{args.episodes} episodes: {args.out}")


if __name__ == "__main__":
    main()

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


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=100_000)
    args = parser.parse_args()
    for seed in range(args.episodes):
        behaviour = ("expert", "random")[seed % 2]
        episode = with_robot(make_episode(seed, behaviour=behaviour))
        episode.save(args.out / "push" / "train" / f"{behaviour}-{seed:07d}.npz")
    print(f"{args.episodes} episodes: {args.out}")


if __name__ == "__main__":
    main()

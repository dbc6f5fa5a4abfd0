"""Writes a recorded folder as a LeRobotDataset v3.0, by the lerobot package itself.

Pictures are stored without loss, unless `--pictures video` asks for a compressed film. lerobot pins
its own torch, so give it an environment of its own:

    python -m venv lerobot && lerobot/bin/pip install lerobot==0.4.4
    lerobot/bin/python examples/folder_to_lerobot.py recordings/pusht recordings/pusht-lerobot
"""

import argparse
import csv
from itertools import groupby
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

KEYS = {"action": "action", "state": "observation.state", "command": "observation.command"}
CAMERA, SUCCESS = "observation.images.camera", "success"


def numbers(row: dict[str, str], kind: str) -> np.ndarray:
    """A row's `kind_0`, `kind_1`, ... as float32."""
    return np.array([float(row[name]) for name in row if name.startswith(f"{kind}_")], np.float32)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fps", type=int, default=10)
    parser.add_argument("--pictures", default="image", choices=["image", "video"])
    args = parser.parse_args()
    with open(args.source / "episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    first = iio.imread(next(args.source.glob("*/*.png")))
    features: dict[str, dict] = {
        key: {"dtype": "float32", "shape": numbers(rows[0], kind).shape, "names": None}
        for kind, key in KEYS.items()
        if numbers(rows[0], kind).size
    }
    sides = ["height", "width", "channels"]
    features[CAMERA] = {"dtype": args.pictures, "shape": first.shape, "names": sides}
    features[SUCCESS] = {"dtype": "bool", "shape": (1,), "names": None}
    data = LeRobotDataset.create(args.source.name, args.fps, features, root=args.out)
    for name, episode in groupby(rows, lambda row: row["episode"]):
        pictures = sorted((args.source / name).glob("*.png"))
        for row, picture in zip(episode, pictures, strict=True):
            frame = {key: numbers(row, kind) for kind, key in KEYS.items() if key in features}
            frame |= {CAMERA: iio.imread(picture), SUCCESS: np.array([row["success"] == "1"])}
            data.add_frame({**frame, "task": args.source.name})
        data.save_episode()
    data.finalize()


if __name__ == "__main__":
    main()

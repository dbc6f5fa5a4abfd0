"""Publishes a world model on the Hugging Face Hub, with a card worth reading.

    python -m training.publish --folder runs/world_model --repo owner/name \\
        --results results/world_model.json --dry-run

Validates the folder, plays a smoke rollout, writes the model card, shows what would be uploaded,
and, without `--dry-run`, uploads it as one commit. Run again after an interruption, it goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import tyro

from training.evaluation.model_card import model_card
from training.evaluation.pictures import enlarge
from training.evaluation.trust import keep_verdicts
from training.runs import command
from world4rl_gym.env import ImaginedEnv
from world4rl_gym.hub import upload
from world4rl_gym.model_index import ALL_FILES, CARD_FILE, CARD_PICTURE, INDEX_FILE, PART_FILES
from world4rl_gym.pretrained import PretrainedModel
from world4rl_gym.world_model import WorldModel


class PublishError(ValueError):
    """A world model is not fit to be published; the message says why and nothing was uploaded."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.publish`.

    Attributes:
        folder: Folder of the world model; it is not changed.
        repo: Where to, `owner/name`; made where it is missing.
        revision: Branch; none given means the main branch.
        results: Figures that `training.evaluate_world_model` measured, for card and verdicts.
        private: Make a new repository private.
        dry_run: Show exactly what would be uploaded, without any network call.
    """

    folder: Path
    repo: str
    revision: str | None = None
    results: Path | None = None
    private: bool = False
    dry_run: bool = False


def smoke_rollout(model: WorldModel, steps: int = 50) -> dict[str, np.ndarray]:
    """Plays one episode of random actions of each task.

    Args:
        model: The world model.
        steps: Decisions at most.

    Returns:
        `(T, H, W, 3)` uint8 frames of each task.

    Raises:
        PublishError: A rollout fails, or nothing in it moves.
    """
    rollouts = {}
    for task in model.config.tasks:
        env = ImaginedEnv(model, task=task, render_mode="rgb_array", render_scale=1)
        env.action_space.seed(0)
        env.reset(seed=0)
        frames = [env.render()]
        for _ in range(min(steps, model.config.max_episode_steps)):
            _, reward, terminated, truncated, info = env.step(env.action_space.sample())
            frames.append(env.render())
            if not (np.isfinite(reward) and 0 <= info["success_probability"] <= 1):
                raise PublishError(f"smoke rollout: {task}: the reward is not a finite number")
            if terminated or truncated:
                break
        env.close()
        rollouts[task] = np.stack([frame for frame in frames if frame is not None])
        if not np.ptp(rollouts[task], axis=0).any():
            raise PublishError(f"smoke rollout: {task}: not one pixel ever changes")
    return rollouts


def save_picture(path: Path, rollouts: dict[str, np.ndarray]) -> None:
    """Writes the tasks' rollouts side by side as a GIF, each holding its last frame."""
    length = max(len(frames) for frames in rollouts.values())
    shown = [
        np.concatenate([frames, frames[-1:].repeat(length - len(frames), axis=0)])
        for frames in list(rollouts.values())[:8]
    ]
    iio.imwrite(path, enlarge(np.concatenate(shown, axis=2), 2), duration=100, loop=0)


def stage(args: Args, folder: Path) -> list[str]:
    """Puts together in an empty folder what is uploaded.

    Args:
        args: The command line.
        folder: The empty folder.

    Returns:
        The files' names.

    Raises:
        PublishError: The smoke rollout fails, or the figures are not what they should be.
        WorldModelError: The world model is refused.
    """
    print(f"checking {args.folder}")
    WorldModel.from_pretrained(args.folder)
    for name in (INDEX_FILE, *PART_FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.folder / name, folder / name)
    model = WorldModel.from_pretrained(folder)  # what is uploaded is what was checked
    print(f"smoke rollout of {len(model.config.tasks)} tasks")
    save_picture(folder / CARD_PICTURE, smoke_rollout(model))
    figures = _read_figures(args.results)
    try:
        card = model_card(
            model,
            figures,
            repo_id=args.repo,
            revision=args.revision,
            picture=CARD_PICTURE,
        )
        if figures is not None:
            keep_verdicts(folder, figures["tasks"])
            WorldModel.from_pretrained(folder)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PublishError(f"{args.results}: lacks what the card shows ({error!r})") from None
    (folder / CARD_FILE).write_bytes(card.encode())
    return [name for name in ALL_FILES if (folder / name).exists()]


def _read_figures(path: Path | None) -> dict[str, Any] | None:
    try:
        return None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise PublishError(f"{path}: is not readable JSON ({error})") from None


def show_files(folder: Path, names: list[str]) -> None:
    """Prints path, size and SHA-256 of every file, and their total size."""
    total = 0
    for name in names:
        data = (folder / name).read_bytes()
        total += len(data)
        print(f"{len(data):>12,}  {hashlib.sha256(data).hexdigest()}  {name}")
    print(f"{total:>12,}  bytes in {len(names)} files")


def publish(args: Args) -> str | None:
    """Publishes as `args` say; returns the commit's hash, None of a dry run.

    Raises:
        PublishError: The world model is not fit to be published.
        WorldModelError: It is refused, or the Hub refuses it.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        names = stage(args, folder)
        where = f"{args.repo}{f' at {args.revision}' if args.revision else ''}"
        print(f"{'would upload' if args.dry_run else 'uploading'} to {where}:")
        show_files(folder, names)
        if args.dry_run:
            return None
        commit = upload(folder, names, args.repo, revision=args.revision, private=args.private)
        index = hashlib.sha256((folder / INDEX_FILE).read_bytes()).hexdigest()
    entry = PretrainedModel("NAME", "DESCRIPTION", args.repo, commit, index)
    print(f"done: commit {commit}\nto list it in world4rl_gym/pretrained: {entry}")
    return commit


def main() -> None:
    """Runs the command line."""
    publish(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

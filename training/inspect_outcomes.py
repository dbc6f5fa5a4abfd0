"""One HTML file to look at episodes, real beside imagined, those judged wrongly first.

python -m training.inspect_outcomes --episodes data/episodes --split test --out runs/outcomes.html

What `training.evaluate_policy --record FOLDER` and `training.make_test_set` play can be looked at.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from training.data.episodes import Episode, load_episodes
from training.envs.real_env import require_real_env
from training.envs.rollouts import make_real_env, replay
from training.evaluation.outcomes import Imagined, imagine
from training.evaluation.rerun_recording import record, require_rerun
from training.runs import command
from training.runs.settings import require_at_least
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

TEMPLATE = Path(__file__).with_suffix(".html")
QUALITY = 85
"""Of the frames, which are shown as lossy WebP."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.inspect_outcomes`.

    Attributes:
        episodes: Folder of episodes.
        split: Its split.
        tasks: Tasks to look at; none given means all that are there.
        world_model: Folder or Hub id; None is the embedded one.
        most: Episodes shown: first those judged wrongly, then the most doubtful.
        twin: Whether to draw real frames that were not recorded, by doing the actions again in
            Meta-World.
        out: The HTML file.
        rerun: A recording of the same episodes for Rerun's viewer, which the extra `rerun` brings;
            None writes none.
    """

    episodes: Path = Path("data/episodes")
    split: str = "test"
    tasks: tuple[str, ...] = ()
    world_model: str | None = None
    most: int = 100
    twin: bool = False
    out: Path = Path("runs/outcomes.html")
    rerun: Path | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "most")
        if self.rerun is not None:
            require_rerun()


def order(imagined: Sequence[Imagined], threshold: float) -> np.ndarray:
    """Indices `(N,)` of the episodes: wrong ones first, each kind by falling uncertainty."""
    wrong = [(one.score >= threshold) != one.episode.solved for one in imagined]
    doubt = [float(one.uncertainty.max()) for one in imagined]
    return np.lexsort((-np.array(doubt), ~np.array(wrong)))


def drawn_again(episodes: Sequence[Episode]) -> list[Episode]:
    """Draws all frames of real episodes by their seeds and actions.

    An episode that does not come about again as it was, to its first frame and its outcomes, stays
    as it is.

    Raises:
        RealEnvUnavailableError: Meta-World or GL is missing.
    """
    require_real_env()
    again = list(episodes)
    for task in sorted({episode.task for episode in episodes}):
        env = make_real_env(task, draw_all=True)
        for index, old in enumerate(episodes):
            if old.task != task or old.is_drawn:
                continue
            new = replay(env, old.seed, old.behaviour, old.actions, old.policy)
            same_start = np.array_equal(new.frames[0], old.frames[0])
            if same_start and np.array_equal(new.success, old.success):
                again[index] = new
        env.close()
    return again


def entry(one: Imagined, threshold: float) -> dict[str, Any]:
    """What the page shows of a drawn episode, as plain JSON values.

    `frames` is a picture of two rows, T + 1 columns: real above imagined; the real row is left
    out where the real episode was not drawn.
    """
    assert one.frames is not None
    episode = one.episode
    rows = [episode.frames, one.frames] if episode.is_drawn else [one.frames]
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "WEBP", quality=QUALITY)
    said = one.score >= threshold
    return {
        "task": episode.task,
        "policy": episode.policy or episode.behaviour,
        "seed": episode.seed,
        "real": episode.solved,
        "imagined": bool(said),
        "wrong": bool(said != episode.solved),
        "score": round(one.score, 4),
        "doubt": round(float(one.uncertainty.max()), 4),
        "probability": [round(float(value), 4) for value in one.probability],
        "success": episode.success.tolist(),
        "drawn": episode.is_drawn,
        "size": one.frames.shape[1],
        "frames": base64.b64encode(file.getvalue()).decode(),
    }


def page(entries: Sequence[dict[str, Any]], total: int, threshold: float) -> str:
    """Returns the whole page; it needs nothing beside itself.

    Args:
        entries: Of the episodes shown.
        total: Number of episodes that were imagined.
        threshold: Probability that counts as success.
    """
    data = json.dumps({"episodes": list(entries), "total": total, "threshold": threshold})
    # Within a script "</" would end it, whatever a policy is called.
    return TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", data.replace("<", "\\u003c"))


def run(args: Args) -> None:
    """Imagines the episodes again and writes the page.

    Raises:
        EpisodeError: There are no such episodes, or one is broken.
        WorldModelError: The world model cannot be loaded.
        RealEnvUnavailableError: With the twin, Meta-World or GL is missing.
        SettingsError: A recording for Rerun is asked for, and Rerun is not installed.
    """
    torch.set_num_threads(1)
    world_model = WorldModel.from_pretrained(args.world_model)
    threshold = world_model.config.success_threshold
    episodes = load_episodes(args.episodes, args.split, args.tasks or None)
    chosen = order(imagine(world_model, episodes), threshold)[: args.most]
    shown = [episodes[i] for i in chosen]
    if args.twin:
        shown = drawn_again(shown)
    drawn = imagine(world_model, shown, draw=True)
    entries = [entry(one, threshold) for one in drawn]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, page(entries, len(episodes), threshold).encode())
    if args.rerun is not None:
        record(drawn, threshold, args.rerun)
    wrong = sum(one["wrong"] for one in entries)
    print(f"{args.out}: {len(entries)} of {len(episodes)} episodes, {wrong} judged wrongly")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

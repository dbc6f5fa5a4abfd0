"""Distils a policy on features into one that looks at frames, in the world model.

    python -m training.distil_policy --teacher runs/refined/hammer/policy --out runs/frames/hammer

The student learns what the teacher would do where the student itself gets to (DAgger, arXiv
1011.0686), from frames that the denoiser draws; and from real frames, of recorded episodes, where
there are some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

from training.envs.rollouts import PersistentNoise
from training.policies.imitation import Seen, features_of, fit, seen_of
from training.runs import command
from training.runs.locks import locked
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, keep_settings
from training.runs.threads import one_thread
from world4rl_gym.episodes import Episode, EpisodeError, load_episodes
from world4rl_gym.faces import observe
from world4rl_gym.imagination import Imagination
from world4rl_gym.outcomes import check_fits
from world4rl_gym.policy import Policy, make_policy, policy_config, tensors_of
from world4rl_gym.reading import WorldModelError
from world4rl_gym.world_model import WorldModel

NOISE = 0.15
"""Deviation of the noise on what is done, so that more is seen than one path."""


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.distil_policy`.

    Attributes:
        teacher: Folder of the policy on features, or its Hub id.
        out: Folder of the run; the student appears in its `policy`.
        world_model: Folder or Hub id; None is the embedded one.
        obs_type: What the student sees: "pixels" or "pixels_agent_pos".
        episodes: Imagined episodes a round.
        rounds: In the first the teacher acts; from then on the student does in half of the rows.
        real: Folder of recorded episodes, whose training episodes are looked at too; None uses
            imagined frames alone.
        steps: Gradient steps of the last fit; those between rounds take a third.
        seed: Seed of starts, noise, weights and batches.
    """

    teacher: str
    out: Path
    world_model: str | None = None
    obs_type: Literal["pixels", "pixels_agent_pos"] = "pixels_agent_pos"
    episodes: PositiveInt = 64
    rounds: PositiveInt = 2
    real: Path | None = None
    steps: PositiveInt = 3000
    seed: NonNegativeInt = 0


def imagined(
    teacher: Policy,
    student: Policy | None,
    world_model: WorldModel,
    obs_type: str,
    episodes: int,
    seed: int,
) -> Iterator[tuple[Seen, Tensor]]:
    """What is seen in imagined episodes, decision by decision, and what the teacher would do.

    The student, where there is one, acts in half of them.
    """
    imagination = Imagination(episodes, world_model, task=teacher.task)
    rng = np.random.default_rng(seed)
    imagination.rngs = list(rng.spawn(episodes))
    imagination.reset()
    noise = PersistentNoise(NOISE, seed)
    students = np.arange(episodes) < (episodes // 2 if student is not None else 0)
    for _ in tqdm(range(imagination.max_episode_steps), desc="imagined", mininterval=1):
        observation = observe(imagination, obs_type)
        advice = teacher.act(observe(imagination, "features"))
        yield tensors_of(observation, obs_type), torch.from_numpy(advice)
        chosen = advice
        if student is not None:
            chosen = np.where(students[:, None], student.act(observation), advice)
        imagination.step(noise.added_to(chosen))


def distil(
    teacher: Policy,
    world_model: WorldModel,
    obs_type: str = "pixels_agent_pos",
    episodes: int = 64,
    rounds: int = 2,
    steps: int = 3000,
    real: Sequence[Episode] = (),
    seed: int = 0,
) -> Policy:
    """Returns a policy on frames that does what a policy on features would.

    Args:
        teacher: On features.
        world_model: In which it acts.
        obs_type: What the student sees.
        episodes: Imagined episodes a round.
        rounds: How many.
        steps: Gradient steps of the last fit.
        real: Recorded episodes to look at too.
        seed: Of everything.
    """
    lessons: list[tuple[Seen, Tensor]] = []
    if real:
        advice = teacher.act(features_of(world_model, real).numpy())
        lessons.append((seen_of(world_model, real, obs_type), torch.from_numpy(advice)))
    config = policy_config(world_model, teacher.task, obs_type)
    student: Policy | None = None
    for number in range(rounds):
        lessons += imagined(teacher, student, world_model, obs_type, episodes, seed + number)
        frames = torch.cat([seen[0] for seen, _ in lessons if seen[0] is not None])
        vectors = [seen[1] for seen, _ in lessons if seen[1] is not None]
        student = make_policy(config, seed)
        fit(
            student,
            (frames, torch.cat(vectors) if vectors else None),
            torch.cat([advice for _, advice in lessons]),
            steps if number == rounds - 1 else max(1, steps // 3),
            batch_size=64,
            seed=seed + number,
        )
    assert student is not None
    return student


def run(args: Args) -> None:
    """Distils and saves the policy.

    Raises:
        WorldModelError: The world model or the teacher cannot be loaded, or do not fit.
        EpisodeError: Recorded episodes are broken or not drawn, or do not fit.
        SettingsError: The folder holds another run.
    """
    one_thread()
    world_model = WorldModel.from_pretrained(args.world_model)
    teacher = Policy.from_pretrained(args.teacher)
    teacher.check_fits(world_model)
    task = teacher.task
    if teacher.obs_type != "features":
        raise WorldModelError(f"teacher: expected a policy on features, got on {teacher.obs_type}")
    real: list[Episode] = []
    if args.real is not None:
        real = [e for e in load_episodes(args.real, "train", [task]) if e.is_drawn]
        if not real:
            raise EpisodeError(f"{args.real}: expected episodes of which every frame is drawn")
        check_fits(world_model, real)
    with locked(args.out):
        keep_settings(args, args.out, ("real",))
        distil(
            teacher,
            world_model,
            args.obs_type,
            args.episodes,
            args.rounds,
            args.steps,
            real,
            args.seed,
        ).save_pretrained(args.out / "policy")
    print(f"distilled {task}: {args.out / 'policy'}")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

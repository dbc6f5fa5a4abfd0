"""Refines a cloned policy with SB3's PPO, entirely inside the frozen world model.

    python -m training.refine_policy --policy runs/clone/hammer --out runs/refine/hammer

Before PPO begins, the clone is fitted to its demonstrations once more: as a camera saw them, as the
world model imagines them, since a policy that has only seen real frames acts otherwise on imagined
ones, and as it imagines them disturbed, each frame with the action that leads back.

What is judged is the imagined success of the mean action, from starts that the policy does not
train on. Of PPO's policies, which are averages over updates, the one at which it was highest first
is kept, provided that PPO gained enough of it to be believed; else the one that PPO began with.
What comes out is the ensemble of that one and the clone: imagination does not tell which of the two
is better in truth, and their mean action is seldom far below either. Once judged success saturates,
the run ends, since what follows was measured to be drift; a clone that saturates at once is kept as
it is, for imagination has nothing left to teach it. No real interaction is used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback

from training import command
from training.anchor import DemonstrationAnchor
from training.clone_policy import load_demonstrations
from training.episodes import Episode
from training.evaluate import check_policy_fits
from training.imagined_demonstrations import corrections, replayed
from training.judge import Judge, split_starts
from training.kl_ppo import KLPPO
from training.locks import locked
from training.policy import (
    GaussianCnnPolicy,
    load_policy,
    load_policy_config,
    policy_arguments,
    save_policy,
)
from training.policy_network import MOST_MEMBERS, PolicyConfig
from training.records import save_record
from training.settings import (
    SettingsError,
    keep_settings,
    require_above,
    require_at_least,
    require_below_one,
    require_within,
)
from world4rl_gym.sb3 import ImaginedVecEnv
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args:
    """Command line of `training.refine_policy`.

    Attributes:
        policy: Folder of the cloned policy.
        out: Folder of the refined policy and of its curve.
        world_model: Folder or Hub id; none given means the embedded one.
        judges: Further world models, trained apart, that judge the policy but never train it; the
            least favourable counts.
        steps: Imagined steps, rounded up to whole rollouts; saturation may end it earlier.
        num_envs: Rows imagined together.
        rollout: Steps a row between updates.
        learning_rate: Adam's, of the policy: small enough for `epochs` whole passes to stay below
            `target_kl`.
        critic_learning_rate: Adam's, of the critic, which begins from nothing.
        epochs: Passes over each rollout.
        batch_size: Decisions a gradient step.
        gamma: Discount. Far below 1 it rewards haste, which the world model forgives more than the
            world does.
        gae_lambda: Of generalised advantage estimation.
        clip_range: PPO's.
        target_kl: PPO stops an update early beyond this divergence.
        warmup: First rollouts, in which the critic alone learns.
        judge_every: Rollouts between measurements of imagined success.
        judge_starts: Starts kept apart to measure it on.
        saturation: Imagined success at which the run ends.
        least_gain: Imagined success that PPO must gain for its policy to be kept, rather than the
            one that it began with, and, without `ensemble`, either over the clone, which is kept
            else; 60 starts cannot tell less than .15 from chance.
        ensemble: Of a clone that was fitted anew, keep the ensemble with what it was before, which
            averages their mean actions; else the new one alone, where it gained enough.
        episodes: Folder of the demonstrations that the policy stays close to; none given anchors it
            to nothing.
        demonstrations: How many of them.
        rollouts: Count every solved episode there that policies played among them.
        adapt_steps: Gradient steps of cloning on them before PPO begins.
        adapt_learning_rate: AdamW's in those, decayed to zero by a cosine.
        anchor_steps: Gradient steps on demonstrations after each rollout.
        imagined_demonstrations: Take both on imagined replays of the demonstrations as well.
        corrections: Demonstrations imagined with disturbances, and corrected, to take both on as
            well.
        real_share: Part of what is learned from, at least, that a camera saw; demonstrations are
            repeated for it.
        displacements: How many of an action's first dimensions move the hand by as much, and are
            disturbed; the others, a gripper's, never are.
        kl_coef: Weight, in PPO's loss, of the divergence from the cloned policy.
        max_deviation: Deviation of the policy's noise that training begins with, at most.
        averaging: Decay, an update, of the policy's averaged weights, which are what is judged and
            kept; 0 keeps the policy of a single update.
        success_threshold: Success probability that rewards training; none given takes the model's.
            Success is always judged by the model's own.
        uncertainty_penalty: What a grey level of the world model's uncertainty costs at every step.
        max_uncertainty: Uncertainty at which imagined episodes are cut; none given never cuts.
        initial_frames: "start" begins training episodes at real starts, "anywhere" at any
            demonstrated context of the task too.
        snapshots: Keep the policy of every measurement, in `snapshots/`, for
            `training.trace_refinement`.
        half: Round the refined policy's weights to float16, for a file of half the size.
        seed: Seed of PPO, starts and noise.
    """

    policy: Path
    out: Path
    world_model: str | None = None
    judges: tuple[str, ...] = ()
    steps: int = 24_000
    num_envs: int = 32
    rollout: int = 50
    learning_rate: float = 1e-5
    critic_learning_rate: float = 3e-4
    epochs: int = 4
    batch_size: int = 200
    gamma: float = 0.999
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    target_kl: float = 0.05
    warmup: int = 2
    judge_every: int = 6
    judge_starts: int = 60
    saturation: float = 1.0
    least_gain: float = 0.15
    ensemble: bool = True
    episodes: Path | None = None
    demonstrations: int = 50
    rollouts: bool = False
    adapt_steps: int = 4000
    adapt_learning_rate: float = 1e-3
    anchor_steps: int = 16
    imagined_demonstrations: bool = True
    corrections: int = 160
    real_share: float = 0.5
    displacements: int = 3
    kl_coef: float = 0.0
    max_deviation: float = 0.25
    averaging: float = 0.8
    success_threshold: float | None = None
    uncertainty_penalty: float = 0.0
    max_uncertainty: float | None = None
    initial_frames: Literal["start", "anywhere"] = "start"
    snapshots: bool = False
    half: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("num_envs", "rollout", "epochs", "batch_size", "judge_every", "judge_starts")
        require_at_least(self, 1, *counts, "demonstrations")
        weights = ("kl_coef", "uncertainty_penalty")
        steps = ("adapt_steps", "anchor_steps", "warmup", "corrections", "displacements")
        require_at_least(self, 0, *weights, *steps)
        rates = ("learning_rate", "critic_learning_rate", "adapt_learning_rate")
        require_above(self, 0, *rates, "clip_range", "target_kl", "max_deviation", "saturation")
        require_within(self, 0, 1, "gamma", "gae_lambda", "least_gain")
        require_within(self, 0, 1, "max_deviation", "saturation")
        require_below_one(self, "averaging", "real_share")


def held_to(
    args: Args, world_model: WorldModel, demonstrations: Sequence[Episode]
) -> list[Episode]:
    """Demonstrations as seen, as imagined and as corrected, whatever of it is asked for.

    Of few demonstrations each is there several times, so that corrections are no more than two
    thirds; those that were seen still more often, where their share asks for it.
    """
    seen = list(demonstrations)
    imagined = replayed(world_model, seen) if args.imagined_demonstrations else []
    corrected = corrections(
        world_model,
        seen,
        args.corrections,
        displacements=args.displacements,
        seed=args.seed,
    )
    repeats = max(1, round(len(corrected) / (2 * len(seen + imagined))))
    made = imagined * repeats + corrected
    odds = args.real_share / (1 - args.real_share)
    return seen * max(repeats, round(odds * len(made) / len(seen))) + made


def refine(args: Args) -> Judge:
    """Refines and saves the policy; returns the judge, with the curve and the point kept.

    Raises:
        PolicyError: The policy does not fit the world model.
        WorldModelError: The world model cannot be loaded.
        EpisodeError: There are fewer demonstrations in the folder than asked for.
        SettingsError: An action has fewer dimensions than `displacements`, or the folder holds
            another run.
        InUseError: Another process is training into the folder.
    """
    world_model = WorldModel.from_pretrained(args.world_model)
    task = check_policy_fits(args.policy, world_model)
    judges = [WorldModel.from_pretrained(source) for source in args.judges]
    for other in judges:
        check_policy_fits(args.policy, other)
    config = load_policy_config(args.policy)
    if args.ensemble and 2 * config.members > MOST_MEMBERS:
        raise SettingsError(
            f"ensemble: of a policy of {config.members} members it would have more than "
            f"{MOST_MEMBERS}; --no-ensemble keeps what was made of it alone"
        )
    if args.displacements > config.action_size:
        raise SettingsError(
            f"displacements: expected at most the action's {config.action_size} dimensions, "
            f"got {args.displacements}"
        )
    demonstrations = (
        load_demonstrations(args.episodes, task, args.demonstrations, args.rollouts)
        if args.episodes
        else []
    )
    with locked(args.out):
        keep_settings(args, args.out)
        (args.out / "curve.json").unlink(missing_ok=True)  # it says that a refinement ended
        return _train(args, config, world_model, judges, demonstrations)


def _train(
    args: Args,
    config: PolicyConfig,
    world_model: WorldModel,
    judges: Sequence[WorldModel],
    demonstrations: Sequence[Episode],
) -> Judge:
    """Refines a policy that was checked, in a folder that is locked."""
    task = config.task
    train_starts, judge_starts = split_starts(
        world_model, task, args.judge_starts, args.initial_frames == "anywhere"
    )
    env = ImaginedVecEnv(
        args.num_envs,
        world_model=world_model,
        task=task,
        initial_frames=train_starts,
        success_threshold=args.success_threshold,
        uncertainty_penalty=args.uncertainty_penalty,
        max_uncertainty=args.max_uncertainty,
    )
    cloned, average = load_policy(args.policy), load_policy(args.policy)
    judge = Judge(
        average,
        [world_model, *judges],
        judge_starts,
        args.out,
        every=args.judge_every,
        decay=args.averaging,
        saturation=args.saturation,
        least_gain=args.least_gain,
        snapshots=args.snapshots,
        half=args.half,
        total=args.steps,
        seed=args.seed + 1,
    )
    anchor = None
    anchored = demonstrations and (args.adapt_steps or args.anchor_steps)
    success = judge.success() if anchored else args.saturation
    if success < args.saturation:
        anchor = DemonstrationAnchor(
            held_to(args, world_model, demonstrations),
            steps=args.anchor_steps,
            learning_rate=args.learning_rate,
            seed=args.seed,
        )
        if args.adapt_steps:
            judge.cloned = success
            judge.beside = load_policy(args.policy) if args.ensemble else None
            save_policy(cloned, config, args.out, half=args.half)
            anchor.adapt(cloned, args.adapt_steps, args.adapt_learning_rate)
            average.load_state_dict(cloned.state_dict())
    with torch.no_grad():
        cloned.log_std.clamp_(max=math.log(args.max_deviation))
    model = KLPPO(
        GaussianCnnPolicy,
        env,
        n_steps=args.rollout,
        learning_rate=args.learning_rate,
        n_epochs=args.epochs,
        batch_size=args.batch_size,
        gamma=args.gamma,
        gae_lambda=args.gae_lambda,
        clip_range=args.clip_range,
        target_kl=args.target_kl,
        policy_kwargs={**policy_arguments(config), "share_features_extractor": False},
        reference=cloned,
        kl_coef=args.kl_coef,
        critic_learning_rate=args.critic_learning_rate,
        critic_warmup=args.warmup,
        seed=args.seed,
        device="cpu",
    )
    model.policy.load_state_dict(cloned.state_dict())
    callbacks: list[BaseCallback] = [anchor, judge] if anchor else [judge]
    model.learn(args.steps, callback=callbacks)
    env.close()
    record: dict[str, Any] = {
        "task": task,
        "cloned": judge.cloned,
        "kept": judge.kept.imagined_steps if judge.kept else None,
        "curve": [dataclasses.asdict(point) for point in judge.curve],
    }
    save_record(args.out / "curve.json", record)
    return judge


def main() -> None:
    """Runs the command line."""
    args = tyro.cli(Args, description=__doc__)
    judge = refine(args)
    last, kept = judge.curve[-1], judge.kept
    print(
        ("" if judge.cloned is None else f"imagined success of the clone {judge.cloned:.2f}; ")
        + f"{judge.curve[0].judged:.2f} before PPO; kept is "
        + (f"{kept.judged:.2f} of {kept.imagined_steps} imagined steps" if kept else "the clone")
        + (", in an ensemble with the clone" if judge.beside else "")
        + f"; {last.imagined_steps} imagined in {last.seconds:.0f} s"
    )


if __name__ == "__main__":
    command.run(main)

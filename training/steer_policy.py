"""Clones a flow policy and refines, in imagination, what chooses its noise (DSRL).

    python -m training.steer_policy --task hammer --episodes training/data/demonstrations
    python -m training.evaluate_policy --task hammer --policy runs/steered/hammer/policy

The flow policy stays as it was cloned (Wagenmaker et al., arXiv 2506.15799).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from training.data.trainable import load_demonstrations
from training.evaluation.trust import require_believable, verdict_sentence
from training.policies.flow import clone_flow, steer
from training.policies.refinement import STEPS
from training.runs import command
from training.runs.locks import locked
from training.runs.records import save_record
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, for_task, keep_settings
from training.runs.threads import one_thread
from world4rl_gym.outcomes import check_fits
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.steer_policy`.

    Attributes:
        task: The task.
        world_model: Folder or Hub id; None is the embedded one.
        episodes: Folder of episodes; the training experts are cloned.
        demonstrations: How many of them.
        out: Folder of the run; the policy appears in its `policy`. "{task}" stands for the task.
        clone_steps: Gradient steps of the flow policy.
        steps: Env steps of PPO at most.
        seed: Seed of all.
        anyway: Refine even in a world model whose own verdict on the task is "not".
    """

    task: str
    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    demonstrations: PositiveInt = 5
    out: Path = Path("runs/steered/{task}")
    clone_steps: PositiveInt = 4000
    steps: PositiveInt = STEPS
    seed: NonNegativeInt = 0
    anyway: bool = False


def run(args: Args) -> None:
    """Clones, steers and saves the policy.

    Raises:
        EpisodeError: There are no demonstrations, or they do not fit the world model.
        WorldModelError: The world model cannot be loaded.
        SettingsError: There are too few demonstrations, the folder holds another run, or the world
            model is not to be believed on the task.
    """
    one_thread()
    out = for_task(args.out, args.task)
    world_model = WorldModel.from_pretrained(args.world_model)
    if not args.anyway:
        require_believable(world_model, args.task)
    shown = load_demonstrations(args.episodes, args.task, args.demonstrations)
    check_fits(world_model, shown)
    with locked(out):
        keep_settings(args, out, ("episodes", "anyway"))
        flow = clone_flow(shown, world_model, args.clone_steps, args.seed)
        policy, curve = steer(flow, world_model, args.task, args.steps, args.seed)
        policy.save_pretrained(out / "policy")
        save_record(out / "curve.json", [dataclasses.asdict(point) for point in curve])
    first, best = curve[0].judged, max(point.judged for point in curve)
    print(
        f"{args.task}: judged {100 * first:.0f} % -> {100 * best:.0f} % by the memory's least "
        f"favourable member. How far to believe that: {verdict_sentence(world_model, args.task)}"
    )
    print(f"steered {args.task}: {out / 'policy'}")


def main() -> None:
    """Runs the command line."""
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

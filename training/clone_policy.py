"""Clones a policy from recorded episodes, to be refined in the world model.

python -m training.clone_policy --task push --world-model runs/world_model --episodes data/mine
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from training.policies.imitation import clone_episodes
from training.runs import command
from training.runs.locks import locked
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, for_task, keep_settings
from training.runs.threads import one_thread
from world4rl_gym.episodes import EpisodeError, load_episodes
from world4rl_gym.outcomes import check_fits
from world4rl_gym.world_model import WorldModel


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.clone_policy`.

    Attributes:
        task: The task.
        world_model: Folder or Hub id; None is the embedded one.
        episodes: Folder of episodes; the training experts that solve the task are cloned.
        demonstrations: How many of them; None takes all.
        out: Folder of the run; the policy appears in its `policy`. "{task}" stands for the task.
        obs_type: What the policy sees: "features", "pixels" or "pixels_agent_pos".
        steps: Gradient steps.
        seed: Seed of the network, of batches and of noise.
    """

    task: str
    world_model: str | None = None
    episodes: Path = Path("data/episodes")
    demonstrations: PositiveInt | None = None
    out: Path = Path("runs/clone/{task}")
    obs_type: Literal["features", "pixels", "pixels_agent_pos"] = "features"
    steps: PositiveInt = 4000
    seed: NonNegativeInt = 0


def run(args: Args) -> Path:
    """Clones and saves the policy.

    Returns:
        The folder that holds `policy`.

    Raises:
        EpisodeError: There are fewer demonstrations than asked for, or they do not fit the model.
        WorldModelError: The world model cannot be loaded.
        SettingsError: The folder holds another run.
    """
    out = for_task(args.out, args.task)
    world_model = WorldModel.from_pretrained(args.world_model)
    experts = load_episodes(args.episodes, "train", [args.task], ["expert"])
    solved = [episode for episode in experts if episode.solved]
    count = args.demonstrations or len(solved)
    if not 1 <= count <= len(solved):
        raise EpisodeError(
            f"{args.episodes}: demonstrations: expected {args.demonstrations or 'at least 1'} "
            f"solved expert train episodes of {args.task}, found {len(solved)}"
        )
    check_fits(world_model, solved)
    with locked(out):
        keep_settings(args, out, ("episodes",))
        shown = solved[:count]
        policy = clone_episodes(shown, world_model, args.obs_type, args.steps, args.seed)
        policy.save_pretrained(out / "policy")
    print(f"cloned {count} demonstrations of {args.task}: {out / 'policy'}")
    return out


def main() -> None:
    """Runs the command line."""
    one_thread()
    run(tyro.cli(Args, description=__doc__))


if __name__ == "__main__":
    command.run(main)

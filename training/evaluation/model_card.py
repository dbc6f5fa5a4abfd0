"""The model card of a world model: what it is, what it was measured to do, how to use it."""

from __future__ import annotations

from typing import Any

from training.evaluation.formatting import world_model_table
from training.evaluation.trust import TRUST
from world4rl_gym.world_model import WorldModel

_USE = """```python
import gymnasium as gym
import world4rl_gym

env = gym.make("World4RL-Imagined-v0", world_model="{repo_id}"{revision}, task="{task}")
obs, info = env.reset(seed=0)
for _ in range(50):
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    if terminated or truncated:
        obs, info = env.reset()
env.close()
```"""

_LIMITS = """## Intended use

Refining and comparing policies of these tasks, and research on world models. Not for deciding
without a test in reality that a policy is safe or good, and not for robots, cameras or scenes
other than those of its episodes.

## Limits

Success in imagination is not success in reality: measure a refined policy in the real environment
before you trust it. A policy that is refined for long learns to please the model: stop when
imagined success no longer rises. Actions unlike those of the training episodes, and scenes unlike
the initial frames, are imagined badly."""


def model_card(
    model: WorldModel,
    report: dict[str, Any] | None = None,
    *,
    repo_id: str = "OWNER/NAME",
    revision: str | None = None,
    picture: str | None = None,
) -> str:
    """Returns the card as Markdown with the Hub's metadata in front.

    Args:
        model: The world model.
        report: What `training.evaluate_world_model` measured on test episodes.
        repo_id: The id that the example loads.
        revision: The branch that the example loads, if not the main one.
        picture: Name of a GIF beside the card.

    Raises:
        KeyError: A figure is missing from what is given.
    """
    config = model.config
    sizes = [
        sum(p.numel() for p in network.parameters()) / 1e6
        for network in (model.eyes, model.memory, model.denoiser)
    ]
    chosen = f', revision="{revision}"' if revision else ""
    provenance = [
        f"- {key.replace('_', ' ')}: {value}"
        for key, value in config.provenance.items()
        if key != TRUST  # `world4rl info` prints it
    ]
    parts = [
        "---\nlibrary_name: world4rl-gym\nlicense: mit\npipeline_tag: reinforcement-learning\n"
        "tags: [world-model, robotics, reinforcement-learning, gymnasium, diffusion]\n---",
        f"# A world model of {len(config.tasks)} manipulation tasks",
        *([f"![Imagined episodes]({picture})"] if picture else []),
        f"Imagines {', '.join(config.tasks)}. Eyes ({sizes[0]:.1f} M parameters) turn the first\n"
        f"{model.frame_size} x {model.frame_size} camera frame into {model.code_size} numbers; a "
        f"recurrent memory ({sizes[1]:.1f} M, {model.memory.config.members} members a task)\n"
        f"follows actions ({model.action_size} components, each held for {config.action_repeat} "
        "control steps), and says whether the\ntask stands solved and where the robot is; an EDM "
        f"denoiser ({sizes[2]:.1f} M) draws the frames out of it.",
        _USE.format(repo_id=repo_id, revision=chosen, task=config.tasks[0]),
        "## Data and training",
        "\n".join(provenance) or "Not stated.",
        "## Measured",
        _NO_FIGURES if report is None else _report_text(report),
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


_NO_FIGURES = "No figures were given with this model: measure before you trust."


def _report_text(report: dict[str, Any]) -> str:
    """The main figures of each task."""
    return (
        f"{report['split'].capitalize()} episodes of policies that the model never saw, imagined "
        "again from their first frames by\ntheir own actions, against what really happened; and "
        "what policies refined in the model\nplanned in it, done in reality (fresh plans).\n\n"
        + world_model_table(report)
    )

"""The model card of a world model: what it is, what it was measured to do, how to use it."""

from __future__ import annotations

from typing import Any

from world4rl_gym.world_model import WorldModel


def model_card(model: WorldModel, reward_figures: dict[str, Any]) -> str:
    """Returns the card as Markdown with the Hub's metadata in front.

    Args:
        model: The world model.
        reward_figures: What `training.train_reward_head` measured on test episodes.
    """
    config = model.config
    head = reward_figures["all"]
    parameters = sum(p.numel() for p in model.denoiser.parameters()) / 1e6
    provenance = "\n".join(f"- {key}: {value}" for key, value in config.provenance.items())
    return f"""---
library_name: world4rl-gym
license: mit
tags: [world-model, robotics, reinforcement-learning, gymnasium, diffusion]
---

# A world model of {len(config.tasks)} manipulation tasks

Imagines {", ".join(config.tasks)}: given the last {model.context_length} camera frames
({model.frame_size} x {model.frame_size}) and actions ({model.action_size} components, each held for
{config.action_repeat} control steps), an EDM denoiser of {parameters:.1f} M parameters predicts the
next frame, and a reward head tells whether it shows the task solved.

```python
import gymnasium as gym
import world4rl_gym

env = gym.make("World4RL-Imagined-v0", world_model="OWNER/NAME", task="{config.tasks[0]}")
obs, info = env.reset(seed=0)
for _ in range(50):
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
    if terminated or truncated:
        obs, info = env.reset()
```

## Training

{provenance}

## Measured

Reward head on {head["frames"]} real frames of test episodes, threshold {config.success_threshold}
(chosen on validation episodes): AUROC {head["auroc"]:.4f}, expected calibration error
{head["ece"]:.4f}, false positives {100 * head["false_positive"]["mean"]:.2f} %
(95 % interval {100 * head["false_positive"]["low"]:.2f} to
{100 * head["false_positive"]["high"]:.2f}), false negatives
{100 * head["false_negative"]["mean"]:.2f} %
({100 * head["false_negative"]["low"]:.2f} to {100 * head["false_negative"]["high"]:.2f}).

## Limits

Success in imagination is not success in reality: measure a refined policy in the real environment
before you trust it. Actions unlike those of the training episodes, and scenes unlike the initial
frames, are imagined badly.
"""

"""Policies on features as they lie in a folder, played without any RL library.

`training.features_policy` writes such folders: an MLP of Stable-Baselines3, whose actor is read
here.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from world4rl_gym.components import CONFIG_FILE, WEIGHTS_FILE
from world4rl_gym.features import feature_size
from world4rl_gym.reading import StrictFolder, WorldModelError, shown
from world4rl_gym.world_model import WorldModel

HIDDEN = 256
"""Units of both hidden layers."""


class FeaturesPolicy:
    """The mean action of a policy on features.

    Args:
        folder: Folder of the policy: `config.json` and its weights.
        world_model: The world model that it is to act in.

    Raises:
        WorldModelError: A file is missing or broken, or the policy does not fit the world model;
            the message names the file and the field.
    """

    def __init__(self, folder: str | os.PathLike[str], world_model: WorldModel) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise WorldModelError(f"{folder}: no such folder of a policy")
        files = StrictFolder(folder)
        record = files.read_json(CONFIG_FILE)
        inputs, outputs = feature_size(world_model), world_model.action_size
        for field, expected in (
            ("_class_name", "FeaturesPolicy"),
            ("feature_size", inputs),
            ("action_size", outputs),
        ):
            if record.get(field) != expected:
                raise WorldModelError(
                    f"{folder / CONFIG_FILE}: {field}: expected {shown(expected)}, "
                    f"got {shown(record.get(field))}"
                )
        layers = {
            "mlp_extractor.policy_net.0": (HIDDEN, inputs),
            "mlp_extractor.policy_net.2": (HIDDEN, HIDDEN),
            "action_net": (outputs, HIDDEN),
        }
        critic = {
            "mlp_extractor.value_net.0": (HIDDEN, inputs),
            "mlp_extractor.value_net.2": (HIDDEN, HIDDEN),
            "value_net": (1, HIDDEN),
        }
        shapes: dict[str, tuple[int, ...]] = {"log_std": (outputs,)}
        for name, shape in {**layers, **critic}.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        weights = files.read_tensors(WEIGHTS_FILE, shapes, ("F32",))
        self.name = folder.resolve().name
        """The folder's name, by which recordings call the policy."""
        self._network = nn.Sequential()
        for name, (rows, columns) in layers.items():
            layer = nn.Linear(columns, rows)
            layer.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})
            self._network.extend([layer, nn.Tanh()])
        del self._network[-1]  # actions are not squashed

    @torch.no_grad()
    def act(self, features: torch.Tensor) -> np.ndarray:
        """Returns the mean actions, clipped.

        Args:
            features: `(B, 2 S + 2 C + K + 2)` float32.

        Returns:
            `(B, A)` float32 in [-1, 1].
        """
        return self._network(features.cpu()).clamp(-1, 1).numpy()

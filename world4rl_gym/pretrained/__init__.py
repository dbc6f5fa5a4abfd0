"""Pretrained world models by name: where they are on the Hub and what they must be.

To list a model: publish it with `python -m training.publish`, which prints the entry.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """One listed world model.

    Attributes:
        name: What `world_model=` takes.
        description: One line for people.
        repo_id: `owner/name` on the Hub; None is embedded in the package.
        revision: The commit, in full, so that the name always means the same model.
        index_sha256: SHA-256 of its `model_index.json`, which holds those of all other files.

    Raises:
        ValueError: A field is missing or malformed.
    """

    name: str
    description: str
    repo_id: str | None = None
    revision: str | None = None
    index_sha256: str | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError(f"name: expected one without a slash, got {self.name!r}")
        if self.repo_id is None:
            return
        for field, length in (("revision", 40), ("index_sha256", 64)):
            value = getattr(self, field)
            if not value or len(value) != length or set(value) - set("0123456789abcdef"):
                raise ValueError(f"{self.name}: {field}: expected {length} hexadecimal digits")


MODELS: tuple[PretrainedModel, ...] = (
    PretrainedModel("embedded", "the default, embedded in the package: six Meta-World tasks"),
)
"""All listed world models, the embedded default first."""


def list_pretrained() -> list[str]:
    """Returns the names that `world_model=` and `WorldModel.from_pretrained` take."""
    return [model.name for model in MODELS]


def find_named(name: str) -> PretrainedModel | None:
    """Returns the listed model of that name, or None."""
    return next((model for model in MODELS if model.name == name), None)

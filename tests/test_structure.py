"""Imports run one way: a room of `training/` knows the rooms below it, and no command."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"runs"},
    {"data"},
    {"envs"},
    {"policies", "evaluation"},
    {"world_model"},
)
STUDIES = {"reproduce"}
"""Commands that may run others."""


def imported(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_imports_of_training_run_one_way() -> None:
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    training = ROOT / "training"
    commands = {path.stem for path in training.glob("*.py")} - {"__init__"}
    rooms = {path.name for path in training.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(floor_of)
    wrong = []
    for path in training.rglob("*.py"):
        own = path.relative_to(training).parts
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "training" or len(parts) < 2:
                continue
            room = parts[1]
            if room in commands and own[0] != f"{room}.py" and path.stem not in STUDIES:
                wrong.append(f"{'/'.join(own)} imports the command {room}")
            if len(own) > 1 and room in floor_of and floor_of[room] > floor_of[own[0]]:
                wrong.append(f"{'/'.join(own)} imports {name}, which is above it")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_the_package_knows_nothing_of_training() -> None:
    for path in (ROOT / "world4rl_gym").rglob("*.py"):
        assert not any(name.split(".")[0] == "training" for name in imported(path)), path


def test_every_command_has_a_help_line() -> None:
    for path in (ROOT / "training").glob("[!_]*.py"):
        text = path.read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in text, path
        assert f"python -m training.{path.stem}" in text, f"{path}: no example of its command"

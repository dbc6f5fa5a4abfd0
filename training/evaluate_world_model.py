"""Measures how far a world model may be believed, on episodes that it never saw.

    python -m training.evaluate_world_model --out results
    python -m training.evaluate_world_model --world-model runs/mine --episodes data/mine --no-twin

Policies' episodes are imagined again by their own actions; with a real env, policies are also
refined in this world model, and what they plan in it is done in reality. Of a task that is not
Meta-World's, all recorded episodes are imagined again, and the real env is one of one's own.
"""

from __future__ import annotations

import dataclasses
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from training.data.sequences import codes_of
from training.data.start_frames import load_start_frames
from training.data.trainable import require_disjoint
from training.envs.own_env import AnyEnv
from training.envs.real_env import TASKS, RealEnv, require_real_env, split_seeds, to_pixels
from training.envs.rollouts import (
    find_env,
    imagined_outcomes,
    plan,
    real_starts,
    record,
    replay,
)
from training.envs.scripted import scripted
from training.evaluation.figures import contact_psnr, frame_figures, outcome_figures
from training.evaluation.formatting import inspect_command, number, world_model_table
from training.evaluation.metrics import place_errors, policy_agreement
from training.evaluation.model_card import model_card
from training.evaluation.pictures import comparison_strip, join_videos, save_image, save_video
from training.evaluation.trust import checksum, keep_verdicts, verdict
from training.policies.refinement import STEPS, refine_imagined
from training.runs import command
from training.runs.records import save_record, save_result
from training.runs.settings import NonNegativeInt, PositiveInt, Settings, SettingsError
from training.runs.threads import one_thread
from world4rl_gym.episodes import Episode, EpisodeError, episode_files, load_episodes, task_folder
from world4rl_gym.model_index import CARD_FILE
from world4rl_gym.outcomes import Imagined, check_fits, contexts_of, imagine
from world4rl_gym.policy import Policy
from world4rl_gym.world_model import WorldModel
from world4rl_gym.writing import write_whole

REFINED = "refined-"
"""What the names of policies begin with that are refined for fresh plans."""
NOT_REFINED = ("real-ppo-", "weak-")
"""What the names of unseen policies begin with that are not."""
PROBES = ("zero", "random", "reversed", "shuffled", "open-gripper")


@dataclasses.dataclass(frozen=True)
class Args(Settings):
    """Command line of `training.evaluate_world_model`.

    Attributes:
        world_model: Folder or Hub id; none given means the embedded one.
        tasks: Tasks to measure, where the others' figures in `out` stay as they are; None measures
            all.
        episodes: Folder of episodes.
        split: The split that is measured on.
        policies: Folder of policies that the world model never saw, `TASK/NAME`; those whose names
            begin with "real-ppo-" or "weak-" are not refined for fresh plans.
        twin: Whether Meta-World is there, for its tasks: for fresh plans, probes and the object's
            place.
        real_env: `module:id` of a Gymnasium env of one's own, for fresh plans; None has none.
        plans: Fresh plans a task.
        probes: Episodes of each optimism probe a task.
        ppo_steps: Steps of PPO that refine a policy before it plans.
        seed: Of that PPO.
        out: Folder of `world_model.json`, `world_model.md` and `pictures`.
        card: Folder of a world model: the figures are written on its card, and the verdicts that
            follow from them into its index; None writes none.
    """

    world_model: str | None = None
    tasks: tuple[str, ...] | None = None
    episodes: Path = Path("data/episodes")
    split: str = "test"
    policies: Path = Path("runs/unseen")
    twin: bool = True
    real_env: str | None = None
    plans: NonNegativeInt = 200
    probes: NonNegativeInt = 20
    ppo_steps: PositiveInt = STEPS
    seed: NonNegativeInt = 501
    out: Path = Path("runs/report")
    card: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split == "train":
            raise SettingsError('split: expected "test" or "validation", got "train"')


def test_set(args: Args, task: str) -> int:
    """A checksum of the task's episodes that are measured on."""
    total = 0
    for path in episode_files(task_folder(args.episodes, task) / args.split):
        total = zlib.crc32(path.read_bytes(), zlib.crc32(path.name.encode(), total))
    return total


def policies_of(args: Args, task: str) -> list[Path]:
    """Folders of the policies that the world model never saw; none where there is no folder."""
    place = args.policies / task
    return sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else []


def fresh_plans(
    args: Args, world_model: WorldModel, task: str, env: AnyEnv
) -> tuple[list[Episode], list[dict[str, Any]]]:
    """Refines unseen clones in this world model and does in reality what they do in imagination.

    Returns:
        The plans as episodes, and what each refined policy did: imagined and real success.
    """
    own = [path for path in policies_of(args, task) if not path.name.startswith(NOT_REFINED)]
    if not own:
        return [], []
    episodes: list[Episode] = []
    summaries = []
    share = args.plans // len(own)
    for index, folder in enumerate(own):
        refined = refine_imagined(
            Policy.from_pretrained(folder),
            world_model,
            task,
            args.ppo_steps,
            args.seed + index,
            f"{task} {folder.name}",
        )
        seeds = split_seeds(args.split, share, 30_000 + 1000 * index)
        starts = real_starts(env, seeds)
        actions, imagined = plan(refined.policy, world_model, starts)
        name = f"{REFINED}{folder.name}"
        done = [
            replay(env, seed, "plan", own_actions, name)
            for seed, own_actions in zip(seeds, actions, strict=True)
        ]
        episodes += done
        real = float(np.mean([episode.solved for episode in done]))
        summaries.append(
            {"task": task, "policy": name, "imagined": float(imagined.mean()), "real": real}
        )
    return episodes, summaries


def closed_loop(
    args: Args, world_model: WorldModel, task: str, episodes: Sequence[Episode]
) -> list[dict[str, Any]]:
    """M2c: each unseen policy acts in imagination from the starts at which it acted in reality."""
    summaries = []
    for folder in policies_of(args, task):
        played = [e for e in episodes if e.behaviour == "policy" and e.policy == folder.name]
        if not played:
            continue
        starts = contexts_of(played, world_model.config.tasks)
        imagined = imagined_outcomes(Policy.from_pretrained(folder), world_model, starts)
        summaries.append(
            {
                "task": task,
                "policy": folder.name,
                "imagined": float(imagined.mean()),
                "real": float(np.mean([e.solved for e in played])),
            }
        )
    return summaries


def optimism(args: Args, world_model: WorldModel, task: str, env: RealEnv) -> dict[str, Any]:
    """M3: what is imagined of actions that should not succeed, each kind by itself."""
    figures = {}
    for index, behaviour in enumerate(PROBES):
        episodes = [
            record(env, seed, behaviour, scripted(behaviour, env, seed, hold=5))  # type: ignore[arg-type]
            for seed in split_seeds(args.split, args.probes, 40_000 + 1000 * index)
        ]
        measured = outcome_figures(
            imagine(world_model, episodes), world_model.config.success_threshold
        )
        kept = ("episodes", "real", "imagined", "imagined_minus_real")
        figures[behaviour] = {name: measured[name] for name in kept}
    return figures


def eyes_accuracy(args: Args, world_model: WorldModel, task: str) -> dict[str, float] | None:
    """How far off a probe of the start frames' codes places the task's object, in mm."""
    known = load_start_frames(args.episodes, task, "train")
    held_out = load_start_frames(args.episodes, task, args.split)
    if known.objects is None or held_out.objects is None:
        return None
    eyes = world_model.task_eyes(task)
    errors = 1000 * place_errors(
        codes_of(eyes, known.frames).cpu().numpy(),
        known.objects[:, :2],
        codes_of(eyes, held_out.frames).cpu().numpy(),
        held_out.objects[:, :2],
    )
    return {
        "mean_mm": round(float(errors.mean()), 3),
        "median_mm": round(float(np.median(errors)), 3),
        "ninth_decile_mm": round(float(np.quantile(errors, 0.9)), 3),
    }


def object_places(env: RealEnv, episode: Episode) -> np.ndarray:
    """Where the camera sees the object at every frame: `(T + 1, 2)` pixels."""
    env.reset(seed=episode.seed)
    places = [env.object_position]
    for action in episode.actions:
        env.step(action)
        places.append(env.object_position)
    return to_pixels(np.stack(places))


def measure_task(
    args: Args, world_model: WorldModel, task: str, before: dict[str, Any]
) -> dict[str, Any]:
    """All figures of one task; its fresh plans are taken from `before` where that holds them."""
    threshold = world_model.config.success_threshold
    episodes = load_episodes(args.episodes, args.split, [task])
    played = [
        e
        for e in episodes
        if e.behaviour == "policy" or (task not in TASKS and e.behaviour != "replay")
    ]
    if not played:
        raise EpisodeError(f"{args.episodes}: no {args.split} episodes of policies of {task}")
    check_fits(world_model, episodes)
    if episode_files(task_folder(args.episodes, task) / "train"):
        known = load_episodes(args.episodes, "train", [task])
        require_disjoint({"train": known, args.split: episodes})
    imagined = imagine(world_model, played)
    figures: dict[str, Any] = {"policies": outcome_figures(imagined, threshold), "policy": {}}
    for name in sorted({e.policy for e in played} - {""}):
        own = [one for one in imagined if one.episode.policy == name]
        figures["policy"][name] = outcome_figures(own, threshold)
    near = [e for e in episodes if e.behaviour == "replay"]
    if near:
        figures["near_misses"] = outcome_figures(imagine(world_model, near), threshold)
    figures["closed_loop"] = closed_loop(args, world_model, task, played)
    figures["eyes"] = eyes_accuracy(args, world_model, task)
    drawn = imagine(world_model, [e for e in played if e.is_drawn], draw=True)
    figures["frames"] = frame_figures(drawn)
    env = find_env(task, world_model, args.real_env, args.twin)
    if env is not None:
        try:
            if isinstance(env, RealEnv):
                centres = [object_places(env, one.episode) for one in drawn]
                figures["contact"] = contact_psnr(drawn, centres)
                figures["probes"] = optimism(args, world_model, task, env)
            if "plans" in before:
                figures["plans"] = before["plans"]
                loops = before["closed_loop"]
                summaries = [one for one in loops if one["policy"].startswith(REFINED)]
            else:
                plans, summaries = fresh_plans(args, world_model, task, env)
                if plans:
                    figures["plans"] = outcome_figures(imagine(world_model, plans), threshold)
        finally:
            env.close()
        figures["closed_loop"] += summaries
    save_pictures(args.out / "pictures", task, drawn)
    return figures


def save_pictures(folder: Path, task: str, drawn: Sequence[Imagined]) -> None:
    """A strip of three episodes, real above imagined, and a video of the first."""
    shown = [one for one in drawn if one.episode.solved][:2] + list(drawn[-1:])
    strips = []
    for one in shown:
        assert one.frames is not None
        strips.append(comparison_strip(one.episode.frames, one.frames))
    if strips:
        widest = max(strip.shape[1] for strip in strips)  # episodes may differ in length
        strips = [
            np.pad(s, ((0, 0), (0, widest - s.shape[1]), (0, 0)), constant_values=255)
            for s in strips
        ]
        save_image(folder / f"{task}.png", np.concatenate(strips))
        assert shown[0].frames is not None
        save_video(folder / f"{task}.mp4", shown[0].episode.frames, shown[0].frames)


def summary(tasks: dict[str, Any]) -> dict[str, Any]:
    """Means over tasks, the worst task, and M4 over all policies of the closed loop."""

    def over(kind: str, name: str) -> list[float]:
        found = [t[kind][name] for t in tasks.values() if kind in t]
        means = [value["mean"] if isinstance(value, dict) else value for value in found]
        return [number(value) for value in means]

    means: dict[str, Any] = {}
    for kind in ("policies", "plans", "near_misses"):
        predicted = ("wrong_predicted_by_uncertainty", "wrong_predicted_by_margin")
        for name in ("auroc", "agreement", *predicted):
            values = over(kind, name)
            if not np.isnan(values).all():
                means[f"{kind}_{name}"] = round(float(np.nanmean(values)), 4)
                means[f"{kind}_{name}_worst"] = round(float(np.nanmin(values)), 4)
    loops = [one for t in tasks.values() for one in t["closed_loop"]]
    if len(loops) >= 3:
        means["policies_in_both_worlds"] = policy_agreement(
            [one["imagined"] for one in loops],
            [one["real"] for one in loops],
            [one["task"] for one in loops],
        )
    return means


def evaluate(args: Args) -> dict[str, Any]:
    """Measures every task; one that was measured alike, of the same model, is not measured again.

    Where only the test episodes are others, fresh plans stay as they are.

    Raises:
        EpisodeError: Test episodes are missing or broken.
        WorldModelError: The world model cannot be loaded.
        ValueError: It does not know a task.
        RealEnvUnavailableError: Meta-World is asked for, and cannot be had.
        OwnEnvError: One's own env cannot be made, or does not fit.
    """
    world_model = WorldModel.from_pretrained(args.world_model)
    if args.twin and args.real_env is None and set(world_model.config.tasks) & set(TASKS):
        require_real_env()
    began = time.monotonic()
    free = {"world_model", "tasks", "out", "card"}
    chosen = {k: v for k, v in dataclasses.asdict(args).items() if k not in free}
    settings = json.loads(json.dumps(chosen, default=str))
    path = args.out / "world_model.json"
    tasks: dict[str, Any] = json.loads(path.read_bytes())["tasks"] if path.exists() else {}
    for task in world_model.config.tasks if args.tasks is None else args.tasks:
        asked = {"checksum": checksum(world_model, task), "settings": settings}
        known = tasks.get(task, {})
        if any(known.get(name) != value for name, value in asked.items()):
            known = {}
        asked["test_set"] = test_set(args, task)
        if known.get("test_set") != asked["test_set"]:
            tasks[task] = {**measure_task(args, world_model, task, known), **asked}
            save_record(path, _report(args, tasks))
            print(task, f"measured; {time.monotonic() - began:.0f} s", flush=True)
    report = _report(args, tasks)
    save_result(path, report)
    (args.out / "world_model.md").write_text(world_model_table(report) + "\n", "utf-8")
    if args.card is not None:
        write_whole(args.card / CARD_FILE, model_card(world_model, report).encode())
        keep_verdicts(args.card, tasks)
    videos = sorted((args.out / "pictures").glob("*.mp4"))
    if len(videos) == len(tasks):  # else the picture that is there shows more
        join_videos(videos, args.out / "pictures" / "rollouts.gif")
    return report


def _report(args: Args, tasks: dict[str, Any]) -> dict[str, Any]:
    believable = {task: own for task, own in tasks.items() if verdict(own) != "not"}
    return {
        "split": args.split,
        "summary": summary(tasks),
        "summary_of_believable": summary(believable),
        "tasks": tasks,
    }


def main() -> None:
    """Runs the command line."""
    one_thread()
    args = tyro.cli(Args, description=__doc__)
    report = evaluate(args)
    print(world_model_table(report))
    print(json.dumps(report["summary"], indent=2))
    tasks = report["tasks"] if args.tasks is None else args.tasks
    line = inspect_command(args.episodes, args.world_model, args.split, tasks)
    print("look at the episodes:", line)


if __name__ == "__main__":
    command.run(main)

"""Refinement at tiny size: PPO in imagination, its anchor, and what is kept."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_world_model
from episode_factory import make_episode, write_episodes

from training import clone_policy, refine_policy
from training.anchor import DemonstrationAnchor
from training.episodes import EpisodeError
from training.judge import (
    Measurement,
    chosen,
    gained,
    snapshot_path,
)
from training.policy import actor_parameters, ensemble, load_policy, save_policy
from training.settings import SettingsError


def short_run(cloned: Path, out: Path, world_model: Path, **changes: Any) -> refine_policy.Args:
    return refine_policy.Args(
        cloned,
        out,
        str(world_model),
        num_envs=4,
        rollout=8,
        batch_size=16,
        judge_every=1,
        warmup=1,
        snapshots=True,
        **changes,
    )


def test_refinement_runs_inside_the_world_model_and_keeps_the_best(
    cloned: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "world_model"
    make_tiny_world_model(success_threshold=0.6).save_pretrained(folder)
    other = tmp_path / "judge"
    make_tiny_world_model(success_threshold=0.7).save_pretrained(other)
    args = short_run(
        cloned,
        tmp_path / "refined",
        folder,
        steps=160,
        episodes=write_episodes(tmp_path / "data"),
        demonstrations=3,
        anchor_steps=2,
        imagined_demonstrations=True,
        corrections=5,
        adapt_steps=3,
        kl_coef=0.1,
        uncertainty_penalty=0.001,
        initial_frames="anywhere",
        judges=(str(other),),
    )
    before = {p.name: p.read_bytes() for p in cloned.iterdir()}
    curve = refine_policy.refine(args).curve
    assert curve[0].imagined_steps == 0
    record = json.loads((tmp_path / "refined" / "curve.json").read_text())
    for point in curve:
        load_policy(snapshot_path(args.out, point.imagined_steps))
    best = chosen(curve, args.least_gain)
    assert record["kept"] == best.imagined_steps
    both = [load_policy(cloned), load_policy(snapshot_path(args.out, best.imagined_steps))]
    assert not torch.equal(*(policy.action_net.weight for policy in both))
    kept, expected = load_policy(tmp_path / "refined"), ensemble(both)
    assert kept.config.members == 2
    ends = [actor_parameters(policy) for policy in (kept, expected)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert {p.name: p.read_bytes() for p in cloned.iterdir()} == before
    with pytest.raises(SettingsError, match="seed"):
        refine_policy.refine(refine_policy.Args(cloned, tmp_path / "refined", str(folder), seed=1))


def test_the_anchor_holds_demonstrations_as_seen_imagined_and_corrected() -> None:
    model, episodes = make_tiny_world_model(), [make_episode(seed) for seed in range(2)]
    shown = sum(len(e) for e in episodes)
    held = {}
    for name, changes in {
        "seen": {"imagined_demonstrations": False, "corrections": 0},
        "imagined": {"corrections": 0},
        "corrected": {"corrections": 16, "real_share": 0.0},
        "half": {"corrections": 16, "real_share": 0.5},
    }.items():
        args = refine_policy.Args(Path("clone"), Path("out"), **changes)
        held[name] = DemonstrationAnchor(
            refine_policy.held_to(args, model, episodes), steps=2, learning_rate=1e-3
        )
    frames = {name: anchor.frames for name, anchor in held.items()}
    assert torch.equal(frames["imagined"][:shown], frames["seen"])
    assert torch.equal(frames["imagined"][shown], frames["seen"][0])  # from the real first frame
    assert not torch.equal(frames["imagined"][shown:], frames["seen"])
    assert torch.equal(held["imagined"].actions, held["seen"].actions.repeat(2, 1))
    both = 2 * shown  # each twice, to be half as many as what is corrected
    corrected = 16 * len(episodes[0])
    assert len(frames["corrected"]) == 2 * both + corrected
    assert torch.equal(frames["corrected"][both : both + shown], frames["imagined"][shown:])
    assert torch.equal(frames["corrected"][2 * both], frames["seen"][0])
    made = both + corrected
    assert len(frames["half"]) == 2 * made
    assert torch.equal(frames["half"][:made], frames["seen"].repeat(made // shown, 1, 1, 1))
    assert torch.equal(frames["half"][made:], frames["corrected"][both:])
    with pytest.raises(ValueError, match="real_share"):
        refine_policy.Args(Path("clone"), Path("out"), real_share=1.0)


def test_refinement_begins_with_a_clone_adapted_to_imagined_demonstrations(
    cloned: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "world_model"
    make_tiny_world_model(success_threshold=0.6).save_pretrained(folder)
    episodes = write_episodes(tmp_path / "data")
    begun = []
    for name, changes in {
        "unadapted": {"adapt_steps": 0},
        "seen": {"adapt_steps": 4, "imagined_demonstrations": False},
        "imagined": {"adapt_steps": 4},
        "corrected": {"adapt_steps": 4, "corrections": 4},
    }.items():
        args = short_run(
            cloned,
            tmp_path / name,
            folder,
            steps=32,
            episodes=episodes,
            demonstrations=3,
            anchor_steps=0,
            **{"corrections": 0, **changes},
        )
        refine_policy.refine(args)
        begun.append(load_policy(snapshot_path(args.out, 0)))
    clone, *adapted = (torch.nn.utils.parameters_to_vector(p.parameters()) for p in begun)
    own = torch.nn.utils.parameters_to_vector(load_policy(cloned).parameters())
    assert torch.equal(clone, own)
    assert not any(torch.equal(clone, other) for other in adapted)
    for one, other in itertools.combinations(adapted, 2):
        assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="displacements"):
        refine_policy.refine(short_run(cloned, tmp_path / "six", folder, displacements=6))
    assert not (tmp_path / "six").exists()
    with pytest.raises(EpisodeError, match="demonstrations"):
        refine_policy.refine(
            short_run(cloned, tmp_path / "few", folder, episodes=episodes, demonstrations=90)
        )


def test_half_precision_is_asked_of_cloning_and_of_refinement(
    cloned: Path, model_folder: Path, tmp_path: Path
) -> None:
    episodes = write_episodes(tmp_path / "data")
    for half in (False, True):
        out = tmp_path / str(half)
        clone_policy.run(clone_policy.Args("push", out / "clone", episodes, 3, 2, half=half))
        given = {"episodes": episodes, "demonstrations": 3, "anchor_steps": 0, "corrections": 0}
        refine_policy.refine(
            short_run(cloned, out / "in", model_folder, steps=1, adapt_steps=2, half=half, **given)
        )
    for made in ("clone", "in"):
        whole, halved = (load_policy(tmp_path / str(half) / made) for half in (False, True))
        rounded = halved.state_dict()
        for name, value in whole.state_dict().items():
            assert torch.equal(rounded[name], value.half().float())
        assert not all(torch.equal(rounded[name], v) for name, v in whole.state_dict().items())


def test_an_ensemble_of_too_many_is_refused_before_the_work(cloned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world_model"
    make_tiny_world_model().save_pretrained(folder)
    five = ensemble([load_policy(cloned)] * 5)
    save_policy(five, five.config, tmp_path / "five")
    with pytest.raises(SettingsError, match="--no-ensemble"):
        refine_policy.refine(short_run(tmp_path / "five", tmp_path / "out", folder))
    assert not (tmp_path / "out").exists()


def test_the_clone_is_kept_unless_enough_was_gained_over_it(cloned: Path, tmp_path: Path) -> None:
    curve = [Measurement(step, judged, None, 0.0) for step, judged in enumerate((0.5, 0.7))]
    assert gained(curve, None, 0.15)
    assert gained(curve, 0.55, 0.15)
    assert not gained(curve, 0.6, 0.15)
    assert not gained(curve[:1], 0.5, 0.15)
    folder = tmp_path / "world_model"
    make_tiny_world_model(success_threshold=0.6).save_pretrained(folder)
    data = write_episodes(tmp_path / "data")
    kept = {}
    for least_gain in (0.0, 1.0):
        out = tmp_path / f"refined-{least_gain}"
        args = short_run(
            cloned,
            out,
            folder,
            steps=64,
            episodes=data,
            demonstrations=3,
            corrections=2,
            real_share=0.0,
            adapt_steps=2,
            saturation=1.0,
            least_gain=least_gain,
            ensemble=False,
        )
        refine_policy.refine(args)
        record = json.loads((out / "curve.json").read_text())
        assert record["cloned"] < 1
        kept[record["kept"]] = out
    before = load_policy(cloned).action_net.weight
    assert torch.equal(load_policy(kept[None]).action_net.weight, before)
    (other,) = (out for steps, out in kept.items() if steps is not None)
    assert not torch.equal(load_policy(other).action_net.weight, before)


def test_what_is_kept_is_the_average_over_updates(cloned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "world_model"
    make_tiny_world_model(success_threshold=0.6).save_pretrained(folder)

    def refined(decay: float) -> refine_policy.Args:
        out = tmp_path / f"refined-{decay}"
        args = short_run(cloned, out, folder, steps=64, learning_rate=1e-3, averaging=decay)
        refine_policy.refine(args)
        return args

    def weights(args: refine_policy.Args, steps: int) -> torch.Tensor:
        actor = actor_parameters(load_policy(snapshot_path(args.out, steps)))
        return torch.cat([p.detach().flatten() for n, p in actor.items() if n != "log_std"])

    args, single = refined(0.75), refined(0.0)
    begun, averaged, last = weights(args, 0), weights(args, 64), weights(single, 64)
    assert not torch.equal(last, begun)
    assert torch.allclose(averaged, begun.lerp(last, 0.25), atol=1e-6)


def test_a_refinement_that_is_killed_does_not_look_finished(
    cloned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "world_model", tmp_path / "refined"
    make_tiny_world_model().save_pretrained(folder)
    args = short_run(cloned, out, folder)
    out.mkdir()
    (out / "curve.json").write_text("{}")  # of a run before it

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(refine_policy, "_train", killed)
    with pytest.raises(KeyboardInterrupt):
        refine_policy.refine(args)
    assert not (out / "curve.json").exists()
    assert (out / "settings.json").exists()

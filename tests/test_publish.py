"""Publishing: what is uploaded, its card, interruption, and the whole round trip."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import CODES, SIZE, STATES, make_tiny_world_model
from hub_server import HubServer
from tampering import DENOISER, edit_json
from test_hub import REPO, cache, client, equal, hub  # noqa: F401  (fixtures)
from test_loading_folders import contents

from training import publish
from training.evaluation.model_card import model_card
from training.evaluation.trust import checksum
from training.runs import command
from world4rl_gym.env import ImaginedEnv
from world4rl_gym.model_index import ALL_FILES
from world4rl_gym.world_model import WorldModel, WorldModelError

RATE = {"mean": 0.954, "low": 0.9, "high": 0.98}
BIAS = {"mean": 0.02, "low": -0.02, "high": 0.06}
FIGURES = {
    "policies": {"auroc": 0.9876, "agreement": RATE, "imagined_minus_real": BIAS},
    "plans": {"auroc": 0.9123, "agreement": RATE, "imagined_minus_real": BIAS},
    "near_misses": {"auroc": 0.975},
    "frames": {"psnr": {"50": 27.4}},
    "contact": {"psnr": 21.5},
    "eyes": {"mean_mm": 1.2},
}
REPORT = {"split": "test", "tasks": {"push": FIGURES, "pull": FIGURES}}


@pytest.fixture
def args(model_folder: Path, tmp_path: Path) -> publish.Args:
    results = tmp_path / "world_model.json"
    model = WorldModel.from_pretrained(model_folder)
    tasks = {task: {**FIGURES, "checksum": checksum(model, task)} for task in model.config.tasks}
    results.write_text(json.dumps({**REPORT, "tasks": tasks}))
    return publish.Args(model_folder, REPO, results=results)


def changed(args: publish.Args, **fields) -> publish.Args:
    return publish.Args(**{**vars(args), **fields})


def test_a_dry_run_shows_exactly_what_a_run_uploads(
    args: publish.Args,
    hub: HubServer,  # noqa: F811
    capsys,
) -> None:
    before = contents(args.folder)
    assert publish.publish(changed(args, dry_run=True)) is None
    shown = capsys.readouterr().out
    assert not hub.requests
    assert contents(args.folder) == before
    commit = publish.publish(args)
    assert commit is not None
    uploaded = hub.files(REPO, commit)
    assert set(uploaded or {}) == set(ALL_FILES)
    lines = [line.split() for line in shown.splitlines()]
    listed = {line[2]: (int(line[0].replace(",", "")), line[1]) for line in lines if len(line) == 3}
    for name, data in (uploaded or {}).items():
        assert listed[name] == (len(data), hashlib.sha256(data).hexdigest())
    assert equal(WorldModel.from_pretrained(REPO), WorldModel.from_pretrained(args.folder))
    output = capsys.readouterr().out
    assert commit in output
    assert "index_sha256" in output


def test_the_card_says_what_was_measured(
    args: publish.Args,
    hub: HubServer,  # noqa: F811
) -> None:
    publish.publish(args)
    files = hub.files(REPO) or {}
    card = files["README.md"].decode()
    for text in ("push", "pull", "0.988", "95.4", "27.4", "Intended use", "Limits"):
        assert text in card
    assert f'world_model="{REPO}"' in card
    assert "![Imagined episodes](rollout.gif)" in card
    gif = iio.imread(files["rollout.gif"], extension=".gif", index=None)
    assert gif.ndim == 4
    assert len(gif) > 1
    provenance = json.loads(files["model_index.json"])["provenance"]
    assert provenance["trust_verdicts"] == {"push": "care", "pull": "care"}


def test_the_cards_ten_lines_run(args: publish.Args, hub: HubServer) -> None:  # noqa: F811
    publish.publish(args)
    card = (hub.files(REPO) or {})["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) == 10
    exec(code, {})


def test_a_card_without_figures_says_so(tiny_world_model) -> None:
    assert "No figures were given" in model_card(tiny_world_model)


def test_an_interrupted_upload_goes_on(args: publish.Args, hub: HubServer, capsys) -> None:  # noqa: F811
    hub.refuse_objects_after = 2
    with pytest.raises(WorldModelError, match="goes on from there"):
        publish.publish(args)
    assert hub.stored == 2
    assert not hub.files(REPO)  # one commit: nothing half-published can be seen
    stored = set(hub.objects)
    hub.refuse_objects_after = None
    hub.requests.clear()
    publish.publish(args)
    sent = {r.split("/")[-1] for r in hub.requests if r.startswith("PUT")}
    assert sent
    assert not sent & stored  # what was there is not sent again
    assert equal(WorldModel.from_pretrained(REPO), WorldModel.from_pretrained(args.folder))
    hub.requests.clear()
    publish.publish(args)
    assert not [r for r in hub.requests if r.startswith("PUT")]


def test_what_is_unfit_is_not_published(args: publish.Args, hub: HubServer) -> None:  # noqa: F811
    broken = args.results
    assert broken is not None
    for text in ("{}", "not json", "[]", '{"tasks": 7}'):
        broken.write_text(text)
        with pytest.raises(publish.PublishError, match="world_model.json"):
            publish.publish(args)
    with pytest.raises(publish.PublishError, match="missing.json"):
        publish.publish(changed(args, results=Path("missing.json")))
    still = make_tiny_world_model()
    still.denoiser.register_to_config(residual_scale=1e-6)
    still.save_pretrained(args.folder.parent / "still")
    with pytest.raises(publish.PublishError, match="pixel"):
        publish.publish(changed(args, folder=args.folder.parent / "still", results=None))
    edit_json(args.folder, "denoiser/config.json", unknown=1)
    with pytest.raises(WorldModelError, match="unknown"):
        publish.publish(args)
    assert not hub.requests


def test_the_command_line(args: publish.Args, monkeypatch, capsys, hub: HubServer) -> None:  # noqa: F811
    line = ["publish", "--folder", str(args.folder), "--repo", REPO, "--dry-run"]
    monkeypatch.setattr("sys.argv", line)
    publish.main()
    assert DENOISER in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*line[:2], "/missing", *line[3:]])
    with pytest.raises(SystemExit, match="error: .*missing"):
        command.run(publish.main)
    assert not hub.requests


# ------------------------------------------------------------------------------------ round trip

FRESH = """
import hashlib, sys
import torch
from world4rl_gym.env import ImaginedEnv
torch.set_num_threads(int(sys.argv[2]))
{rollout}
print(rollout(sys.argv[1]))
"""
ROLLOUT = '''
def rollout(world_model):
    """SHA-256 of all that two seeded episodes show."""
    env = ImaginedEnv(world_model, task="push")
    env.action_space.seed(5)
    digest = hashlib.sha256()
    for episode in range(2):
        frame, info = env.reset(seed=episode)
        digest.update(frame.tobytes())
        over = False
        while not over:
            frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
            digest.update(frame.tobytes())
            digest.update(repr((reward, terminated, info["success_probability"])).encode())
            over = terminated or truncated
    return digest.hexdigest()
'''


def trained_a_little() -> WorldModel:
    """A tiny world model after a few real gradient steps."""
    model = make_tiny_world_model(seed=2)
    denoiser = model.denoiser.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(8, 3, SIZE, SIZE, generator=generator) * 2 - 1
    codes = torch.randn(8, CODES, generator=generator)
    states = torch.randn(8, STATES, generator=generator)
    for _ in range(3):
        condition = denoiser.condition(frames, codes, codes, states)
        loss = denoiser(frames, torch.zeros(8), condition).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    denoiser.requires_grad_(False).eval()
    return model


def test_the_round_trip_train_save_publish_load_and_load_offline(
    tmp_path: Path,
    hub: HubServer,  # noqa: F811
) -> None:
    model = trained_a_little()
    model.save_pretrained(tmp_path / "model")
    publish.publish(publish.Args(tmp_path / "model", REPO))
    names: dict = {"ImaginedEnv": ImaginedEnv, "hashlib": hashlib}
    exec(ROLLOUT, names)
    expected = names["rollout"](model)
    assert names["rollout"](str(tmp_path / "model")) == expected
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "empty"),
        "HF_HUB_DISABLE_XET": "1",
    }
    script = FRESH.format(rollout=ROLLOUT)
    command = [sys.executable, "-c", script, REPO, str(torch.get_num_threads())]
    for offline in ("0", "1"):
        hub.requests.clear()
        ran = subprocess.run(
            command,
            env={**environment, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
        )
        assert ran.stdout.strip() == expected, ran.stderr
        assert bool(hub.requests) == (offline == "0")


def test_weights_survive_saving_exactly(tmp_path: Path) -> None:
    model = trained_a_little()  # float32 weights that float16 cannot hold
    model.save_pretrained(tmp_path / "model")
    loaded = WorldModel.from_pretrained(tmp_path / "model")
    assert equal(model, loaded)
    loaded.denoiser.half().float()
    loaded.save_pretrained(tmp_path / "half")
    full, half = (tmp_path / name / DENOISER for name in ("model", "half"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    assert equal(loaded, WorldModel.from_pretrained(tmp_path / "half"))
    assert np.isfinite(loaded.denoiser.head.bias.numpy()).all()

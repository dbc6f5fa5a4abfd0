"""List A, Hub: with the real client, against a Hub on loopback."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_world_model
from hub_server import HubServer
from huggingface_hub import constants
from tampering import DENOISER, INDEX, refused
from test_loading_folders import contents, unprivileged

import world4rl_gym
import world4rl_gym.hub
from world4rl_gym import pretrained
from world4rl_gym.model_index import ALL_FILES, PART_FILES
from world4rl_gym.policy import Policy, PolicyConfig, make_policy
from world4rl_gym.pretrained import PretrainedModel
from world4rl_gym.world_model import WorldModel, WorldModelError

REPO = "someone/their-model"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def cache() -> Iterator[Path]:
    """An empty cache that other users can reach too, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        (Path(parent) / "hub").mkdir()
        yield Path(parent) / "hub"


@pytest.fixture(autouse=True)
def client(hub: HubServer, cache: Path, monkeypatch) -> Callable[[str], None]:
    """Points the client where environment variables would; returns how to point it elsewhere."""

    def point(endpoint: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_only_for_loopback")
    point(hub.endpoint)
    return point


@pytest.fixture
def published(hub: HubServer, tiny_folder: str) -> str:
    """The tiny world model on the Hub; returns the commit."""
    return hub.commit(REPO, contents(Path(tiny_folder)))


def equal(a: WorldModel, b: WorldModel) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


def test_a_hub_id_loads_and_again_from_the_cache(
    hub: HubServer, published: str, tiny_world_model: WorldModel
) -> None:
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)
    hub.requests.clear()
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)
    assert not [r for r in hub.requests if "resolve" in r]  # nothing is downloaded twice


def test_a_hub_id_makes_an_env(published: str) -> None:
    import gymnasium as gym

    env = gym.make(world4rl_gym.ENV_ID, world_model=REPO, revision=published)
    assert env.reset(seed=0)[0].shape == (16, 16, 3)
    env.close()


def test_a_hub_an_id_that_does_not_exist(hub: HubServer) -> None:
    with refused("nobody/nothing", "world_model=None"):
        WorldModel.from_pretrained("nobody/nothing")


def test_a_hub_a_revision_that_does_not_exist(published: str) -> None:
    with refused(REPO, "no-such-branch", "world_model=None"):
        WorldModel.from_pretrained(REPO, revision="no-such-branch")


@pytest.mark.parametrize("revision", ["../../x", "/etc/passwd", "a b", "", "a\n", 7, "x" * 300])
def test_a_hub_odd_revisions(published: str, hub: HubServer, revision) -> None:
    hub.requests.clear()
    with refused("revision"):
        WorldModel.from_pretrained(REPO, revision=revision)
    assert not hub.requests


@pytest.mark.parametrize("source", ["../secret", "a/../b", "/a/b", "a/b/c", "a//b", "https://a/b"])
def test_a_hub_odd_ids(hub: HubServer, source: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused("no such folder"):
        WorldModel.from_pretrained(source)
    assert not hub.requests


def test_a_hub_offline_and_not_cached(hub: HubServer, published: str, monkeypatch) -> None:
    with refused(REPO, "world_model=None"):
        WorldModel.from_pretrained(REPO, local_files_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused(REPO, "world_model=None"):
        WorldModel.from_pretrained(REPO)
    assert not hub.requests


@pytest.mark.parametrize("revision", [None, "main", "commit"])
def test_a_hub_offline_and_cached(
    hub: HubServer, published: str, tiny_world_model, monkeypatch, revision: str | None
) -> None:
    revision = published if revision == "commit" else revision
    WorldModel.from_pretrained(REPO, revision=revision)
    hub.requests.clear()
    loaded = WorldModel.from_pretrained(REPO, revision=revision, local_files_only=True)
    assert equal(loaded, tiny_world_model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert equal(WorldModel.from_pretrained(REPO, revision=revision), tiny_world_model)
    assert not hub.requests


def test_a_hub_unreachable(hub, published: str, tiny_world_model, client) -> None:
    client("http://127.0.0.1:9")  # nothing listens there
    with refused(REPO, "world_model=None"):
        WorldModel.from_pretrained(REPO)
    client(hub.endpoint)
    WorldModel.from_pretrained(REPO)
    client("http://127.0.0.1:9")
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)


def test_a_hub_a_read_only_cache(published: str, cache: Path, tiny_world_model) -> None:
    WorldModel.from_pretrained(REPO)
    before = contents(cache)
    for path in cache.rglob("*"):
        if path.is_dir():
            path.chmod(0o555)
    cache.chmod(0o555)
    with unprivileged():
        assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)
    assert contents(cache) == before


def test_a_hub_a_read_only_empty_cache(published: str, cache: Path) -> None:
    cache.chmod(0o555)
    with unprivileged(), refused(REPO):
        WorldModel.from_pretrained(REPO)


def _load(endpoint: str, cache: Path, done) -> None:
    constants.ENDPOINT = endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = str(cache)
    torch.set_num_threads(1)
    WorldModel.from_pretrained(REPO)
    done.put(True)


def test_a_hub_two_processes_at_once(hub: HubServer, published: str, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    both = [context.Process(target=_load, args=(hub.endpoint, cache, done)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert done.get(timeout=5)
    assert done.get(timeout=5)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
def test_a_hub_only_pickles_present(hub: HubServer, tiny_folder: str, cache, suffix: str) -> None:
    files = contents(Path(tiny_folder))
    for name in [name for name in files if name.endswith(".safetensors")]:
        files[name.replace(".safetensors", suffix)] = files.pop(name)
    hub.commit(REPO, files)
    with refused(REPO, "safetensors", "world_model=None"):
        WorldModel.from_pretrained(REPO)
    assert not [name for name in contents(cache) if name.endswith(suffix)]


def test_a_hub_one_weights_file_missing(hub: HubServer, tiny_folder: str) -> None:
    files = contents(Path(tiny_folder))
    files["denoiser/diffusion_pytorch_model.bin"] = files.pop(DENOISER)
    hub.commit(REPO, files)
    with refused(DENOISER, "missing"):
        WorldModel.from_pretrained(REPO)


def test_a_hub_code_and_odd_names_are_neither_downloaded_nor_run(
    hub: HubServer, tiny_folder: str, cache: Path, tiny_world_model
) -> None:
    bomb = b"import pathlib; pathlib.Path('executed').touch(); raise SystemExit('executed')"
    odd = [
        "modeling.py",
        "denoiser/denoiser.py",
        "../outside.py",
        "/etc/outside",
        "denoiser/../../outside",
        "denoiser/diffusion_pytorch_model.bin",
    ]
    hub.commit(REPO, contents(Path(tiny_folder)) | dict.fromkeys(odd, bomb))
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)
    assert bomb not in contents(cache.parent).values()
    assert not [r for r in hub.requests if any(name in r for name in odd)]


def test_a_hub_a_huge_repository_is_not_downloaded(
    hub: HubServer, published: str, cache: Path
) -> None:
    hub.sizes[DENOISER] = 2**41
    with refused(REPO, "size"):
        WorldModel.from_pretrained(REPO)
    assert not [r for r in hub.requests if "resolve" in r]


def test_a_hub_an_interrupted_download_goes_on(
    hub: HubServer, published: str, tiny_world_model
) -> None:
    hub.break_after = 50_000  # of the memory's 86 kB
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)
    assert hub.break_after is None


def test_a_hub_a_download_killed_half_way(hub, published: str, cache, tiny_world_model) -> None:
    WorldModel.from_pretrained(REPO)
    (snapshot,) = cache.glob("models--*/snapshots/*")
    blob = (snapshot / DENOISER).resolve()
    blob.with_name(blob.name + ".incomplete").write_bytes(blob.read_bytes()[:1000])
    blob.unlink()
    (snapshot / DENOISER).unlink()
    with refused(REPO):
        WorldModel.from_pretrained(REPO, local_files_only=True)
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)


def test_a_hub_a_damaged_cache_is_refused(published: str, cache: Path) -> None:
    WorldModel.from_pretrained(REPO)
    (snapshot,) = cache.glob("models--*/snapshots/*")
    blob = (snapshot / DENOISER).resolve()
    data = bytearray(blob.read_bytes())
    data[-4] ^= 1
    blob.write_bytes(data)
    with refused(DENOISER, "SHA-256"):
        WorldModel.from_pretrained(REPO)


@pytest.mark.parametrize("variable", [True, False])
def test_a_slow_hub_and_the_variable_that_waits_for_it(
    hub: HubServer, published: str, tiny_folder: str, monkeypatch, variable: bool
) -> None:
    WorldModel.from_pretrained(REPO)
    newer = make_tiny_world_model(seed=1)
    with tempfile.TemporaryDirectory() as parent:
        newer.save_pretrained(Path(parent) / "newer")
        hub.commit(REPO, contents(Path(parent) / "newer"))
    monkeypatch.setattr(world4rl_gym.hub, "_SECONDS_TO_ANSWER", 0.2)
    hub.delay = 0.6
    if variable:
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "60")
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 60)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert equal(WorldModel.from_pretrained(REPO), newer)
        return
    output = f"not reached within 0.2 s .*; the cache's commit {published} .* older than main"
    with pytest.warns(UserWarning, match=output):
        assert not equal(WorldModel.from_pretrained(REPO), newer)
    with warnings.catch_warnings():  # a commit is what it is
        warnings.simplefilter("error")
        WorldModel.from_pretrained(REPO, revision=published)
        WorldModel.from_pretrained(REPO, local_files_only=True)


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_refuses_leaves_the_cache_with_a_warning(
    hub: HubServer, published: str, status: int, tiny_world_model
) -> None:
    WorldModel.from_pretrained(REPO)
    hub.refuse_with = status
    with pytest.warns(UserWarning, match=f"the Hub refused .*{published}"):
        assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)


def test_a_hub_that_never_answers_is_waited_for_5_seconds_at_most(client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        script = (
            "import time\n"
            "from world4rl_gym import WorldModel\n"
            "begun = time.monotonic()\n"
            "try: WorldModel.from_pretrained('a/b')\n"
            "except ValueError as error: print(time.monotonic() - begun, error)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "HF_ENDPOINT": constants.ENDPOINT, "HF_TOKEN": ""},
            capture_output=True,
            text=True,
            cwd=Path(world4rl_gym.__file__).parents[1],
        )
    seconds, message = ran.stdout.split(maxsplit=1)
    assert float(seconds) < 5, ran.stdout
    assert "the Hub was not reached within 4 s" in message and "the cache lacks it" in message


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_is_told_how_to_log_in(
    hub: HubServer, tiny_world_model, status: int
) -> None:
    hub.refuse_with = status
    with refused(REPO, "hf auth login", "HF_TOKEN", "world_model=None"):
        WorldModel.from_pretrained(REPO)
    with refused(REPO, "was not uploaded", "hf auth login"):
        tiny_world_model.push_to_hub(REPO)
    hub.refuse_with = 404
    with pytest.raises(WorldModelError) as caught:
        WorldModel.from_pretrained(REPO)
    assert "log in" not in str(caught.value)


# ---------------------------------------------------------------------------------------- upload


def test_push_to_hub_and_back(hub: HubServer, tiny_world_model) -> None:
    commit = tiny_world_model.push_to_hub(REPO, card="---\nlicense: mit\n---\n# Tiny\n")
    assert set(hub.files(REPO) or {}) == set(ALL_FILES) - {"rollout.gif"}
    assert equal(WorldModel.from_pretrained(REPO, revision=commit), tiny_world_model)
    other = make_tiny_world_model(seed=1)
    second = other.push_to_hub(REPO, revision="next")
    assert equal(WorldModel.from_pretrained(REPO, revision="next"), other)
    assert equal(WorldModel.from_pretrained(REPO, revision=second), other)
    assert equal(WorldModel.from_pretrained(REPO), tiny_world_model)


def test_push_to_hub_tells_why_not(hub: HubServer, tiny_world_model, client) -> None:
    hub.refuse_objects_after = 0
    with pytest.raises(WorldModelError, match=f"{REPO}: was not uploaded .*goes on"):
        tiny_world_model.push_to_hub(REPO)
    with pytest.raises(WorldModelError, match="repo_id"):
        tiny_world_model.push_to_hub("not an id")
    client("http://127.0.0.1:9")
    with pytest.raises(WorldModelError, match="was not uploaded"):
        tiny_world_model.push_to_hub(REPO)


def test_a_policy_travels_too(hub: HubServer) -> None:
    policy = make_policy(PolicyConfig("push", "pixels", 3, frame_size=16, width=8))
    commit = policy.push_to_hub("someone/their-policy")
    loaded = Policy.from_pretrained("someone/their-policy", revision=commit)
    state = loaded.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in policy.state_dict().items())
    assert loaded.name == "someone/their-policy"
    with pytest.raises(WorldModelError):
        Policy.from_pretrained("someone/no-policy")
    with pytest.raises(WorldModelError, match="safetensors"):
        WorldModel.from_pretrained("someone/their-policy")


# ------------------------------------------------------------------------------ pretrained models


def test_the_embedded_default_is_listed_first() -> None:
    assert world4rl_gym.list_pretrained()[0] == "embedded"
    assert pretrained.MODELS[0].repo_id is None


def test_a_listed_name_loads_what_it_was_listed_as(
    hub: HubServer, published: str, tiny_folder: str, tiny_world_model, monkeypatch
) -> None:
    index = hashlib.sha256((Path(tiny_folder) / INDEX).read_bytes()).hexdigest()
    listed = PretrainedModel("tiny", "for tests", REPO, published, index)
    altered = PretrainedModel("altered", "for tests", REPO, published, "0" * 64)
    monkeypatch.setattr(pretrained, "MODELS", (*pretrained.MODELS, listed, altered))
    assert world4rl_gym.list_pretrained() == ["embedded", "tiny", "altered"]
    hub.commit(REPO, contents(Path(tiny_folder)) | {INDEX: b"{}"})  # later commits do not matter
    assert equal(WorldModel.from_pretrained("tiny"), tiny_world_model)
    with refused("altered", "SHA-256"):
        WorldModel.from_pretrained("altered")
    with refused("revision"):
        WorldModel.from_pretrained("tiny", revision="main")
    with refused("embedded, tiny, altered", "world_model=None"):
        WorldModel.from_pretrained("large")


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "a", "repo_id": REPO},
        {"name": "a", "repo_id": REPO, "revision": "main", "index_sha256": "0" * 64},
        {"name": "a", "repo_id": REPO, "revision": "0" * 40, "index_sha256": "g" * 64},
    ],
)
def test_an_entry_of_the_list_is_checked(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        PretrainedModel(description="", **fields)


def test_listing_imports_no_torch() -> None:
    script = "import sys, world4rl_gym as w; print(w.list_pretrained(), 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout.strip().endswith("False"), ran.stderr
    assert set(PART_FILES) < set(ALL_FILES)


def test_a_local_folder_comes_before_a_name(tiny_folder: str, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(tiny_folder, tmp_path / "embedded")
    monkeypatch.chdir(tmp_path)
    assert WorldModel.from_pretrained("embedded").config.tasks == ("push", "pull")


@pytest.mark.parametrize("source", [None, "embedded", "folder", "model"])
def test_a_revision_of_what_is_not_on_the_hub_is_refused(
    source: str | None, tiny_folder: str, tiny_world_model: WorldModel
) -> None:
    given = {"folder": tiny_folder, "model": tiny_world_model}.get(str(source), source)
    with pytest.raises(ValueError, match="revision: only a Hub id has one"):
        world4rl_gym.ImaginedEnv(given, revision="main")

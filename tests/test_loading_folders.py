"""List A, folders: links, permissions, files for folders, and saving whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_world_model
from tampering import DENOISER, INDEX, files_limited_to, load_refused, refused

import world4rl_gym
from world4rl_gym.components import save_component
from world4rl_gym.model_index import PART_FILES
from world4rl_gym.world_model import WorldModel, WorldModelError
from world4rl_gym.writing import replaced_folder, write_whole


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", [INDEX, *PART_FILES])
def test_a_links_that_leave_the_folder(model_folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (model_folder / name).rename(outside)
    (model_folder / name).symlink_to(outside)
    load_refused(model_folder, name, "leaves the folder")


def test_a_a_linked_subfolder_that_leaves_the_folder(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "denoiser").rename(tmp_path / "outside")
    (model_folder / "denoiser").symlink_to("../outside")
    load_refused(model_folder, "denoiser", "leaves the folder")


def test_a_links_in_a_circle(model_folder: Path) -> None:
    (model_folder / DENOISER).unlink()
    (model_folder / DENOISER).symlink_to(model_folder / DENOISER)
    load_refused(model_folder, DENOISER)


def test_a_links_that_stay_within_are_followed(model_folder: Path) -> None:
    (model_folder / DENOISER).rename(model_folder / "weights")
    (model_folder / DENOISER).symlink_to("../weights")
    WorldModel.from_pretrained(model_folder)


def test_a_links_of_a_snapshot_lead_to_blobs_alone(model_folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--someone--theirs" / "snapshots" / "0"
    shutil.copytree(model_folder, snapshot)
    for home in (snapshot.parent.parent / "blobs", tmp_path / "blobs", tmp_path / "elsewhere"):
        home.mkdir()
        shutil.copyfile(model_folder / DENOISER, home / "weights")
        (snapshot / DENOISER).unlink()
        (snapshot / DENOISER).symlink_to(home / "weights")
        if home.name == "blobs":
            WorldModel.from_pretrained(snapshot)
        else:
            load_refused(snapshot, DENOISER, "leaves the folder")


# ---------------------------------------------------------------------------- files and folders


@pytest.mark.parametrize("name", [INDEX, *PART_FILES])
def test_a_a_folder_where_a_file_is_expected(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    (model_folder / name).mkdir()
    load_refused(model_folder, name, "found a folder")


@pytest.mark.parametrize("name", ["eyes", "memory", "denoiser", "scheduler", "initial_frames"])
def test_a_a_file_where_a_folder_is_expected(model_folder: Path, name: str) -> None:
    shutil.rmtree(model_folder / name)
    (model_folder / name).write_text("a file")
    load_refused(model_folder, name)


def test_a_a_file_given_as_the_folder(model_folder: Path) -> None:
    load_refused(model_folder / INDEX, INDEX, "found a file")


@pytest.mark.parametrize("name", [INDEX, DENOISER])
def test_a_a_pipe_is_never_waited_for(model_folder: Path, name: str) -> None:
    (model_folder / name).unlink()
    os.mkfifo(model_folder / name)
    load_refused(model_folder, name, "expected a file")


@pytest.mark.parametrize(
    "source", ["", "missing", "./missing", "/missing/model", "a" * 5000, "a\0b", "../..x", 7, b"x"]
)
def test_a_what_is_neither_a_folder_nor_an_id(source, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with refused():
        WorldModel.from_pretrained(source)


def test_a_an_empty_folder(tmp_path: Path) -> None:
    load_refused(tmp_path, INDEX, "missing")


def test_a_the_embedded_default_is_what_none_loads() -> None:
    from world4rl_gym.hub import EMBEDDED

    if not EMBEDDED.exists():
        pytest.skip("the package is built without its embedded world model")
    assert len(WorldModel.from_pretrained().config.tasks) >= 1


# ------------------------------------------------------------------------------------- permission


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Takes root's powers away for a while, for root may read and write everything."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def shared_folder(tiny_folder: str) -> Iterator[Path]:
    """A copy that other users can reach too, which pytest's own folders are not."""
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        yield Path(shutil.copytree(tiny_folder, Path(parent) / "model"))
        for path in (Path(parent), *Path(parent).rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("name", [".", "..", INDEX, "denoiser", DENOISER, "initial_frames"])
def test_a_no_permission_to_read(shared_folder: Path, name: str) -> None:
    WorldModel.from_pretrained(shared_folder)
    (shared_folder / name).chmod(0)
    with unprivileged():
        load_refused(shared_folder, shared_folder, name.strip("."), "ermission")


def test_a_saved_files_can_be_read_by_others(shared_folder: Path) -> None:
    make_tiny_world_model().save_pretrained(shared_folder)
    for path in (shared_folder, *shared_folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o444 == 0o444, f"{path} has mode {mode:o}"
    with unprivileged():
        WorldModel.from_pretrained(shared_folder)


@pytest.mark.parametrize("mode", [0o555, 0])
def test_a_no_permission_to_save(shared_folder: Path, tiny_world_model, mode: int) -> None:
    before = contents(shared_folder)
    shared_folder.parent.chmod(mode)
    with unprivileged(), refused(shared_folder, "ermission"):
        tiny_world_model.save_pretrained(shared_folder)
    shared_folder.parent.chmod(0o755)
    assert contents(shared_folder) == before


# -------------------------------------------------------------------------------- whole or not


@pytest.mark.parametrize("size", [0, 100, 3000, 60_000])
def test_a_disk_full_on_save_keeps_the_old_folder_whole(
    model_folder: Path, tiny_world_model, size: int
) -> None:
    before = contents(model_folder)
    with (
        pytest.raises(WorldModelError, match=f"{model_folder}.* cannot be written"),
        files_limited_to(size),
    ):
        tiny_world_model.save_pretrained(model_folder)
    assert contents(model_folder) == before
    assert [p.name for p in model_folder.parent.iterdir()] == [model_folder.name]


def test_a_a_really_full_disk(model_folder: Path, tiny_world_model, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a tiny disk; RLIMIT_FSIZE is tested instead")
    try:
        tiny_world_model.save_pretrained(disk / "model")
        before = contents(disk / "model")
        with refused(disk / "model", "cannot be written"):
            tiny_world_model.save_pretrained(disk / "model")
        assert contents(disk / "model") == before
        assert [p.name for p in disk.iterdir()] == ["model"]
        WorldModel.from_pretrained(disk / "model")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_save_killed_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    versions = [{f"{n}.bin": bytes([v]) * 200_000 for n in range(3)} for v in range(2)]
    for name, data in versions[0].items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    for round_ in range(15):
        child = os.fork()
        if child == 0:
            while True:
                for files in versions:
                    with replaced_folder(folder, files) as fresh:
                        for name, data in files.items():
                            (fresh / name).write_bytes(data)
        time.sleep(0.004 * round_)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert contents(folder) in versions


def test_a_saving_where_a_file_is(tiny_world_model, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with refused("model", "found a file"):
        tiny_world_model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"
    with refused("model"):
        tiny_world_model.save_pretrained(tmp_path / "model" / "below")


def test_saving_never_replaces_a_folder_of_something_else(
    tiny_world_model, model_folder: Path
) -> None:
    (model_folder / "thesis.tex").write_text("years of work")
    with refused("thesis.tex"):
        tiny_world_model.save_pretrained(model_folder)
    assert (model_folder / "thesis.tex").exists()
    with refused("is not replaced"):
        save_component(tiny_world_model.denoiser, model_folder)


def test_saving_through_a_link_replaces_what_it_points_to(
    tiny_world_model, model_folder: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(model_folder)
    make_tiny_world_model(seed=1).save_pretrained(link)
    assert link.is_symlink()
    old = WorldModel.from_pretrained(model_folder).denoiser.state_dict()
    new = make_tiny_world_model(seed=1).denoiser.state_dict()
    assert all((old[key] == new[key]).all() for key in new)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "model"]


def test_weights_that_do_not_fit_are_not_saved(model_folder: Path) -> None:
    model = make_tiny_world_model()
    before = contents(model_folder)
    model.denoiser.head.bias.data[0] = float("nan")
    with pytest.raises(WorldModelError, match="head.bias"):
        model.save_pretrained(model_folder)
    assert contents(model_folder) == before
    model.denoiser.head.bias.data[0] = float("inf")
    with pytest.raises(WorldModelError, match="head.bias"):
        save_component(model.denoiser, model_folder / "denoiser")
    assert contents(model_folder) == before


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        world_model = make_tiny_world_model()
        world_model.save_pretrained(tmp_path / "model")
        loaded = WorldModel.from_pretrained(tmp_path / "model")
    finally:
        torch.set_default_dtype(torch.float32)
    before = contents(tmp_path / "model")
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, world_model.state_dict()[key])
    (memory,) = list(world_model.memory.of_task)[:1]
    memory.state_step = memory.state_step.double() / 3
    with refused("state_step", "float32", "float64"):
        world_model.save_pretrained(tmp_path / "model")
    world_model = make_tiny_world_model()
    frames = world_model.initial_frames
    world_model.initial_frames = dataclasses.replace(frames, task_ids=frames.task_ids.int())
    with refused(str(tmp_path / "model" / "initial_frames"), "task_ids", "I32"):
        world_model.save_pretrained(tmp_path / "model")
    assert contents(tmp_path / "model") == before


# -------------------------------------------------------------------------- other file systems


def test_the_embedded_model_may_be_links(tmp_path: Path) -> None:
    package = Path(world4rl_gym.__file__).parent
    shutil.copytree(package, tmp_path / "world4rl_gym", copy_function=os.symlink)
    script = (
        "import gymnasium, world4rl_gym; print(world4rl_gym.__file__); "
        "gymnasium.make(world4rl_gym.ENV_ID).reset(); world4rl_gym.WorldModel.from_pretrained()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path))


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EINVAL])
def test_a_folder_that_cannot_be_renamed_is_replaced(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on an overlay, which renames no folder of a lower layer, and exchanges none."""
    (model_folder / "README.md").write_bytes(b"of the lower layer")
    lower = model_folder.stat().st_ino
    rename = os.rename

    def renames_no_lower_folder(source: Path, target: Path) -> None:
        if os.stat(source).st_ino == lower:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    def exchanges_nothing(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    library = types.SimpleNamespace(renameat2=exchanges_nothing)
    monkeypatch.setattr(os, "rename", renames_no_lower_folder)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)
    make_tiny_world_model(seed=1).save_pretrained(model_folder)
    assert not (model_folder / "README.md").exists()
    WorldModel.from_pretrained(model_folder)
    before = contents(model_folder)
    lower = model_folder.stat().st_ino

    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copytree", no_space)
    with refused(model_folder, "No space"):
        make_tiny_world_model(seed=2).save_pretrained(model_folder)
    assert contents(tmp_path) == {f"model/{name}": data for name, data in before.items()}


OVERLAY = """
import sys
from pathlib import Path
from world4rl_gym import WorldModel

model = WorldModel.from_pretrained("merged/model")
model.save_pretrained("merged/model", "# anew")
WorldModel.from_pretrained("merged/model")
print(sorted(p.name for p in Path("merged").iterdir()), Path("merged/model/README.md").read_text())
"""


def test_a_folder_of_an_overlays_lower_layer(tiny_folder: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "lower" / "model")
    mount = (
        "mkdir work merged && mount -t tmpfs none work && mkdir work/upper work/work && "
        "mount -t overlay overlay -o "
        "lowerdir=lower,upperdir=work/upper,workdir=work/work,redirect_dir=off merged"
    )
    inside = ["unshare", "--mount", "sh", "-c"]
    try:
        tried = subprocess.run([*inside, mount], cwd=tmp_path, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no overlay can be mounted here ({error})")
    if tried.returncode:
        pytest.skip(f"no overlay can be mounted here ({tried.stderr.strip()})")
    (tmp_path / "script.py").write_text(OVERLAY)
    command = f"rm -r work merged; {mount} && {sys.executable} script.py"
    path = str(Path(world4rl_gym.__file__).parents[1])
    ran = subprocess.run(
        [*inside, command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert ran.stdout.strip() == "['model'] # anew", ran.stderr


def test_saving_as_on_windows(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No library of the process, no folder opened, and only what may be written to is flushed."""
    opened, fsync, library, writing = os.open, os.fsync, ctypes.CDLL, set()

    def opens_no_folder(path: Path, flags: int, *rest: int, **more: int) -> int:
        if os.path.isdir(path) and "dir_fd" not in more:  # which `shutil.rmtree` gives
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        handle = opened(path, flags, *rest, **more)
        (writing.add if flags & (os.O_RDWR | os.O_WRONLY) else writing.discard)(handle)
        return handle

    def flushes_what_is_written(handle: int) -> None:
        if handle not in writing:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        fsync(handle)

    def named_libraries(name: str | None, *rest: object, **more: object) -> ctypes.CDLL:
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        return library(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opens_no_folder)
    monkeypatch.setattr(os, "fsync", flushes_what_is_written)
    monkeypatch.setattr(ctypes, "CDLL", named_libraries)
    world_model = make_tiny_world_model(seed=1)
    for _ in range(2):
        world_model.save_pretrained(model_folder)
    write_whole(tmp_path / "record.json", b"{}")
    assert WorldModel.from_pretrained(model_folder).config == world_model.config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "record.json"]


def test_locks_as_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pytest.importorskip("fcntl")

    def locking(handle: int, mode: int, size: int) -> None:
        try:
            real.flock(handle, real.LOCK_EX | real.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None

    windows = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # its import fails
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spec = importlib.util.find_spec("training.runs.locks")
    assert spec is not None and spec.loader is not None
    locks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(locks)
    with locks.locked(tmp_path / "run"), locks.locked(tmp_path / "other"):
        for _ in range(2):
            with pytest.raises(locks.InUseError, match="another process"):
                locks.locked(tmp_path / "run" / ".." / "run").__enter__()
    with locks.locked(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_card_with_a_dash_in_any_locale(tiny_folder: str, tmp_path: Path, locale: str) -> None:
    script = (
        "import sys; from world4rl_gym import WorldModel; "
        "WorldModel.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2], 'a \\u2013 card')"
    )
    ran = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", script, tiny_folder, str(tmp_path / "model")],
        env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"},
        cwd=Path(world4rl_gym.__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "model" / "README.md").read_text("utf-8") == "a \u2013 card"

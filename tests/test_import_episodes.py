"""Episodes out of other formats: what arrives, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from recorded_data import (
    LEROBOT,
    imported,
    write_folder,
    write_lerobot_v2,
    write_minari,
    write_robomimic,
)

from training.data.importers.conversion import kept_frames, split_of, squared
from training.data.importers.recording import Recording, Source, SourceError, side_by_side
from training.runs.settings import SettingsError
from world4rl_gym.episodes import SPLITS, Episode, EpisodeError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari.*")
ROBOSUITE = Path(__file__).parent / "fixtures" / "robosuite_door.hdf5"
"""From robosuite 1.0.1's wheel (MIT licence): a Panda opens a door, recorded from a person."""
FRONT = {"camera": ("observation.images.front",)}


def in_units(episode: Episode) -> np.ndarray:
    """Actions in the robot's own units."""
    assert episode.action_low is not None and episode.action_high is not None
    span = episode.action_high - episode.action_low
    return episode.action_low + (episode.actions + 1) / 2 * span


def mean_error(frames: np.ndarray, others: np.ndarray) -> float:
    return float(np.abs(frames.astype(int) - others).mean())


def test_lerobot_v3_arrives_whole(tmp_path: Path, capsys) -> None:
    found, record = imported(LEROBOT, "lerobot", tmp_path, size=64, **FRONT)
    rows = {key: [] for key in ("episode_index", "action", "observation.state", "next.success")}
    for path in sorted((LEROBOT / "data").glob("**/*.parquet")):
        table = pq.read_table(path, columns=list(rows)).to_pydict()
        for key, values in table.items():
            rows[key] += values
    assert sorted(found) == list(range(20))
    for index, episode in found.items():
        own = np.flatnonzero(np.array(rows["episode_index"]) == index)
        state = np.array(rows["observation.state"])[own]
        action = np.array(rows["action"])[own]
        assert episode.state is not None and episode.command is not None
        np.testing.assert_allclose(episode.state, state, atol=1e-4)
        np.testing.assert_allclose(in_units(episode), action[:-1], atol=1e-3)
        np.testing.assert_allclose(episode.command[1:], action[:-1], atol=1e-4)
        assert episode.solved == bool(np.array(rows["next.success"])[own].any())
        assert episode.frames.shape == (len(own), 64, 64, 3)
        assert not episode.frames[:, :8].any() and not episode.frames[:, -8:].any()
        # the arm is drawn where its state says: the right frames, from the right place of the file
        for t, (x, y, _) in enumerate(state):
            column, row = max(round(x * 0.6) - 2, 0), round(y * 0.4) + 2 + 8
            assert episode.frames[t, row, column].astype(int)[2] > 170, (index, t)
    assert record["splits"]["train"]["episodes"] == 14
    assert "frames of 64 x 48 were padded to a square: episode 0" in capsys.readouterr().out


def test_lerobot_v2_arrives_and_success_told_of_the_frame_after_is_not_lost(tmp_path: Path) -> None:
    made = write_lerobot_v2(tmp_path / "v2")
    found, record = imported(tmp_path / "v2", "lerobot", tmp_path / "out")
    for index, episode in enumerate(made):
        assert found[index].solved == episode.solved
        np.testing.assert_allclose(
            in_units(found[index]), np.cumsum(episode.actions, axis=0)[:-1], atol=1e-4
        )
        assert mean_error(found[index].frames, episode.frames[:-1]) < 12  # a lossy codec's
    assert all(len(names) <= 6 for names in record["changed"].values())


def test_lerobot_pictures_in_tables_arrive_without_loss(tmp_path: Path) -> None:
    made = write_lerobot_v2(tmp_path / "v2", pictures=True)
    found, _ = imported(tmp_path / "v2", "lerobot", tmp_path / "out")
    for index, episode in enumerate(made):
        assert np.array_equal(found[index].frames, episode.frames[:-1])


def test_one_task_of_several_is_read(tmp_path: Path) -> None:
    write_lerobot_v2(tmp_path / "v2", tasks=("push", "pull"))
    with pytest.raises(SourceError, match="only: expected one task's text .* of pull; push; got"):
        imported(tmp_path / "v2", "lerobot", tmp_path / "none")
    _, record = imported(tmp_path / "v2", "lerobot", tmp_path / "out", only="pull")
    assert sum(own["episodes"] for own in record["splits"].values()) == 3


def test_two_cameras_stand_side_by_side(tmp_path: Path) -> None:
    cameras = ("observation.images.front", "observation.images.wrist")
    alone = [
        imported(LEROBOT, "lerobot", tmp_path / key, size=64, fit="resize", camera=(key,))[0]
        for key in cameras
    ]
    both, record = imported(
        LEROBOT, "lerobot", tmp_path / "both", size=64, fit="resize", camera=cameras
    )
    assert record["dropped"] == {} and len(both) == len(alone[0])
    for index, episode in both.items():
        for side, own in enumerate(alone):
            half = episode.frames[:, :, 32 * side : 32 * (side + 1)]
            squeezed = own[index].frames.reshape(*own[index].frames.shape[:2], 32, 2, 3).mean(3)
            other = alone[1 - side][index].frames.reshape(*squeezed.shape[:3], 2, 3).mean(3)
            assert mean_error(half, squeezed) < 12 < mean_error(half, other)


def test_an_episode_that_one_camera_lacks_is_named(tmp_path: Path) -> None:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    made = [
        Recording(name, tmp_path, 3, lambda: frames, np.zeros((2, 1)), None, None, None)
        for name in ("episode 0", "episode 1")
    ]
    wide = dataclasses.replace(made[0], frames=lambda: np.ones((3, 16, 32, 3), np.uint8))
    joined = side_by_side([Source(made, [], "positions"), Source([wide], [], "positions")])
    assert [one.name for one in joined.recordings] == ["episode 0"]
    (lost,) = joined.bad
    assert lost == f"{tmp_path}: episode 1: not seen by every camera"
    alone = Source([], ["a file is missing", "a file is missing"], "positions")
    assert side_by_side([alone]) == alone  # two episodes of one file
    (first, *rest) = joined.recordings[0].frames()
    assert first.shape == (8, 24, 3) and len(rest) == 2  # the second camera's 32 x 16 as high
    assert first[:, :8].max() == 0 and first[:, 8:].min() == 1


def test_robomimic_arrives_without_loss(tmp_path: Path) -> None:
    made = write_robomimic(tmp_path / "toy.hdf5")
    found, record = imported(tmp_path / "toy.hdf5", "robomimic", tmp_path / "out")
    for index, episode in enumerate(made):
        assert np.array_equal(found[index].frames, episode.frames)
        assert np.array_equal(found[index].success, episode.success)
        np.testing.assert_allclose(found[index].actions, episode.actions, atol=1e-6)
    assert record["action_low"] == [-1, -1, -1] and record["changed"] == {}


def test_a_real_demonstration_of_robosuite_arrives_once_it_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="demo_1: holds the simulator's states and no pictures"):
        imported(ROBOSUITE, "robomimic", tmp_path / "out")
    path = tmp_path / "door.hdf5"
    shutil.copy(ROBOSUITE, path)
    with h5py.File(path, "a") as file:
        demo = file["data/demo_1"]
        actions, states = demo["actions"][()], demo["states"][()]
        drawn = np.arange(len(actions) * 3 * 256).reshape(-1, 16, 16, 3) % 251
        demo["obs/agentview_image"], demo["obs/joints"] = drawn.astype(np.uint8), states[:, 1:8]
        demo["rewards"] = (np.arange(len(actions)) > 250).astype(float)
    options: dict[str, Any] = {"keep_every": 5, "state": ("joints",), "test": 0, "validation": 0}
    (episode,) = imported(path, "robomimic", tmp_path / "out", **options)[0].values()
    assert len(actions) == 261 and episode.actions.shape == (52, 7) and episode.solved
    summed = [actions[5 * t : 5 * t + 5, :6].sum(axis=0) for t in range(52)]
    np.testing.assert_allclose(in_units(episode)[:, :6], summed, atol=1e-5)
    np.testing.assert_allclose(in_units(episode)[:, 6], actions[4:260:5, 6], atol=1e-5)
    np.testing.assert_allclose(episode.state, states[::5, 1:8], rtol=1e-5)


def test_minari_arrives_without_loss(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    made = write_minari("toy/push-v0")
    for number, source in enumerate(("toy/push-v0", tmp_path / "toy" / "push-v0")):
        out = tmp_path / f"out-{number}"
        options = {"camera": ("pixels",), "state": ("state",)}
        found, _ = imported(Path(source), "minari", out, **options)
        for index, episode in enumerate(made):
            assert np.array_equal(found[index].frames, episode.frames)
            assert np.array_equal(found[index].success, episode.success)
            np.testing.assert_allclose(found[index].actions, episode.actions, atol=1e-6)


@pytest.mark.parametrize("pictures", [False, True])
def test_a_folder_arrives(tmp_path: Path, pictures: bool) -> None:
    made = write_folder(tmp_path / "clips", pictures=pictures)
    found, _ = imported(tmp_path / "clips", "folder", tmp_path / "out")
    for index, episode in enumerate(made):
        assert np.array_equal(found[index].success, episode.success)
        np.testing.assert_allclose(in_units(found[index]), episode.actions, atol=1e-5)
        apart = mean_error(found[index].frames, episode.frames)
        assert apart == 0 if pictures else apart < 12


def test_thinning_sums_displacements_and_keeps_the_last_of_positions(tmp_path: Path) -> None:
    (episode, *_) = write_robomimic(tmp_path / "toy.hdf5")
    found, record = imported(
        tmp_path / "toy.hdf5", "robomimic", tmp_path / "out", keep_every=3, held=(2,)
    )
    assert kept_frames(9, 3).tolist() == [0, 3, 6, 8]
    actions, output = episode.actions, in_units(found[0])
    for decision, (first, last) in enumerate([(0, 3), (3, 6), (6, 8)]):
        np.testing.assert_allclose(
            output[decision, :2], actions[first:last, :2].sum(axis=0), atol=1e-5
        )
        assert output[decision, 2] == pytest.approx(actions[last - 1, 2], abs=1e-5)
    assert found[0].action_repeat == 3
    assert np.array_equal(found[0].frames, episode.frames[[0, 3, 6, 8]])
    assert record["action_high"] == [3, 3, 1]
    assert len(record["changed"]["the last decision spans fewer than 3 rows"]) == 6


def test_every_final_frame_counts_but_those_of_failures(tmp_path: Path) -> None:
    found, _ = imported(
        LEROBOT, "lerobot", tmp_path, **FRONT, success="final", failures=("3", "episode 4")
    )
    assert [i for i, e in sorted(found.items()) if not e.solved] == [3, 4]
    assert found[0].success.tolist() == [False] * (len(found[0]) - 1) + [True]
    assert {found[3].behaviour, found[0].behaviour} == {"policy", "expert"}


def test_what_is_dropped_is_named(tmp_path: Path, capsys) -> None:
    write_lerobot_v2(tmp_path / "v2")
    clip = tmp_path / "v2/videos/chunk-000/observation.image/episode_000002.mp4"
    clip.write_bytes(clip.read_bytes()[:900])
    with pytest.raises(SourceError, match="episode_000002.mp4"):
        imported(tmp_path / "v2", "lerobot", tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
    _, record = imported(tmp_path / "v2", "lerobot", tmp_path / "out", skip_bad=True)
    assert len(record["dropped"]["not readable"]) == 1
    assert "dropped 1: not readable: episode 2" in capsys.readouterr().out
    _, record = imported(
        LEROBOT, "lerobot", tmp_path / "long", **FRONT, keep_every=12, success="final"
    )
    assert "shorter than two decisions" in record["dropped"]


def test_splits_share_out_successes_and_failures() -> None:
    solved = [i % 4 > 0 for i in range(40)]
    splits = split_of(solved, 0.2, 0.2, seed=1)
    assert splits == split_of(solved, 0.2, 0.2, seed=1) != split_of(solved, 0.2, 0.2, seed=2)
    for split, expected in (("train", (18, 6)), ("validation", (6, 2)), ("test", (6, 2))):
        own = [one for one, name in zip(solved, splits, strict=True) if name == split]
        assert (sum(own), len(own) - sum(own)) == expected
    assert set(split_of([True] * 3, 0.1, 0.1, 0)) == set(SPLITS)


def test_frames_become_square() -> None:
    frame = np.full((48, 96, 3), 200, np.uint8)
    padded = squared(frame, 32, "pad")
    assert padded.shape == (32, 32, 3)
    assert not padded[:8].any() and not padded[24:].any() and (padded[8:24] == 200).all()
    for fit in ("crop", "resize"):
        assert (squared(frame, 32, fit) == 200).all()
    left = frame.copy()
    left[:, :24] = 0
    assert (squared(left, 32, "crop") == 200).all() and not squared(left, 32, "resize")[:, :7].any()


@pytest.mark.parametrize("size", [1, 32])
def test_actions_of_1_to_32_components(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "wide.hdf5", "w") as file:
        for index in range(2):
            file[f"data/demo_{index}/actions"] = rng.normal(0, 50, (5, size))
            file[f"data/demo_{index}/obs/camera"] = np.zeros((5, 16, 16, 3), np.uint8)
    found, record = imported(
        tmp_path / "wide.hdf5", "robomimic", tmp_path / "out", success="final", test=0.0
    )
    assert found[0].actions.shape == (4, size) and found[0].state is None
    every = np.concatenate([one.actions for one in found.values()])
    np.testing.assert_allclose(every.min(axis=0), -1, atol=1e-6)
    np.testing.assert_allclose(every.max(axis=0), 1, atol=1e-6)
    assert len(record["action_low"]) == size
    given = {"action_low": (-10.0,), "action_high": (10.0,), "success": "final"}
    found, record = imported(tmp_path / "wide.hdf5", "robomimic", tmp_path / "given", **given)
    assert record["action_low"] == [-10.0] * size
    assert record["changed"]["actions beyond the bounds were clipped"]


def edit_info(folder: Path, **changes: Any) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without(column: str, pattern: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for path in sorted(folder.glob(pattern)):
            pq.write_table(pq.read_table(path).drop_columns([column]), path)

    return damage


def shorter(folder: Path) -> None:
    path = next(folder.glob("data/chunk-000/file-000.parquet"))
    pq.write_table(pq.read_table(path).slice(0, 100), path)


def cut(pattern: str, share: float = 0.5) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = next(folder.glob(pattern))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damage


VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
BAD_LEROBOT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "newer": (lambda f: edit_info(f, codebase_version="v4.0"), "codebase_version: .*got 'v4.0'"),
    "no info": (lambda f: (f / "meta/info.json").unlink(), "info.json: is missing"),
    "bad json": (lambda f: (f / "meta/info.json").write_text("{"), "info.json: not readable JSON"),
    "no action": (lambda f: edit_info(f, features={}), "features: expected an 'action'"),
    "no column": (without("observation.state", "data/**/*.parquet"), "'observation.state' is miss"),
    "no length": (without("length", "meta/episodes/**/*.parquet"), "column 'length' is missing"),
    "no time": (
        without("videos/observation.images.front/from_timestamp", "meta/episodes/**/*.parquet"),
        "front/from_timestamp' is missing",
    ),
    "no tasks": (lambda f: (f / "meta/tasks.parquet").unlink(), "tasks.parquet: is missing"),
    "lengths": (shorter, r"episode \d+: expected \d+ rows, as meta/ says, got \d+"),
    "cut parquet": (cut("data/chunk-000/file-000.parquet"), "file-000.parquet: not a readable par"),
    "cut video": (cut(VIDEO), "file-000.mp4: (not a readable video|expected)"),
    "no video": (lambda f: (f / VIDEO).unlink(), "file-000.mp4: is missing"),
    "other rate": (lambda f: edit_info(f, fps=25), "frame 1: expected at"),
}


@pytest.mark.parametrize("case", BAD_LEROBOT)
def test_bad_lerobot_data_are_named(tmp_path: Path, case: str) -> None:
    damage, message = BAD_LEROBOT[case]
    folder = Path(shutil.copytree(LEROBOT, tmp_path / "bad"))
    damage(folder)
    with pytest.raises(SourceError, match=message):
        imported(folder, "lerobot", tmp_path / "out", **FRONT)
    assert not list(tmp_path.glob("out/*"))


def test_choices_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for options, error, message in (
        ({}, SourceError, "camera: expected one of observation.images.front, observation.images.w"),
        ({**FRONT, "success": "column:done"}, SourceError, "column:KEY with one of action, "),
        ({**FRONT, "state": ("arm",)}, SourceError, "expected 'arm'"),
        ({**FRONT, "only": "Fold"}, SourceError, "Push the block to the edge; got 'Fold'"),
        ({**FRONT, "action_low": (0.0, 1.0), "action_high": (2.0,)}, SettingsError, "1 or 3 numb"),
        ({**FRONT, "size": 36}, EpisodeError, "multiple of 8"),
        ({**FRONT, "held": (3,), "actions": "displacements"}, SettingsError, "held: expected ind"),
    ):
        with pytest.raises(error, match=message):
            imported(LEROBOT, "lerobot", tmp_path / "out", **options)
    imported(LEROBOT, "lerobot", tmp_path / "out", **FRONT, command="none")
    with pytest.raises(SettingsError, match="holds episodes already"):
        imported(LEROBOT, "lerobot", tmp_path / "out", **FRONT)


def test_bad_robomimic_files_are_named(tmp_path: Path) -> None:
    def broken(change: Callable[[Any], Any]) -> Path:
        path = tmp_path / "bad.hdf5"
        write_robomimic(path)
        with h5py.File(path, "a") as file:
            change(file["data"])
        return path

    for change, message in (
        (lambda d: d["demo_2"].pop("actions"), "demo_2: 'actions' is missing"),
        (lambda d: d["demo_1"]["obs"].pop("robot0_eef_pos"), "demo_1: obs/robot0_eef_pos is miss"),
        (lambda d: d["demo_0"].pop("obs"), "demo_0: expected 'actions' and 'obs'"),
        (_shorten, "demo_3: obs/agentview_image: expected 8 frames for 8 actions, got 5"),
        (lambda d: [d.pop(k) for k in list(d)], "data: expected a group of demonstrations"),
    ):
        with pytest.raises(SourceError, match=message):
            imported(broken(change), "robomimic", tmp_path / "out")
    path = tmp_path / "whole.hdf5"
    write_robomimic(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="whole.hdf5: not a readable HDF5 file, or cut short"):
        imported(path, "robomimic", tmp_path / "out")
    with pytest.raises(SourceError, match="robomimic's actions are displacements"):
        imported(broken(lambda d: None), "robomimic", tmp_path / "out", command="action")


def _shorten(data: Any) -> None:
    frames = data["demo_3/obs/agentview_image"][:5]
    del data["demo_3/obs/agentview_image"]
    data["demo_3/obs/agentview_image"] = frames


def test_bad_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    for damage, message in (
        (lambda: (folder / "clip-1.mp4").unlink(), "clip-1: expected a folder of pictures or a"),
        (lambda: cut("clip-0.mp4")(folder), "clip-0.mp4: "),
        (lambda: (folder / "episodes.csv").write_text("episode\nx\n"), "'episode' and 'action...'"),
        (lambda: (folder / "episodes.csv").unlink(), "episodes.csv: is missing"),
        (lambda: _drop_rows(folder), "clip-5.mp4: expected 7 frames for 7 rows of episodes.csv"),
        (lambda: _spoil(folder), "clip-0: state: expected"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder)
        damage()
        with pytest.raises(SourceError, match=message):
            imported(folder, "folder", tmp_path / "out")


def _drop_rows(folder: Path) -> None:
    lines = (folder / "episodes.csv").read_text().splitlines()
    (folder / "episodes.csv").write_text("\n".join(lines[:-2]))


def _spoil(folder: Path) -> None:
    lines = (folder / "episodes.csv").read_text().splitlines()
    fields = lines[1].split(",")
    fields[4] = "left"
    (folder / "episodes.csv").write_text("\n".join([lines[0], ",".join(fields), *lines[2:]]))


def test_bad_minari_data_are_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(SourceError, match="toy/none-v0: not a readable Minari data set"):
        imported(Path("toy/none-v0"), "minari", tmp_path / "out")
    write_minari("toy/push-v0")
    place = tmp_path / "toy" / "push-v0" / "data"
    with pytest.raises(SourceError, match="expected 'grip', found"):
        imported(Path("toy/push-v0"), "minari", tmp_path / "out", state=("grip",))
    meta = place / "metadata.json"
    newer = {**json.loads(meta.read_text()), "minari_version": "99.0.0"}
    whole = meta.read_text()
    meta.write_text(json.dumps(newer))
    with pytest.raises(SourceError, match="not a readable Minari data set"):
        imported(Path("toy/push-v0"), "minari", tmp_path / "out", state=("state",))
    meta.write_text(whole)
    cut("main_data.hdf5")(place)
    with pytest.raises(SourceError, match="not a readable Minari data set"):
        imported(Path("toy/push-v0"), "minari", tmp_path / "out", state=("state",))

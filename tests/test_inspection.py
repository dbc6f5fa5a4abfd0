"""The page of outcomes: what it holds, and that it works by itself in a browser."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import LOOKS, check_accessible, chromium, look, needs_chromium, tab
from conftest import COMMANDS, STATES
from episode_factory import HORIZON, SIZE, make_episode
from PIL import Image

from world4rl_gym.cli import main
from world4rl_gym.episodes import Episode
from world4rl_gym.inspection.page import entry, order
from world4rl_gym.outcomes import Imagined


def make_stateful(seed: int, **changes: Any) -> Episode:
    """An episode with the robot's state and command that the tiny world model needs."""
    rng = np.random.default_rng(seed)
    state = rng.normal(size=(HORIZON + 1, STATES)).astype(np.float32)
    behaviour = "expert" if seed % 2 else "random"
    return dataclasses.replace(
        make_episode(seed, behaviour=behaviour),
        state=state,
        command=state[:, :COMMANDS].copy(),
        **changes,
    )


def write(model: str, episodes: Path, out: Path, most: int, *more: str) -> None:
    """Runs `world4rl inspect`."""
    main(["inspect", str(episodes), model, "--out", str(out), "--most", str(most), *more])


@pytest.fixture(scope="module")
def written(tiny_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of eight episodes, one of them not drawn and of a policy with a bad name."""
    folder = tmp_path_factory.mktemp("outcomes")
    undrawn = make_stateful(7, policy="</script><b>")
    undrawn = dataclasses.replace(undrawn, frames=undrawn.frames[:1])
    for episode in [*map(make_stateful, range(7)), undrawn]:
        episode.save(folder / "episodes" / "push" / "test" / f"{episode.seed}.npz")
    out = folder / "new" / "page.html"
    write(tiny_folder, folder / "episodes", out, 8)
    return out


def held(path: Path) -> dict[str, Any]:
    """The data within the page."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def test_wrong_episodes_come_first_and_frames_are_within(written: Path) -> None:
    data = held(written)
    assert data["total"] == 8
    wrong = [one["wrong"] for one in data["episodes"]]
    assert wrong == sorted(wrong, reverse=True)
    for one in data["episodes"]:
        assert one["wrong"] == (one["real"] != one["imagined"])
        assert one["imagined"] == (max(one["probability"]) >= data["threshold"] - 1e-4)
        frames = Image.open(io.BytesIO(base64.b64decode(one["frames"])))
        assert frames.size == ((HORIZON + 1) * SIZE, (2 if one["drawn"] else 1) * SIZE)
    (undrawn,) = [one for one in data["episodes"] if not one["drawn"]]
    assert undrawn["policy"] == "</script><b>"


def test_doubt_is_of_the_outcome_not_of_the_way() -> None:
    def imagined(seed: int, uncertainty: list[float]) -> Imagined:
        episode = make_episode(seed, horizon=2)
        solved = np.full(2, float(episode.solved))
        none = np.zeros((2, 0), np.float32)
        return Imagined(episode, solved, np.array(uncertainty), none, episode.frames)

    settled, unsettled = imagined(0, [0.4, 0.1]), imagined(1, [0.0, 0.3])
    assert order([settled, unsettled], 0.5).tolist() == [1, 0]
    assert entry(settled, 0.5)["doubt"] == 0.1


def test_no_more_than_asked_for_are_shown(written: Path, tiny_folder: str, tmp_path: Path) -> None:
    own = written.parents[1] / "episodes"
    write(tiny_folder, own, tmp_path / "few.html", 3)
    all_of_them = held(written)["episodes"]
    few = held(tmp_path / "few.html")
    assert few["total"] == 8
    assert [one["seed"] for one in few["episodes"]] == [one["seed"] for one in all_of_them[:3]]


def patch(page: Any, name: str) -> np.ndarray:
    """What a canvas of the page shows, `(H, W, 3)`."""
    data = page.evaluate(
        "(name) => { const c = document.getElementById(name);"
        " return [c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]; }",
        name,
    )
    return np.array(data[1]).reshape(data[0], data[0], 4)[..., :3]


@needs_chromium
def test_the_page_sorts_and_scrubs(written: Path) -> None:
    fetched: list[str] = []
    with chromium() as browser, tab(browser) as page:
        page.on("request", lambda r: fetched.append(r.url) if r.url.startswith("http") else None)
        page.goto(written.as_uri())
        page.wait_for_selector("#curve[points]")
        page.click("th button:has-text('doubt')")
        shown = page.locator("tbody tr td:last-child").all_inner_texts()
        assert shown == sorted(shown, key=float, reverse=True)
        assert page.get_attribute("th:last-child", "aria-sort") == "descending"
        page.click("tbody tr:nth-child(2) td button")
        page.wait_for_selector("tbody tr:nth-child(2)[aria-current]")
        page.focus("#scrub")
        page.keyboard.press("End")
        page.wait_for_selector(f"#at:text-is('frame {HORIZON} of {HORIZON}')")
        difference, side = patch(page, "difference"), 16
        sums = np.lib.stride_tricks.sliding_window_view(difference.sum(axis=2), (side, side))
        y, x = np.unravel_index(sums.sum(axis=(2, 3)).argmax(), sums.shape[:2])
        for name in ("real", "imagined", "difference"):
            np.testing.assert_array_equal(
                patch(page, f"{name}-patch"), patch(page, name)[y : y + side, x : x + side]
            )
        assert page.inner_text("#where").startswith(
            f"Closer: 16 x 16 pixels from column {x}, row {y}"
        )
        page.click("tr:has-text('</script>') button")
        page.wait_for_selector("#outcome:has-text('was not drawn')")
    assert not fetched


@needs_chromium
def test_the_page_is_accessible_and_fits(written: Path) -> None:
    with chromium() as browser:
        for scheme, width in LOOKS:
            with look(browser, scheme, width) as page:
                page.goto(written.as_uri())
                page.wait_for_selector("#curve[points]")
                check_accessible(page, width)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        (["--most", "0"], "--most"),
        (["--split", "tset"], "split"),
        (["--task", "pull"], "pull"),
    ],
)
def test_bad_input_is_refused_in_a_line(
    written: Path, tiny_folder: str, tmp_path: Path, more: list[str], field: str
) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit, match=f"error: .*{field}"):
        write(tiny_folder, written.parents[1] / "episodes", out, 3, *more)
    assert not out.exists()


def test_without_rerun_its_recording_is_refused_at_once(
    written: Path, tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    out = tmp_path / "page.html"
    with pytest.raises(SystemExit, match=r"--rerun .*pip install"):
        write(tiny_folder, written.parents[1] / "episodes", out, 3, "--rerun", "a.rrd")
    assert not out.exists()


def test_a_recording_for_rerun_holds_every_frame(
    written: Path, tiny_folder: str, tmp_path: Path
) -> None:
    pytest.importorskip("rerun", reason="needs rerun-sdk")
    own, path = written.parents[1] / "episodes", tmp_path / "new" / "a.rrd"
    write(tiny_folder, own, tmp_path / "a.html", 2, "--rerun", str(path))
    printed = subprocess.run(
        [Path(sys.executable).with_name("rerun"), "rrd", "print", "-vvv", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    first = held(tmp_path / "a.html")["episodes"][0]
    for part in ("real", "imagined", "success-probability", "uncertainty", "real-success"):
        assert f"0-push-{first['policy']}-{first['seed']}" in printed
        assert f"judged-{'wrongly' if first['wrong'] else 'rightly'}/{part}" in printed

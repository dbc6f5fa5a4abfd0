"""The page of `world4rl play` in a real browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import LOOKS, PATIENCE, check_accessible, chromium, look, needs_chromium, tab
from fresh_process import ROOT

from world4rl_gym import WorldModel
from world4rl_gym.episodes import load_episode
from world4rl_gym.policy import make_policy, policy_config

pytest.importorskip("aiohttp")
iio = pytest.importorskip("imageio.v3")
pytestmark = needs_chromium


def start_play(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Starts `world4rl play`; returns its process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "world4rl_gym.cli", "play", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Ctrl+C is ignored by what a shell has put in the background, these tests included.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())
    assert found, process.wait(10)
    return process, found[0]


def end(process: subprocess.Popen[str]) -> int:
    """Presses Ctrl+C."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(20)
    finally:
        process.kill()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The embedded world model, played without a policy."""
    process, found = start_play("--task", "hammer")
    yield found
    assert end(process) == 130


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab of its own."""
    with tab(browser) as page:
        yield page


def visit(page: Any, address: str) -> None:
    page.goto(address)
    reached(page, 0)


def reached(page: Any, step: int) -> None:
    """Waits until the frame after so many decisions, or a later one, is shown."""
    later = range(step, 51 if step else 1)
    page.wait_for_selector(", ".join(f'#frame[data-step="{t}"]' for t in later))


def shown(page: Any) -> list[int]:
    """The picture's pixels."""
    return page.evaluate(
        "() => { const c = document.getElementById('frame');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"
    )


def hold(page: Any, key: str, step: int) -> None:
    """Holds a key until so many decisions are taken."""
    page.keyboard.down(key)
    reached(page, step)
    page.keyboard.up(key)


def choose(page: Any, task: str, start: int) -> None:
    """Chooses the `start`-th picture of a task."""
    if not page.locator(f"input[name=task][value={task}]").is_checked():
        page.locator(f"input[name=task][value={task}]").click()
    page.wait_for_selector(f"input[name=task][value={task}]:checked")
    box = page.locator("input[name=start]").nth(start)
    if box.is_checked():
        page.click("#reset")
        page.wait_for_timeout(300)
    box.click()
    reached(page, 0)


def save(page: Any, kind: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(f"[data-save={kind}]")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_an_episode_is_driven_by_keys_and_recorded(page: Any, address: str, tmp_path: Path) -> None:
    visit(page, address)
    page.select_option("#speed", "1000")
    page.focus("#stage")
    first = shown(page)
    page.wait_for_timeout(500)
    assert page.inner_text("#count") == "0 of 50"  # nothing moves while nobody acts
    page.keyboard.press(" ")
    page.keyboard.down("ArrowRight")
    page.keyboard.down("PageUp")
    reached(page, 50)
    page.keyboard.up("PageUp")
    page.keyboard.up("ArrowRight")
    assert "over" in page.inner_text("#status")
    assert np.abs(np.subtract(shown(page), first)).mean() > 2
    assert "frames a second" in page.inner_text("#rate")
    assert page.locator("#success-line").get_attribute("points").count(",") == 51

    video = iio.imread(save(page, "mp4", tmp_path))
    assert video.shape == (51, 384, 384, 3)
    assert np.abs(video[0].astype(int) - video[-1]).mean() > 2
    episode = load_episode(save(page, "npz", tmp_path))
    assert (episode.task, episode.policy, len(episode)) == ("hammer", "person", 50)
    np.testing.assert_array_equal(episode.actions[30], [1, 1, 1, 1])  # right, up, gripper closed
    assert iio.imread(save(page, "gif", tmp_path)).shape[1:] == (384, 384, 3)


def test_pictures_follow_the_keys(page: Any, address: str) -> None:
    visit(page, address)
    pictures = []
    for key in ("ArrowLeft", "ArrowRight"):
        choose(page, "door-lock", 3)
        assert page.evaluate("() => document.activeElement.id") == "stage"
        hold(page, key, 6)
        pictures.append(shown(page))
    assert np.abs(np.subtract(*pictures)).mean() > 2
    assert page.locator("input[name=start]:checked").get_attribute("aria-label") == "start 4 of 300"


def test_pause_single_step_and_gripper(page: Any, address: str) -> None:
    visit(page, address)
    page.focus("#pause")
    page.keyboard.press(" ")  # presses the button that has the focus, and nothing else
    assert page.inner_text("#pause") == "Go on"
    assert page.get_attribute("#grip", "aria-pressed") == "false"
    page.focus("#stage")
    page.keyboard.down("ArrowUp")
    page.wait_for_timeout(400)
    page.keyboard.up("ArrowUp")
    assert page.inner_text("#count") == "0 of 50"
    page.keyboard.press("n")
    reached(page, 1)
    page.click("#step")
    reached(page, 2)
    page.keyboard.press("p")
    page.select_option("#time", "self")
    reached(page, 4)
    page.select_option("#time", "keys")
    page.focus("#stage")
    page.keyboard.press("r")
    reached(page, 0)


def test_the_legend_is_pressed_by_touch(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    visit(page, address)
    page.tap("[data-key=ArrowLeft]")
    reached(page, 1)
    page.tap("#grip")
    page.wait_for_selector("#grip[aria-pressed=true]")
    context.close()


GAMEPAD = """
window.pad = {id: "pad of the test", axes: [0, 0, 0, 0],
    buttons: Array.from({length: 17}, () => ({pressed: false}))};
navigator.getGamepads = () => [null, window.pad];
"""


def test_a_gamepad_drives(page: Any, address: str, tmp_path: Path) -> None:
    page.add_init_script(GAMEPAD)
    visit(page, address)
    assert "pad of the test" in page.inner_text("#pad-name")
    page.evaluate("() => { window.pad.axes = [0.1, 0, 0, -0.5]; }")  # 0.1 is a stick at rest
    reached(page, 3)
    page.evaluate("() => { window.pad.buttons[0].pressed = true; }")
    page.wait_for_selector("#grip[aria-pressed=true]")
    page.evaluate(
        "() => { window.pad.axes = [0, 0, 0, 0]; window.pad.buttons[0].pressed = false; }"
    )
    actions = load_episode(save(page, "npz", tmp_path)).actions
    np.testing.assert_allclose(actions[0], [0, 0, 0.5, -1])
    page.evaluate("() => { window.pad.buttons[9].pressed = true; }")
    page.wait_for_selector("#pause[aria-pressed=true]")


def test_a_policy_drives_until_a_key_overrules_it(
    page: Any, tiny_folder: str, tiny_world_model: WorldModel, tmp_path: Path
) -> None:
    make_policy(policy_config(tiny_world_model, "push")).save_pretrained(tmp_path / "mine")
    process, own = start_play(tiny_folder, "--policy", str(tmp_path / "mine"), "--task", "pull")
    try:
        page.goto(own)
        page.select_option("#speed", "2")
        page.click("#reset")
        page.wait_for_selector("#driver:text-is('mine')")
        page.focus("#stage")
        page.keyboard.down("ArrowLeft")
        page.wait_for_selector("#driver:text-is('person')")
        page.keyboard.up("ArrowLeft")
        assert page.is_hidden("#grip")  # this world model has three action components
    finally:
        assert end(process) == 130
    page.wait_for_selector("#banner:has-text('world4rl play has ended')")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_page_is_accessible_and_fits(
    browser: Any, address: str, scheme: str, width: int
) -> None:
    with look(browser, scheme, width) as page:
        visit(page, address)
        hold(page, "ArrowUp", 3)
        check_accessible(page, width)

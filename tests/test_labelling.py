"""The page on which episodes are labelled by keys, and the import of what was said there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from browser import LOOKS, check_accessible, chromium, look, needs_chromium, tab
from recorded_data import imported, write_folder

from training.data.labelling import shown_frames
from training.import_episodes import Args, run


def test_frames_to_label_by_are_the_first_the_middle_and_the_last() -> None:
    assert shown_frames(20) == [0, 10, 16, 17, 18, 19]
    assert shown_frames(3) == [0, 1, 2]


@pytest.fixture
def label_page(tmp_path: Path) -> Path:
    """The page of five episodes, one with a bad name."""
    write_folder(tmp_path / "clips", pictures=True)
    page = tmp_path / "new" / "labels.html"
    kind = "folder"
    run(Args(tmp_path / "clips", kind, tmp_path / "out", "push", label=page))  # type: ignore[arg-type]
    return page


@needs_chromium
def test_episodes_are_labelled_by_keys_and_imported_so(label_page: Path, tmp_path: Path) -> None:
    assert not (tmp_path / "out").exists()
    with chromium() as browser, tab(browser) as page:
        page.goto(label_page.as_uri())
        page.wait_for_selector("canvas")
        count = page.locator("ol li").count()
        for index in range(count):
            assert page.input_value("#line") == ""
            page.keyboard.press("f" if index in (0, 2) else "s")
        page.wait_for_selector(f"#progress:has-text('{count} of {count}')")
        words = shlex.split(page.input_value("#line"))
        page.reload()  # labels are kept
        assert shlex.split(page.input_value("#line")) == words
    assert words[:3] == ["--success", "final", "--failures"] and len(words) == 5
    found, _ = imported(
        tmp_path / "clips", "folder", tmp_path / "out", success="final", failures=tuple(words[3:])
    )
    assert [i for i, one in sorted(found.items()) if not one.solved] == [0, 2]


@needs_chromium
def test_the_label_page_is_accessible_and_fits(label_page: Path) -> None:
    with chromium() as browser:
        for scheme, width in LOOKS:
            with look(browser, scheme, width) as page:
                page.goto(label_page.as_uri())
                page.wait_for_selector("canvas")
                check_accessible(page, width)

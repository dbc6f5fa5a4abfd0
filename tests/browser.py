"""A real browser for the tests of pages, and axe's look at them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)
PATIENCE = 30_000  # ms
LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]
"""Colour schemes and widths in which every page is looked at."""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Chromium, while within; skips the test where Playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def tab(browser: Any, **options: Any) -> Iterator[Any]:
    """A tab of its own; whatever goes wrong in its scripts fails the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    try:
        yield page
    finally:
        context.close()
    assert not wrong


@contextlib.contextmanager
def look(browser: Any, scheme: str, width: int) -> Iterator[Any]:
    """A tab of one of `LOOKS`, in which axe may run."""
    viewport = {"width": width, "height": 844}
    with tab(browser, viewport=viewport, color_scheme=scheme, bypass_csp=True) as page:
        yield page


def check_accessible(page: Any, width: int) -> None:
    """Checks that a page fits its width, and that axe finds nothing wrong."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core")
    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()

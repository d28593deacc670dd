"""A real headless Chromium, where the machine has one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.support.waiting import PATIENCE_SECONDS

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def _runs(path: str) -> bool:
    """Whether it is one: Ubuntu's `chromium-browser` may be a note that a snap is needed."""
    asked = subprocess.run([path, "--version"], capture_output=True, timeout=60)
    return asked.returncode == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser, with a profile of its own."""
    found = next(filter(_runs, filter(None, map(shutil.which, NAMES))), None)
    if found is None:
        pytest.skip(f"no browser on PATH: {', '.join(NAMES)} (Debian: apt-get install chromium)")
    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    # For one module: until it ends, no other event loop can run in this thread.
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=Path(found),
            args=list(FLAGS),
            headless=True,
            timeout=1000 * PATIENCE_SECONDS,
        )
        yield launched
        launched.close()

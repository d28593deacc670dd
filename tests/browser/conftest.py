"""A real headless Chromium, where the machine has one, and a console to drive in it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.driving import DESK, PHONE, Seat
from tests.support.console import guarded
from tests.support.serving import serve_in_thread
from tests.support.waiting import PATIENCE_SECONDS

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


def _runs(path: str) -> bool:
    """Whether it is one: Ubuntu's `chromium-browser` may be a note that a snap is needed."""
    asked = subprocess.run([path, "--version"], capture_output=True, timeout=PATIENCE_SECONDS)
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


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    site = guarded(f"sqlite:///{tmp_path / 'test.db'}")
    ids = site.fill()
    with serve_in_thread(site.app) as url:
        yield Seat(site, url, ids)
    site.runtime.db.dispose()


@pytest.fixture(params=[DESK, PHONE])
def page(request: pytest.FixtureRequest, browser: Browser, seat: Seat) -> Iterator[Page]:
    scheme, (width, height) = request.param
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, base_url=seat.url
    )
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    made = context.new_page()
    said: list[str] = []
    # A breach of the content security policy is an error in the console too.
    made.on("console", lambda message: said.append(message.text))
    made.on("pageerror", lambda error: said.append(str(error)))
    made.on("dialog", lambda dialog: said.append(dialog.message))
    asked: list[str] = []
    made.on("request", lambda sent: asked.append(sent.url))
    yield made
    # What the server refuses with 4xx the browser notes by itself.
    assert [line for line in said if "status of 4" not in line] == []
    assert [url for url in asked if not url.startswith(seat.url)] == []
    context.close()

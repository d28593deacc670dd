"""An operator at the console, in a real browser: no script, no error, nothing out of sight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select

from app.switchyard.cutover import stages
from app.switchyard.runs.models import RunRow
from tests.support.console import HOSTILE, TOKEN, Site, guarded
from tests.support.serving import serve_in_thread
from tests.support.waiting import PATIENCE_SECONDS

DESK, PHONE = (1280, 800), (390, 844)


@dataclass
class Seat:
    """A site and its server, filled with runs."""

    site: Site
    url: str
    ids: dict[str, str]


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Seat]:
    site = guarded(f"sqlite:///{tmp_path / 'test.db'}")
    ids = site.fill()
    with serve_in_thread(site.app) as url:
        yield Seat(site, url, ids)
    site.runtime.db.dispose()


@pytest.fixture(params=[("light", DESK), ("dark", PHONE)], ids=["desk-light", "phone-dark"])
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


def log_in(page: Page, path: str = "/console") -> None:
    page.goto(path)
    page.get_by_label("Your name").fill("grace")
    page.get_by_label("ADMIN_TOKEN").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/console/login" not in url)  # loaded, with its stylesheet


def fits(page: Page) -> None:
    """Nothing sticks out to the side, once the stylesheet is applied."""
    page.wait_for_load_state()
    wide: Any = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert wide is False, page.url


def test_log_in_and_look_around(page: Page, seat: Seat) -> None:
    page.goto("/console")
    page.get_by_label("Your name").fill("grace")
    page.get_by_label("ADMIN_TOKEN").fill("a wrong guess")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("that is not ADMIN_TOKEN")
    log_in(page)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Overview")
    row = page.locator("tr", has=page.get_by_role("link", name="five-steps"))
    expect(row).to_contain_text("live")
    failing = page.locator("tr", has=page.get_by_role("link", name="hopeless"))
    expect(failing).to_contain_text("legacy")
    for path in ("", "/history", "/runs", "/jobs/five-steps"):
        page.goto(f"/console{path}")
        fits(page)
    for run in seat.ids.values():
        page.goto(f"/console/runs/{run}")
        fits(page)
    page.goto("/console")
    page.get_by_role("link", name="1 failed").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=seat.ids["failed"]).click()
    expect(page.locator("pre", has_text="<script>alert(1)</script>")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/console/login")  # else the next request may overtake it
    page.goto("/console/runs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_change_a_stage(page: Page, seat: Seat) -> None:
    log_in(page, "/console/jobs/parent")
    ramp, live = page.locator("#to-ramp"), page.locator("#to-live")
    expect(ramp.get_by_role("button")).to_be_hidden()
    ramp.get_by_text("Ramp…").click()
    expect(ramp).to_contain_text("No run is moved")
    ramp.get_by_label("Percent").fill("12.5")
    ramp.get_by_label("Why").fill("as it is")
    ramp.get_by_role("button").click()
    expect(ramp.get_by_role("alert")).to_contain_text("already stands at ramp 12.5 %")
    fits(page)
    # What was asked for is still there to be mended.
    expect(ramp.get_by_label("Why")).to_have_value("as it is")
    ramp.get_by_label("Percent").fill("25")
    ramp.get_by_label("Why").fill(HOSTILE)
    ramp.get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("parent ramp 25 %")
    expect(page.locator("tbody tr", has_text=HOSTILE)).to_be_visible()
    change = stages.history(seat.site.runtime.db)[0]
    assert (change.job, change.percent, change.by, change.why) == ("parent", 25, "grace", HOSTILE)
    # A reason must be given: the browser itself does not send the form without.
    live.get_by_text("Live…").click()
    live.get_by_role("button").click()
    assert live.get_by_label("Why").evaluate("one => one.validity.valueMissing") is True
    assert len(stages.history(seat.site.runtime.db, "parent")) == 2


def test_retry_and_cancel_ask_first(page: Page, seat: Seat) -> None:
    log_in(page, f"/console/runs/{seat.ids['failed']}")
    sure = page.get_by_role("button", name="Yes, retry it")
    expect(sure).to_be_hidden()
    page.get_by_text("Retry…").click()
    page.locator("#retry").get_by_label("Why").fill("the cause is mended")
    sure.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("hopeless pending")
    fits(page)
    page.get_by_text("Cancel…").click()
    page.locator("#cancel").get_by_label("Why").fill("not wanted any more")
    page.get_by_role("button", name="Yes, cancel it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("hopeless cancelled")
    with seat.site.runtime.db.autocommit() as connection:
        chosen = select(RunRow.status).where(RunRow.id == seat.ids["failed"])
        assert connection.scalar(chosen) == "cancelled"

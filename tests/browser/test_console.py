"""An operator at the console, in a real browser: no error, nothing out of sight."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from sqlalchemy import select

from app.switchyard import audit
from app.switchyard.runs.models import RunRow
from tests.browser.driving import Seat, accessible, at_a_desk, fits, log_in, on_a_phone
from tests.support.console import HOSTILE


def test_log_in_and_look_around(page: Page, seat: Seat) -> None:
    page.goto("/console")
    accessible(page)
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
    for path in (
        *("", "/history", "/runs", "/runbook", "/jobs/five-steps", "/jobs/hopeless", "/runs/zz"),
        *("/bulk/retry?status=failed", "/runs?q=since:never"),
    ):
        page.goto(f"/console{path}")
        fits(page)
        accessible(page)
    for run in seat.ids.values():
        page.goto(f"/console/runs/{run}")
        fits(page)
        accessible(page)
    page.goto("/console")
    page.get_by_role("link", name="1 failed").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=seat.ids["failed"]).click()
    expect(page.locator("pre", has_text="<script>alert(1)</script>")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/console/login")  # else the next request may overtake it
    page.goto("/console/runs")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


@on_a_phone
def test_change_a_stage(page: Page, seat: Seat) -> None:
    log_in(page, "/console/jobs/parent")
    ramp, live = page.locator("#to-ramp"), page.locator("#to-live")
    expect(ramp.get_by_role("button")).to_be_hidden()
    ramp.get_by_text("Ramp…").click()
    expect(ramp).to_contain_text("No run is moved")
    ramp.get_by_label("Percent").fill("12.5")
    ramp.get_by_label("Why").fill("as it is")
    ramp.get_by_role("button").click()
    expect(ramp.get_by_role("alert")).to_contain_text("is already at ramp 12.5 %")
    fits(page)
    # What was asked for is still there to be mended.
    expect(ramp.get_by_label("Why")).to_have_value("as it is")
    ramp.get_by_label("Percent").fill("25")
    ramp.get_by_label("Why").fill(HOSTILE)
    ramp.get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("parent ramp 25 %")
    expect(page.locator("tbody tr", has_text=HOSTILE)).to_be_visible()
    change = audit.history(seat.site.runtime.db, act="stage")[0]
    said = [change[name] for name in ("job", "percent", "by", "why")]
    assert said == ["parent", 25, "grace", HOSTILE]
    # A reason must be given: the browser itself does not send the form without.
    live.get_by_text("Live…").click()
    live.get_by_role("button").click()
    assert live.get_by_label("Why").evaluate("one => one.validity.valueMissing") is True
    assert len(audit.history(seat.site.runtime.db, job="parent", act="stage")) == 2


@at_a_desk
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

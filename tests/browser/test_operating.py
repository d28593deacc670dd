"""A night at the console, in a real browser: search, retry many, drain, roll back, see what was."""

from __future__ import annotations

from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import func, select

from app.switchyard.dispatch import dispatch
from app.switchyard.operations import acts, bulk
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow
from tests.browser.driving import Seat, accessible, at_a_desk, fits, log_in, on_a_phone


def counted(seat: Seat, **columns: str) -> int:
    chosen = select(func.count()).select_from(RunRow).filter_by(**columns)
    with seat.site.runtime.db.autocommit() as connection:
        return connection.scalar(chosen) or 0


@at_a_desk
def test_a_page_keeps_itself_up_to_date(page: Page, seat: Seat) -> None:
    log_in(page)
    row = page.locator("tr", has=page.get_by_role("link", name="later"))
    expect(row).not_to_contain_text("rq 1")
    dispatch("later", {"name": "new"})
    expect(row).to_contain_text("rq 1")  # without a click
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.locator("a[data-row]").first).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/jobs/*")
    page.keyboard.press("/")
    page.wait_for_url("**/console/runs")
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()


@at_a_desk
def test_a_page_whose_session_has_ended_says_so(page: Page, seat: Seat) -> None:
    log_in(page)
    other = page.context.new_page()
    other.goto("/console/history")
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/console/login")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")  # without a click


def test_without_script_every_act_has_its_button(
    browser: Browser, seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "BATCH", 1)
    context = browser.new_context(java_script_enabled=False, base_url=seat.url)
    page = context.new_page()
    log_in(page, "/console/jobs/child")
    page.get_by_text("Drain…").click()
    dispatch("child", {"name": "second"})
    page.locator("#drain").get_by_label("Why").fill("to the new side")
    page.locator("#drain").get_by_role("button", name="Drain").click()
    expect(page.locator("dd").first).to_have_text("1")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("done")
    assert counted(seat, job="child", backend="inngest") == 2
    context.close()


@on_a_phone
def test_runs_are_searched_and_exported(page: Page, seat: Seat) -> None:
    log_in(page, "/console/runs")
    page.get_by_label("Search").fill("payload.name:later")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody")).to_contain_text(seat.ids["waiting"])
    with page.expect_download() as down:
        page.get_by_role("link", name="CSV").click()
    lines = down.value.path().read_text().splitlines()
    assert (len(lines), seat.ids["waiting"] in lines[1]) == (2, True)
    page.get_by_label("Search").fill('error:"no such error"')
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody")).to_contain_text("No such runs")
    fits(page)


@on_a_phone
def test_many_are_retried_until_somebody_stops_it(
    page: Page, seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    for number in range(20):
        dispatch("hopeless", {"name": f"b{number}"})
    for _ in range(4):
        seat.site.work()
    log_in(page, "/console/runs?status=failed&job=hopeless")
    page.get_by_role("link", name="Retry all of these").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Retry 21 runs")
    page.get_by_label("Why").fill("the cause is mended")
    page.get_by_role("button", name="Retry them").click()
    expect(page.locator("#moving")).to_contain_text("going on")
    accessible(page)
    expect(page.locator("dd").first).to_contain_text("4")  # it goes on by itself
    page.get_by_role("link", name="Stop here").click()
    page.wait_for_url("**/console/runs?*")
    retried = counted(seat, job="hopeless", status="pending")
    assert 4 <= retried < 21
    assert counted(seat, job="hopeless", status="failed") == 21 - retried
    page.goto("/console/history")
    expect(page.locator("tbody tr").first).to_contain_text("the cause is mended")


@on_a_phone
def test_a_job_is_drained_and_rolled_back(
    page: Page, seat: Seat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "BATCH", 2)
    for number in range(5):
        dispatch("child", {"name": f"d{number}"})
    log_in(page, "/console/jobs/child")
    drain = page.locator("#drain")
    drain.get_by_text("Drain…").click()
    expect(drain).to_contain_text("serverless: 6 runs to move")
    drain.get_by_label("Why").fill("to the new side")
    fits(page)
    drain.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Drain child to serverless done")
    expect(page.locator("dd").first).to_have_text("6")
    assert counted(seat, job="child", backend="inngest") == 6
    page.get_by_role("link", name="child").click()
    back = page.locator("#rollback")
    back.get_by_text("Roll back…").click()
    expect(back).to_contain_text("6 runs of it and below it are brought back")
    back.get_by_label("Why").fill("2 a.m.")
    back.get_by_role("button", name="Roll back").click()
    expect(page.locator("#moving")).to_contain_text("going on")
    seat.site.now += timedelta(seconds=2)  # by then every process knows
    expect(page.locator("#moving h1")).to_contain_text("done")
    assert counted(seat, job="child", backend="rq", status="pending") == 6
    page.goto("/console")
    page.get_by_text("Everything to legacy…").click()
    accessible(page)
    page.get_by_label("Why").fill("all of it")
    page.get_by_role("button", name="Everything to legacy").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Everything to legacy")


def test_a_run_that_changed_sides_is_seen_whole(page: Page, seat: Seat) -> None:
    run = dispatch("sleeper", {"name": "handed", "wait_seconds": 60.0})
    seat.site.queue.work(seat.site.runtime.engine)
    assert hand_over(seat.site.runtime.store, [run.id], "inngest").moved == 1
    for _ in range(2):
        seat.site.work()
    log_in(page, f"/console/runs/{run.id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("sleeper succeeded")
    lines = page.locator(".waterfall tbody tr")
    expect(lines).to_have_count(4)
    expect(lines.nth(1)).to_contain_text("rq")
    expect(lines.nth(3)).to_contain_text("inngest")
    expect(page.locator(".legend")).to_contain_text("rq → inngest")
    expect(page.locator("main")).to_contain_text("a drain or a rollback moved it there")
    expect(page.locator(".waterfall .handoff")).to_have_count(4)
    accessible(page)
    fits(page)

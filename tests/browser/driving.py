"""What every browser test does: log in, look whether a page fits, and whether all can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.support.console import TOKEN, Site

DESK = pytest.param(("light", (1280, 800)), id="desk-light")
PHONE = pytest.param(("dark", (390, 844)), id="phone-dark")
at_a_desk = pytest.mark.parametrize("page", [DESK], indirect=True)
on_a_phone = pytest.mark.parametrize("page", [PHONE], indirect=True)
"""Each page is looked at on both; what is done on them is done on one."""


@dataclass
class Seat:
    """A site and its server, filled with runs."""

    site: Site
    url: str
    ids: dict[str, str]


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


def accessible(page: Page) -> None:
    """axe finds nothing that keeps anybody from using the page (WCAG AA)."""
    page.wait_for_load_state()
    found = Axe().run(page).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    said = [(one["id"], [node["html"] for node in one["nodes"][:3]]) for one in grave]
    assert said == [], page.url

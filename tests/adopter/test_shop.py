"""docs/adopt.md, followed word for word on a shop of somebody else's."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.adopter.site import Site, inngest, site, wheel
from tests.support.environments import empty, install, uv
from tests.support.pages import sections
from tests.support.waiting import until

SHOP = Path(__file__).parent / "shop"
PAGE = sections("adopt.md")
EFFECTS = ("paid", "express", "thanked", "reminded")
ORDERS = """
import sys
from app import create_app
client = create_app().test_client()
for _ in range(int(sys.argv[1])):
    assert client.post("/orders", json={"email": "ada@example.com"}).status_code == 201
"""
CONFTEST = """
import pytest
from app import create_app, db

@pytest.fixture
def app():
    app = create_app()
    with app.app_context():
        db.create_all()
        yield app

@pytest.fixture
def client(app):
    return app.test_client()
"""

pytestmark = [pytest.mark.process, pytest.mark.minutes, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def shop(built: Path, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    """Before: with RQ 1.16, and nothing of ours."""
    python = empty("shop")
    uv("pip", "uninstall", "--quiet", "--python", str(python), "switchyard")
    install(python, "-r", str(SHOP / "requirements.txt"), "pytest")
    with site(
        SHOP,
        tmp_path,
        python,
        REDIS_URL=redis_url,
        SHOP_DATABASE=f"sqlite:///{tmp_path / 'shop.db'}",
        WHEEL=str(built),
        # Patience: the machine may be busy, and nobody dies here.
        LEASE_SECONDS="60",
    ) as made:
        yield made


def order(shop: Site, many: int) -> None:
    """Orders from a process without a web server."""
    (shop.folder.parent / "order.py").write_text(ORDERS)
    shop.run(f"PYTHONPATH=. python ../order.py {many}")


def follow(shop: Site, section: str) -> str:
    return "".join(shop.block(block) for block in PAGE[section])


def effects(shop: Site) -> Counter[tuple[str, int]]:
    return Counter((what, number) for what, number in shop.call("/effects"))


def until_done(shop: Site, orders: int) -> None:
    """Everything of each order is done, and once."""
    wanted = {(what, number) for what in EFFECTS for number in range(1, orders + 1)}
    until(lambda: wanted <= effects(shop).keys(), shop.logs, every_seconds=0.3)
    assert effects(shop) == Counter(wanted)


def runs(shop: Site, job: str = "pay") -> Counter[tuple[str, str]]:
    """By side and status, straight from the ledger: the command would take a second each time."""
    path = shop.environ["SHOP_DATABASE"].removeprefix("sqlite:///")
    chosen = "SELECT backend, status FROM switchyard_runs WHERE job = ?"
    with closing(sqlite3.connect(path, timeout=60)) as ledger:
        return Counter(ledger.execute(chosen, (job,)).fetchall())


def revisions(shop: Site) -> list[str]:
    return sorted(path.name for path in (shop.folder / "migrations" / "versions").glob("*.py"))


def test_the_ten_minutes(shop: Site) -> None:
    diffs = [b.text for blocks in PAGE.values() for b in blocks if b.kind == "diff"]
    lines = [line for diff in diffs[:-1] for line in diff.splitlines()]
    assert sum(line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ") for line in lines) <= 10

    shop.run("flask db upgrade")
    order(shop, 3)  # old tasks, which wait in Redis
    follow(shop, "Install it")
    follow(shop, "Declare the first task")
    before = revisions(shop)
    assert "No changes in schema detected" in follow(shop, "Make its tables")
    shop.run("flask switchyard db upgrade")
    assert revisions(shop) == before
    looked_at = shop.answer("flask switchyard adopt")
    printed = follow(shop, "See what else there is")
    check_report(looked_at, printed, diffs[-1])

    with inngest(shop.port) as url:
        shop.environ["INNGEST_DEV"] = url
        follow(shop, "Start the processes")
        shop.until_up("/healthz")
        until_done(shop, 3)
        placed = 3 + ramp(shop)
        stop_and_adopt_the_rest(shop)
        placed += back_and_forth(shop, placed)
        leave(shop, diffs, placed)


def check_report(found: dict[str, Any], printed: str, diff: str) -> None:
    """What it says to do is what the page does."""
    lines = [task["adopt"] for task in found["tasks"]]
    assert [line for line in lines if f"+        {line},\n" not in diff] == []
    assert all(line in printed for line in lines)
    assert len(lines) == 3
    assert [(change["file"], change["do"]) for change in found["changes"]] == [
        ("app/tasks.py", "from switchyard.queues import job")
    ]
    asked = {setting["name"]: setting["do"] for setting in found["settings"]}
    assert asked["LEGACY_FUNCTIONS"].endswith("12 old jobs waiting")
    assert {"INNGEST_EVENT_KEY", "INNGEST_SIGNING_KEY", "USE_INNGEST", "LEGACY_PICKLE"} <= set(
        asked
    )
    assert found["redis"] == {"reachable": True, "error": None, "unreadable": []}


def ramp(shop: Site) -> int:
    """A tenth of the orders is paid on the other side; how many there were."""
    follow(shop, "One in ten")
    placed = 0
    while placed < 400:
        for _ in range(20):
            shop.call("/orders", {"email": "ada@example.com"})
        placed += 20
        if runs(shop).keys() >= {("inngest", "succeeded"), ("rq", "succeeded")}:
            break
    until_done(shop, 3 + placed)
    sides = Counter(backend for backend, _ in runs(shop).elements())
    assert sides["rq"] > sides["inngest"] > 0
    return placed


def stop_and_adopt_the_rest(shop: Site) -> None:
    shop.stop()
    follow(shop, "The other tasks")
    tests = shop.folder / "tests"
    tests.mkdir()
    (block,) = [b.text for b in PAGE["Questions"] if "switchyard_inline" in b.text]
    (tests / "conftest.py").write_text(CONFTEST)
    (tests / "test_orders.py").write_text(block)
    of_tests = "SHOP_DATABASE=sqlite:////$PWD/test.db REDIS_URL=redis://127.0.0.1:1"
    shop.run(f"{of_tests} python -m pytest -q tests")


def back_and_forth(shop: Site, placed: int) -> int:
    """Live, then back while nobody answers Inngest; how many orders there were."""
    live, back = PAGE["All of it, and back"][:2]
    shop.block(live)
    order(shop, 5)
    assert runs(shop)["inngest", "pending"] == 5
    started = PAGE["Start the processes"][-1]
    shop.start(started.text.splitlines()[1])  # the worker
    shop.block(back)
    assert runs(shop)["inngest", "pending"] == 0
    shop.start("\n".join(line for line in started.text.splitlines() if "worker" not in line))
    shop.until_up("/healthz")
    until_done(shop, placed + 5)
    shop.block(live)
    shop.call("/orders", {"email": "ada@example.com"})
    until_done(shop, placed + 6)
    return 6


def leave(shop: Site, diffs: list[str], placed: int) -> None:
    """Nothing of it is left, and the shop goes on."""
    rollback, downgrade, uninstall = [b for b in PAGE["Uninstall it"] if b.kind == "sh"]
    shop.block(rollback)
    assert shop.answer("flask switchyard runs list --status pending") == []
    shop.stop()
    shop.block(downgrade)
    for diff in reversed(diffs):
        shop.patch(diff, "--reverse")
    shop.block(uninstall)
    assert "No changes in schema detected" in shop.run("flask db migrate").stderr
    order(shop, 1)
    shop.run(
        "rq worker shop --burst --with-scheduler; sleep 1; rq worker shop --burst --with-scheduler"
    )
    shop.start("flask run")
    shop.until_up("/healthz")
    until_done(shop, placed + 1)

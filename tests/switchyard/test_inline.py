"""`switchyard_inline`, as an adopter's own tests use it: run by pytest in a folder of theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.forks import forked

SHOP = """
from datetime import timedelta
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from app.switchyard import Empty, Switchyard, adopt, dispatch, job
from queues import Queue

db = SQLAlchemy()
queue = Queue(connection=Redis(port=1))


class Order(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    paid = db.Column(db.Integer, default=0)


@job("parent", event="shop.parent", payload=Empty, serverless="qstash")
def parent(ctx, payload):
    ctx.step.sleep("a day", timedelta(days=1))
    ctx.step.dispatch("pay", "pay", [{"order_id": 1}, {"order_id": 2}])
    return ctx.step.join("paid")


def create_app(url="sqlite://"):
    app = Flask("shop")
    app.config.update(SQLALCHEMY_DATABASE_URI=url, SECRET_KEY="x" * 32)
    db.init_app(app)
    with app.app_context():
        db.create_all()
        db.session.add_all([Order(id=1), Order(id=2)])
        db.session.commit()
    Switchyard(app, db=db, jobs=[adopt("tasks.pay"), adopt("tasks.fail"), parent])

    @app.post("/orders/<int:order>/pay")
    def pay(order):
        return queue.enqueue("tasks.pay", order).get_status()

    return app
"""
TASKS = """
from rq import get_current_job
from shop import Order, db, queue


def pay(order_id: int, fail: int = 0):
    job = get_current_job()
    job.meta["tries"] = job.meta.get("tries", 0) + 1
    job.save_meta()
    if job.meta["tries"] <= fail:
        raise RuntimeError("not yet")
    order = db.session.get(Order, order_id)
    order.paid += 1
    db.session.commit()


def fail():
    queue.enqueue("tasks.pay", 2)
    raise RuntimeError("never")
"""
CONFTEST = """
import pytest
from shop import create_app


@pytest.fixture{scope}
def app(tmp_path_factory):
    return create_app({url})


@pytest.fixture(autouse=True)
def at_work(app):
    with app.app_context():
        yield


def paid():
    from shop import Order, db
    db.session.rollback()
    return [order.paid for order in db.session.query(Order).order_by(Order.id)]
"""
TESTS = """
from datetime import timedelta
from conftest import paid
from app.switchyard import dispatch
from shop import Order, db, queue


def test_an_old_call_site(app, switchyard_inline):
    assert app.test_client().post("/orders/1/pay").text == "finished"
    assert paid() == [1, 0]
    [run] = switchyard_inline.runs("pay")
    assert (run["status"], run["payload"], run["backend"]) == ("succeeded", {"order_id": 1}, "rq")


def test_retries_are_not_waited_for(switchyard_inline):
    dispatch("pay", {"order_id": 1, "fail": 3}, key="once")
    assert paid()[0] >= 1
    [run] = switchyard_inline.runs()
    assert (run["status"], run["meta"]) == ("succeeded", {"tries": 4})


def test_one_test_knows_nothing_of_another(switchyard_inline):
    assert dispatch("pay", {"order_id": 1}, key="once").created
    assert not dispatch("pay", {"order_id": 1}, key="once").created


def test_what_fails_says_why(switchyard_inline):
    job = queue.enqueue("tasks.fail")
    assert job.get_status() == "failed"
    pay, *_, failed = switchyard_inline.runs()
    assert failed["error"] == "step fail: RuntimeError: never"
    assert pay["status"] == "succeeded"


def test_what_is_for_later_is_left_until_then(switchyard_inline):
    before = paid()
    job = queue.enqueue_in(timedelta(days=3), "tasks.pay", 1)
    assert (job.get_status(), paid()) == ("scheduled", before)
    switchyard_inline.make_due()
    assert job.get_status() == "finished"
    assert paid()[0] == before[0] + 1


def test_a_joined_session_sends_after_its_commit(switchyard_inline):
    before = paid()
    dispatch("pay", {"order_id": 1}, session=db.session)
    db.session.rollback()
    assert (switchyard_inline.runs(), paid()) == ([], before)
    db.session.get(Order, 2).paid += 5
    dispatch("pay", {"order_id": 1}, session=db.session)
    db.session.commit()
    assert paid() == [before[0] + 1, before[1] + 5]


def test_children_and_sleeps(switchyard_inline):
    dispatch("parent")
    [run] = switchyard_inline.runs("parent")
    assert (run["status"], run["result"]) == ("succeeded", {"succeeded": 2})
    assert len(switchyard_inline.runs()) == 3


def test_without_the_fixture_it_is_as_ever(app):
    store = app.extensions["switchyard"].store
    assert type(store.backends["rq"]).__name__ == "RQBackend"
"""


@pytest.mark.parametrize(
    ("scope", "url"),
    [("", ""), ('(scope="session")', '"sqlite:///" + str(tmp_path_factory.mktemp("x") / "a.db")')],
    ids=["in memory, each test", "a file, all tests"],
)
def test_an_adopters_tests_do_at_once_what_they_dispatch(
    tmp_path: Path, scope: str, url: str
) -> None:
    conftest = CONFTEST.format(scope=scope, url=url)
    for name, text in (("shop", SHOP), ("tasks", TASKS), ("conftest", conftest)):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "test_shop.py").write_text(TESTS)
    options = ("-p", "app.switchyard.testing", "-p", "no:cacheprovider", "-q")
    done = forked(["-m", "pytest", *options, str(tmp_path)], {"PATH": os.environ["PATH"]})
    assert (done.returncode, "8 passed" in done.stdout) == (0, True), done.stdout

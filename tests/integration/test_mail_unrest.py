"""No mail is sent twice and none is lost: killed at every point, flipped, dropped, delivered twice.

A mail that may or may not have been sent is on the list of unknown ones, and on no other.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import select

import flags
from app.local.qstash.standin import QStashStandIn
from app.platform.mail.models import Mail
from app.switchyard.config import LOCAL_QSTASH_TOKEN
from app.switchyard.dispatch import Item
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import RunRow
from tests.integration.test_crashes import POINTS
from tests.support.dying import dying
from tests.support.mailbox import DROP, Mailbox, served
from tests.support.sides import (
    CURRENT_KEY,
    Fixed,
    Side,
    environment,
    free_port,
    fresh,
    qstash_environment,
    relaying,
    rq_worker,
    web,
)
from tests.support.waiting import until

SEND = ("step.begun@send", "step.unrecorded@send", "step.uncommitted@send", "step.recorded@send")
OTHERS = ("run.claimed@", "step.uncommitted@admit", "run.body-done@", "run.ended@")
MARKS = {f"{point}@{step}" for point in POINTS for step in ("", "admit", "send", "unknown")}
SEED, MAILS, UNANSWERED, SECONDS = 7, 1000, 20, 15.0


@contextmanager
def mail_environment(database_url: str, redis_url: str, box: Mailbox) -> Iterator[dict[str, str]]:
    more = {
        "SWITCHYARD_JOBS": "app.platform.mail.jobs",
        "LEASE_SECONDS": "1",
        "CHECK_SECONDS": "0.3",
    }
    more |= {"SMTP_URL": f"smtp://127.0.0.1:{box.port}", "MAIL_FROM": "hello@fanhouse.test"}
    yield environment(database_url, redis_url, **more)


def item(to: str, minutes: float = 0) -> Item:
    payload = {"to": to, "template": "welcome", "data": {"name": to}, "delayMinutes": minutes}
    return Item(payload, key=to)


def received(box: Mailbox) -> Counter[str]:
    return Counter(str(mail["To"]) for mail in box.mails)


def on_record(on: Side) -> dict[str, str]:
    with on.made.db.autocommit() as connection:
        rows = connection.execute(select(Mail.recipient, Mail.status))
        return {row.recipient: row.status for row in rows}


def test_a_worker_dies_at_every_point(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """Killed before the server has the mail, or after: there is one at most, or it is unknown."""
    met = tmp_path / "met"
    with ExitStack() as stack:
        box = stack.enter_context(served())
        environ = stack.enter_context(mail_environment(database_url, redis_url, box))
        made = fresh(database_url, environ, None)
        stack.callback(made.db.dispose)
        stack.enter_context(relaying(made))
        on = Side("rq", made, environ)
        crashing = {**environ, "SWITCHYARD_CRASH_EACH": str(met)}
        met.write_text("\n".join(MARKS) + "\n")
        stack.enter_context(dying("rq", crashing, 0, tmp_path / "worker.log"))
        for mark in (*SEND, *OTHERS):
            met.write_text("\n".join(MARKS - {mark}) + "\n")
            to = f"{uuid4().hex[:12]}@example.com"
            (row,) = on.finish(*on.dispatch_many("send-email", [item(to)]))
            assert mark in met.read_text().split(), "its process did not come to this point"
            wanted = (1, "sent")
            if mark in SEND[:3]:
                wanted = (0 if mark == SEND[0] else 1, "unknown")
            assert (received(box)[to], on_record(on)[to]) == wanted, mark
            assert row.status == "succeeded"


def test_delayed_mails_while_everything_changes(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """Flips and hand-overs before and while they fall due, QStash delivering twice and restarting,
    a worker killed, and a mail server that takes some mails without an answer."""
    dice = random.Random(SEED)
    with ExitStack() as stack:
        box = stack.enter_context(served())
        environ = stack.enter_context(mail_environment(database_url, redis_url, box))
        port, qstash_port = free_port(), free_port()
        kept = str(tmp_path / "qstash.db")

        def qstash() -> QStashStandIn:
            made = QStashStandIn(
                LOCAL_QSTASH_TOKEN, CURRENT_KEY, kept, gap_scale=0.02, seed=SEED, tick=0.1
            )
            made.fault(double=0.1)
            made.start(qstash_port)
            return made

        environ |= {"LEASE_SECONDS": "2", "CHECK_SECONDS": "1.5"}

        standin = qstash()
        environ |= qstash_environment(standin.url, f"http://127.0.0.1:{port}")
        made = fresh(database_url, environ, None)
        stack.callback(made.db.dispose)
        stack.enter_context(web(environ, port, tmp_path / "web.log"))
        stack.enter_context(relaying(made, 0.3))
        worker = stack.enter_context(rq_worker(environ, tmp_path / "worker.log"))
        stack.enter_context(rq_worker(environ, tmp_path / "worker-2.log"))
        box.answer("DATA", *answers(dice))
        on = Side("rq", made, environ)
        everybody = [f"m{n}@example.com" for n in range(MAILS)]
        for start in range(0, MAILS, 50):
            on.backend = dice.choice(["rq", "qstash"])
            minutes = [dice.uniform(0, SECONDS / 60) for _ in range(50)]
            mails = everybody[start : start + 50]
            on.dispatch_many("send-email", list(map(item, mails, minutes)))
        end, flips = time.monotonic() + SECONDS, 0
        while time.monotonic() < end or flips < 20:
            flags.configure(Fixed(dice.choice(["rq", "qstash"])))
            hand_over(
                made.store,
                dice.sample(open_runs(on), k=min(40, len(open_runs(on)))),
                dice.choice(["rq", "qstash"]),
            )
            flips += 1
            if flips == 10:
                worker.kill()
                stack.enter_context(rq_worker(environ, tmp_path / "worker-3.log"))
                standin.stop()
                standin = qstash()
            time.sleep(0.1)
        stack.callback(lambda: standin.stop())
        until_done(on)
        taken, said = received(box), on_record(on)
        assert set(said) == set(everybody)
        assert not [to for to in everybody if taken[to] > 1], "sent twice"
        assert not [to for to in everybody if said[to] == "sent" and taken[to] != 1], "lost"
        assert not [to for to in everybody if said[to] not in ("sent", "unknown")]
        unknown = sum(status == "unknown" for status in said.values())
        # Those of the mail server, and the few that the killed worker and the restart cut off.
        assert 1 <= unknown <= MAILS // 4


def answers(dice: random.Random) -> Iterator[str]:
    """Of every ten mails one has no answer: it was taken all the same."""
    for _ in range(UNANSWERED):
        place = dice.randrange(10)
        yield from (DROP if n == place else "250 taken" for n in range(10))


def open_runs(on: Side) -> list[str]:
    with on.made.db.autocommit() as connection:
        return list(connection.scalars(select(RunRow.id).where(RunRow.check_at.is_not(None))))


def until_done(on: Side) -> None:
    def left() -> list[Any]:
        return [on.row(run_id) for run_id in open_runs(on)[:3]]

    until(lambda: not open_runs(on), left, patience_seconds=180.0, every_seconds=0.5)

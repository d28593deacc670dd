"""Every job of the catalogue, handed over at every step boundary, in both directions.

The boundaries find themselves: whenever the run was claimed it is asked to the other side, and so
moves after its next step. A job that has no recipe here fails the test, so that a new one is tried.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import pytest
from sqlalchemy import select

import flags
from app.local.seed import fill
from app.platform import JOBS as PLATFORM_JOBS
from app.platform.gateways.storage import Storage
from app.platform.media.models import Media
from app.platform.webhooks.models import Received
from app.switchyard import crash, logs, maintenance
from app.switchyard.dispatch import dispatch
from app.switchyard.job import JobSpec
from app.switchyard.job import load as load_jobs
from app.switchyard.runs.handoff import hand_over
from app.switchyard.runs.models import HandoffRow, RunRow, StepRow, id_at
from queues.backend import connect
from tests.proof.test_payout_crashes import CREATORS, PAYABLE, SCENES, Scene
from tests.support.footage import photo
from tests.support.mailbox import Mailbox, served
from tests.support.receiver import Receiver, receiving
from tests.support.sides import decide_by
from tests.support.standins import StripeStandIn
from tests.support.world import World, memory_folder

JOBS = dict(load_jobs([*PLATFORM_JOBS, maintenance]))
VOLATILE = ("runId", "backend", "reconciled", "objectId")
"""Of a result: what two runs of the same intent need not have in common."""


class Stage:
    """All that a job may need around it, and what it did there."""

    def __init__(self, stack: ExitStack, redis_url: str, now: datetime) -> None:
        connect(redis_url).flushall()
        stand = stack.enter_context(StripeStandIn())
        self.box: Mailbox = stack.enter_context(served())
        self.crm: Receiver = stack.enter_context(receiving())
        self.folder = Path(mkdtemp(prefix="swy-stage-", dir=memory_folder()))
        stack.callback(rmtree, self.folder)
        self.storage = f"file://{self.folder / 'files'}"
        code = f"whsec_{base64.b64encode(bytes(32)).decode()}"
        self.world = World(
            self.folder,
            modules=",".join([*PLATFORM_JOBS, maintenance.__name__]),
            REDIS_URL=redis_url,
            STRIPE_API_BASE=stand.url,
            SMTP_URL=f"smtp://127.0.0.1:{self.box.port}",
            MAIL_FROM="hello@fanhouse.test",
            STORAGE_URL=self.storage,
            WEBHOOK_TARGETS=json.dumps({"crm": {"url": f"{self.crm.url}/in", "secret": code}}),
        )
        stack.callback(self.world.close)
        self.now = self.world.time.now = now
        self.yesterday = (now.date() - timedelta(days=1)).isoformat()
        self.world.create_tables()
        fill(self.world.runtime.db, stand.url, creators=CREATORS, payable=PAYABLE, now=self.now)
        self.scene = Scene(self.world.runtime, stand)
        self.payouts: dict[str, int] | None = None

    def effects(self) -> list[object]:
        """What the outside world has seen."""
        if self.payouts is not None:
            self.scene.check(self.payouts)
        media = self.world.runtime.db.rows(select(Media.document).order_by(Media.id))
        sent = Counter(str(mail["Subject"]) for mail in self.box.mails)
        got = [path for path, _, _ in self.crm.got]
        return [sent, got, media]


class OnSide(flags.Flags):
    """All on the side of one backend."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def decide(self, job: str, key: str) -> flags.Decision:
        backend = "rq" if self.backend == "rq" else JOBS[job].serverless
        return flags.Decision(backend, "STATIC", "live", 1)


Recipe = Callable[[Stage], dict[str, Any]]


def paying(job: str) -> Recipe:
    def recipe(stage: Stage) -> dict[str, Any]:
        payload, stage.payouts = SCENES[job](stage.scene)
        return payload

    return recipe


def media(stage: Stage) -> dict[str, Any]:
    Storage(stage.storage).put("up/a.jpg", photo(6), "image/jpeg")
    return {"mediaId": "m1", "source": "up/a.jpg"}


def webhook(stage: Stage) -> dict[str, Any]:
    words = {"id": "shop-1", "source": "shop", "event": "1", "sha256": "0" * 64}
    body = {"body": b"{}", "content_type": "application/json"}
    with stage.world.runtime.db.session() as tx:
        tx.add(Received(**words, **body, received_at=stage.now))
    return {"eventId": "shop-1", "target": "crm"}


def shadow(stage: Stage) -> dict[str, Any]:
    run = dispatch("process-payouts", {"payoutDate": stage.yesterday})
    return {"runId": run.id}


def ledger(stage: Stage) -> dict[str, Any]:
    old = stage.now - timedelta(days=400)
    times = dict.fromkeys(("created_at", "due_at", "ended_at"), old)
    words = dict.fromkeys(("job", "key", "backend", "reason", "stage"), "old")
    run = {"id": f"{id_at(old)}0", "status": "succeeded", "payload": "{}", "stage_version": 0}
    done = {"name": "s", "status": "done", "backend": "rq", "updated_at": old}
    with stage.world.runtime.db.session() as tx:
        tx.add(RunRow(**run, **times, **words))
        tx.flush()
        tx.add(StepRow(run_id=run["id"], **done))
    return {}


STEPPED_BACK = {"changeId": 1, "job": "canary", "from": "live", "to": "legacy", "why": "slow"}
MAIL = {"to": "ana@example.com", "template": "welcome", "data": {"name": "Ana"}}
RECIPES: dict[str, Recipe] = {
    **{job: paying(job) for job in SCENES},
    "deliver-webhook": webhook,
    "daily-earnings-rollup": lambda stage: {"targetDate": stage.yesterday},
    "monthly-earnings-rollup": lambda stage: {"targetDate": stage.yesterday},
    "warm-analytics-cache": lambda _: {},
    "send-email": lambda _: MAIL,
    "process-media": media,
    "relay-sweep": lambda _: {},
    "prune-ledger": ledger,
    "shadow-compare": shadow,
    "guardrail-alert": lambda _: STEPPED_BACK,
    "canary": lambda _: {"song": "la"},
}


@pytest.fixture
def stage(redis_url: str) -> Iterator[Callable[[], Stage]]:
    logging.disable(logging.CRITICAL)
    # One clock for all of a test's stages: midnight may come between two of them.
    now = datetime.now(UTC).replace(microsecond=0)
    with ExitStack() as stack:
        yield lambda: Stage(stack.enter_context(ExitStack()), redis_url, now)
    logging.disable(logging.NOTSET)


def perform(stage: Stage, spec: JobSpec, backend: str, *, moves: bool) -> tuple[Any, list[str]]:
    """The run at its end, and where to it moved, if it was asked to the other side as each of its
    slices began."""
    world = stage.world
    payload = RECIPES[spec.name](stage)
    decide_by(OnSide(backend))
    run = dispatch(spec.name, payload)

    def at(point: str) -> None:
        if point != "run.claimed" or logs.values()["run_id"] != run.id:
            return
        other = spec.serverless if world.row(run.id).backend == "rq" else "rq"
        handed = hand_over(world.runtime.store, [run.id], other)
        assert (handed.moved, handed.asked) == (0, 1)

    crash.hook = at if moves else None
    try:
        world.finish()
    finally:
        crash.hook = None
    moved = select(HandoffRow.to_backend).where(HandoffRow.run_id == run.id).order_by(HandoffRow.id)
    return world.row(run.id), [to for (to,) in world.runtime.db.rows(moved)]


def kept(result: str | None) -> Any:
    found = json.loads(result or "null")
    return (
        {k: v for k, v in found.items() if k not in VOLATILE} if isinstance(found, dict) else found
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", JOBS)
def test_handed_over_at_every_boundary_it_does_the_same_once(
    job: str, stage: Callable[[], Stage]
) -> None:
    spec = JOBS[job]
    assert job in RECIPES, f"{job} has no recipe: add one, so that its hand-over is tried"
    plain = stage()
    straight, _ = perform(plain, spec, "rq", moves=False)
    assert straight.status == "succeeded", straight.error
    steps = select(StepRow.name).where(StepRow.run_id == straight.id, StepRow.result.is_not(None))
    names = plain.world.runtime.db.rows(steps)
    expected = plain.effects()
    for start, other in (("rq", spec.serverless), (spec.serverless, "rq")):
        tried = stage()
        row, moved = perform(tried, spec, start, moves=True)
        assert row.status == "succeeded", row.error
        # One move at each boundary, this way and that; begun on the other side, the other way.
        assert len(moved) >= len(names) - 1
        assert moved == [other if n % 2 == 0 else start for n in range(len(moved))]
        assert kept(row.result) == kept(straight.result)
        assert tried.effects() == expected

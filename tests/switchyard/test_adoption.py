"""`flask switchyard adopt`: what it reads off a source tree and a Redis, and that it changes
nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import rq
from flask import Flask
from redis import Redis
from rq import SimpleWorker
from rq.job import Job

from app.switchyard.config import Settings
from app.switchyard.extension import Switchyard
from queues.backend import connect
from queues.callsites import Change, Sources
from tests.switchyard.test_inventory import everything

FILES = {
    "__init__.py": "",
    "tasks.py": """
from rq.decorators import job
from .extensions import rq, mail_queue

@job("mail", timeout=5)
def welcome(user_id: int): ...

@rq.job("slow", retry=Retry(max=2, interval=[10, 60]))
def rebuild(): ...

def pay(order_id: int, cents: int = 0): ...

def many(*args): ...
""",
    "more/__init__.py": "",
    "more/tasks.py": "def pay(order_id: int): ...\n",
    "extensions.py": """
from flask_rq2 import RQ
from rq import Queue
from rq_scheduler import Scheduler
from rq import cron, requeue_job
from rq.registry import FailedJobRegistry
from rq.command import send_stop_job_command
rq = RQ()
mail_queue = Queue("mail", default_timeout=5)
""",
    "views.py": """
import rq
from shop import tasks
from shop.extensions import mail_queue as mails
from .more.tasks import pay as pay_more
default = rq.Queue("money")

def view(queue):
    default.enqueue(tasks.pay, 1, retry=Retry(max=3), job_timeout=-1)
    mails.enqueue(tasks.welcome, 1)
    queue.enqueue(tasks.rebuild, job_timeout="2h", timeout=10**6)
    queue.enqueue_call(func="shop.tasks.many", args=(1,))
    queue.enqueue_in(soon, pay_more, 2)
    tasks.welcome.delay(3)
    cache.delay(4)
    queue.enqueue(unknown)
    queue.enqueue("not a path")
    rq.cancel_job(5)
""",
    "broken.py": "def (",
    "migrations/env.py": "from rq import Queue\n",
}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes a package that no other test has; returns its name."""
    name = f"shop_{uuid4().hex[:8]}"
    for path, text in FILES.items():
        file = tmp_path / "source" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("shop.", f"{name}.").replace("from shop ", f"from {name} "))
    (tmp_path / "source" / ".venv").mkdir()
    (tmp_path / "source" / ".venv" / "x.py").write_text("from rq import Queue\n")
    monkeypatch.syspath_prepend(tmp_path / "source")
    return name


@pytest.fixture
def host(redis_url: str, tmp_path: Path) -> Iterator[Flask]:
    app = Flask("host")
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'host.db'}", redis_url=redis_url)
    Switchyard(app, settings=settings)
    yield app
    app.extensions["switchyard"].db.dispose()


def report(host: Flask, folder: Path, *options: str) -> Any:
    command = ["switchyard", "adopt", "--source", str(folder), *options, "--json"]
    done = host.test_cli_runner().invoke(args=command)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_lines_to_change(shop: str, tmp_path: Path) -> None:
    found = Sources(tmp_path / "source")
    assert found.unreadable == [f"{shop}/broken.py"]
    wanted = [
        ("extensions.py", 2, "set RQ_QUEUE_CLASS = 'queues.Queue' in the app's config"),
        ("extensions.py", 3, "from queues import Queue"),
        ("extensions.py", 4, "it writes into Redis itself"),
        ("extensions.py", 5, "it writes into Redis itself"),
        ("extensions.py", 5, "Job.fetch(…) of queues.Job, and its method"),
        ("extensions.py", 6, "it has RQ's own jobs alone"),
        ("extensions.py", 7, "Job.fetch(…) of queues.Job, and its method"),
        ("tasks.py", 2, "from queues import job"),
        ("views.py", 6, "queues.Queue(…)"),
        ("views.py", 18, "Job.fetch(…) of queues.Job, and its method"),
    ]
    assert [(c.file, c.line) for c in found.changes] == [(f"{shop}/{f}", n) for f, n, _ in wanted]
    for change, (_, _, do) in zip(found.changes, wanted, strict=True):
        assert isinstance(change, Change)
        assert change.do.startswith(do)


def test_what_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "bytes.py").write_bytes(b"\xff")
    (tmp_path / "deep.py").write_text("TEXT = " + " + ".join(["'x'"] * 50_000))
    (tmp_path / "deeper.py").write_text("X = " + "-" * 100_000 + "1")
    (tmp_path / "chain.py").write_text(f"import rq\nx{'.y' * 900} = rq.Queue('a')")
    (tmp_path / "script.py").write_text("from . import here\nfrom ...far import there\n")
    (tmp_path / "tasks.py").write_text(
        "queue.enqueue('tasks.pay', retry=Retry({[]: 1}))\n"
        "queue.enqueue('tasks.pay', retry=Retry(2, interval=how_long()))\n"
        "queue.enqueue('tasks.ship', retry=Retry(interval=[1, soon], max=MOST))\n"
    )
    found = Sources(tmp_path)
    assert found.unreadable == ["bytes.py", "chain.py", "deep.py", "deeper.py", "gone.py"]
    assert {path: (task.attempts, task.gaps) for path, task in found.tasks.items()} == {
        "tasks.pay": (3, ()),
        "tasks.ship": (1, ()),
    }


def test_lines_to_paste(shop: str, tmp_path: Path) -> None:
    """The report needs no Redis for these lines."""
    app = Flask("alone")
    url = f"sqlite:///{tmp_path / 'host.db'}"
    Switchyard(app, settings=Settings(database_url=url, redis_url="redis://127.0.0.1:1"))
    found = report(app, tmp_path / "source")
    assert found["redis"]["reachable"] is False
    dashed = shop.replace("_", "-")
    tasks = {task["path"].removeprefix(f"{shop}."): task for task in found["tasks"]}
    assert {path: task["adopt"] for path, task in tasks.items()} == {
        "more.tasks.pay": f'adopt("{shop}.more.tasks.pay", name="more-tasks-pay", attempts=1)',
        "tasks.many": f'adopt("{shop}.tasks.many", attempts=1)',
        "tasks.pay": f'adopt("{shop}.tasks.pay", name="{dashed}-tasks-pay", queue="money",'
        " attempts=4, timeout=86400)",
        "tasks.rebuild": f'adopt("{shop}.tasks.rebuild", queue="slow", attempts=3, gaps=(10, 60),'
        " timeout=7200)",
        "tasks.welcome": f'adopt("{shop}.tasks.welcome", queue="mail", attempts=1, timeout=5)',
    }
    assert tasks["tasks.welcome"]["calls"] == [
        f"{shop}/tasks.py:5 @job",
        f"{shop}/views.py:10 enqueue",
        f"{shop}/views.py:14 delay",
    ]
    assert [path for path, task in tasks.items() if task["refused"]] == ["tasks.many"]
    assert "*args takes any number" in tasks["tasks.many"]["refused"]


def test_what_is_in_redis_and_what_is_missing(
    shop: str, tmp_path: Path, host: Flask, redis_url: str
) -> None:
    redis: Redis = connect(redis_url)
    redis.flushall()
    rq.Queue("mail", connection=redis).enqueue(f"{shop}.tasks.welcome", 1)
    ticking = Job.create(f"{shop}.tasks.tick", connection=redis)
    ticking.save()
    redis.zadd("rq:scheduler:scheduled_jobs", {ticking.id: 0})
    worker: Any = SimpleWorker(["mail"], connection=redis)
    worker.register_birth()
    before = everything(redis)
    found = report(host, tmp_path / "source", "--side", "qstash")
    assert everything(redis) == before
    (old,) = found["workers"]
    assert (old["queues"], old["serializer"]) == (["mail"], "pickle")
    assert old["start"] == "flask switchyard worker"
    asked = {setting["name"]: setting["do"] for setting in found["settings"]}
    assert asked["tables"] == "flask switchyard db upgrade"
    functions = f"{shop}.tasks.tick,{shop}.tasks.welcome"
    assert asked["LEGACY_FUNCTIONS"] == f"{functions}: 2 old jobs waiting"
    assert asked["LEGACY_QUEUES"] == "mail: they have no declared job"
    assert f'adopt("{shop}.tasks.tick", attempts=1)' in [t["adopt"] for t in found["tasks"]]
    assert {"LEGACY_PICKLE", "QSTASH_TOKEN", "USE_INNGEST"} < asked.keys()
    assert "INNGEST_EVENT_KEY" not in asked
    shown = host.test_cli_runner().invoke(
        args=["switchyard", "adopt", "--source", str(tmp_path / "source")]
    )
    assert (
        f'    adopt("{shop}.tasks.welcome", queue="mail", attempts=1, timeout=5),\n' in shown.stdout
    )


def test_what_is_set_is_not_missing(shop: str, tmp_path: Path, redis_url: str) -> None:
    redis: Redis = connect(redis_url)
    redis.flushall()
    for queue, function in (("mail", "welcome"), ("slow", "rebuild")):
        rq.Queue(queue, connection=redis).enqueue(f"{shop}.tasks.{function}", 1)
    app = Flask("set")
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'host.db'}",
        redis_url=redis_url,
        use_inngest=True,
        inngest_dev="http://127.0.0.1:8288",
        legacy_functions=f"{shop}.tasks.rebuild,{shop}.other.*",
        legacy_queues="slow",
        legacy_pickle=True,
    )
    Switchyard(app, settings=settings)
    found = report(app, tmp_path / "source")
    asked = {setting["name"]: setting["do"] for setting in found["settings"]}
    assert asked.keys() == {"tables", "ADMIN_TOKEN", "LEGACY_FUNCTIONS", "LEGACY_QUEUES"}
    assert asked["LEGACY_FUNCTIONS"] == f"{shop}.tasks.welcome: 1 old job waiting"
    assert asked["LEGACY_QUEUES"] == "mail: they have no declared job"

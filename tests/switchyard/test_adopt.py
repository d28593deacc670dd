"""adopt(): an existing function becomes a job, and the web process does not import it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from redis import Redis

import queues
from app.switchyard import SettingsError, Switchyard, adopt, dispatch
from app.switchyard.config import Settings
from app.switchyard.errors import PayloadInvalid
from app.switchyard.job import JobSpec, load
from app.switchyard.runs.memory import MemoryBackend
from queues.signature import Source
from tests.support import tasks
from tests.support.rq_since import since
from tests.support.tables import create_all

NOWHERE = Redis(port=1)
TASKS = '''
"""Tasks of a shop."""
from __future__ import annotations

import datetime as dt
from decimal import Decimal
from socket import socket
from typing import TYPE_CHECKING, Any, Callable

from .models import Customer, receipt

if TYPE_CHECKING:
    from nowhere_at_all import Session
    from uuid import UUID

LIMIT = 3
CALLS = []


class Cart:
    pass


def pay(order_id: int, amount: Decimal, *, when: dt.date = dt.date.min, ref: UUID = None, note=""):
    CALLS.append((order_id, amount, when, ref, note))
    return amount


def greet(customer: Customer, json: bool = False, _how: str = "loud"):
    CALLS.append((customer, json, _how))


def fill(cart: Cart): ...
def refill(n: int, cart: Cart | None = None, session: "Session" = None): return n
def connect(to: socket): ...
def dial(n: int, to: socket = None): ...
def call(back: Callable[[], None]): ...
def many(*args): ...
def any_of(**options): ...
def send_receipt(n: int = LIMIT, /): return n
'''
MODELS = """
from dataclasses import dataclass

@dataclass
class Customer:
    name: str

def receipt(): ...
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Writes a package that no other test has; returns its name."""
    name = f"shop_{uuid4().hex[:8]}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "tasks.py").write_text(TASKS)
    (tmp_path / name / "models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


class Web:
    """A web process's app with adopted jobs, and a queue in memory."""

    def __init__(self, folder: Path, jobs: list[JobSpec]) -> None:
        self.app = Flask("shop")
        settings = Settings(
            database_url=f"sqlite:///{folder / 'shop.db'}", redis_url="redis://127.0.0.1:1/0"
        )
        Switchyard(self.app, jobs=jobs, settings=settings)
        self.runtime = self.app.extensions["switchyard"]
        create_all(self.runtime.db.engine)
        self.memory = MemoryBackend("rq")
        self.runtime.store.backends["rq"] = self.memory

    def work(self) -> list[Any]:
        return [
            outcome.result or outcome.error for outcome in self.memory.work(self.runtime.engine)
        ]


def imported(shop: str) -> list[str]:
    return sorted(name for name in sys.modules if name.startswith(f"{shop}."))


def test_the_web_process_does_not_import_it(shop: str, tmp_path: Path) -> None:
    web = Web(tmp_path, [adopt(f"{shop}.tasks.pay"), adopt(f"{shop}.tasks.greet")])
    ref = uuid4()
    with web.app.app_context():
        queue = queues.Queue("q", connection=NOWHERE)
        first = queue.enqueue(f"{shop}.tasks.pay", 1, Decimal("1.50"))
        at = datetime(2020, 1, 1, tzinfo=UTC)
        queue.enqueue_at(at, f"{shop}.tasks.pay", 2, amount=3, when=date(2026, 1, 2), ref=ref)
        dispatch("pay", {"order_id": 4, "amount": "0.1", "ref": None, "note": [1]})
        queue.enqueue(f"{shop}.tasks.greet", {"name": "ada"}, json=True, _how="low")
        assert first.get_status() == "queued"
        with pytest.raises(PayloadInvalid, match="pay: order_id: Input should be a valid integer"):
            dispatch("pay", {"order_id": "one", "amount": 1})
        assert imported(shop) == []
        assert web.work() == ["1.50", "3", "0.1", None]
        assert first.return_value() == "1.50"
    module = sys.modules[f"{shop}.tasks"]
    calls = list(module.CALLS)
    assert calls == [
        (1, Decimal("1.50"), date.min, None, ""),
        (2, Decimal(3), date(2026, 1, 2), ref, ""),
        (4, Decimal("0.1"), date.min, None, [1]),
        (sys.modules[f"{shop}.models"].Customer("ada"), True, "low"),
    ]


def test_the_payload_has_the_parameters_as_they_are(shop: str) -> None:
    spec = adopt(f"{shop}.tasks.pay", queue="money", attempts=1)
    assert (spec.name, spec.event, spec.queue, spec.attempts) == ("pay", "task.pay", "money", 1)
    assert Path(spec.file).name == "tasks.py"
    schema = spec.payload.model_json_schema()
    assert list(schema["properties"]) == ["order_id", "amount", "when", "ref", "note"]
    assert schema["required"] == ["order_id", "amount"]
    spec = adopt(f"{shop}.tasks.greet")
    assert list(spec.payload.model_fields) == ["customer", "json_", "how_"]
    assert list(spec.payload.model_json_schema()["properties"]) == ["customer", "json", "_how"]
    assert imported(shop) == []


def test_a_function_is_adopted_as_its_path_is() -> None:
    spec, same = adopt(tasks.count_up), adopt("tests.support.tasks.count_up")
    assert (spec.name, spec.event) == (same.name, same.event) == ("count-up", "task.count-up")
    assert spec.legacy is not None
    assert spec.legacy.function == "tests.support.tasks.count_up"
    assert spec.payload.model_json_schema() == same.payload.model_json_schema()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("connect", "JSON has no form for parameter to: <class 'socket.socket'>"),
        ("dial", "JSON has no form for parameter to"),
        ("call", r"JSON has no form for parameter back: typing.Callable\[\[\], NoneType\]"),
        ("many", r"\*args takes any number of arguments, which have no names"),
        ("any_of", r"\*\*options takes any argument: name those that it expects"),
        ("receipt", r"tasks.receipt is defined as shop_\w+.models.receipt: adopt that"),
        ("pax", r"tasks defines no function 'pax' \(did you mean 'pay'\?\)"),
    ],
)
def test_what_cannot_be_a_job_is_refused_by_name(shop: str, function: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        adopt(f"{shop}.tasks.{function}")
    assert imported(shop) == []


@pytest.mark.parametrize(
    "source",
    [
        *(b"def pay(:", b"\xff", b"def pay(): return '\0'"),
        *(b"x = 1" + b" + 1" * 50_000, b"x = " + b"-" * 100_000 + b"1"),
    ],
)
def test_a_module_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: bytes
) -> None:
    name = f"odd_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_bytes(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=f"no source of a module '{name}'"):
        adopt(f"{name}.pay")


def test_parameters_of_nearly_one_name_are_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"odd_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(
        "def pay(_: int, _n: int, json: int, n_: int, json_: int): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = adopt(f"{name}.pay")
    given = {"_": 0, "_n": 1, "json": 2, "n_": 3, "json_": 4}
    assert spec.legacy is not None
    assert spec.legacy.payload is not None
    assert spec.legacy.payload(0, 1, 2, 3, 4) == given
    assert spec.parse(given).model_dump(by_alias=True) == given


def test_an_import_that_cannot_be_resolved_leaves_its_name_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"odd_{uuid4().hex[:8]}"
    tried = "try:\n    from ..models import Cart\nexcept ImportError:\n    Cart = int\n"
    (tmp_path / f"{name}.py").write_text(f"{tried}def pay(n: int, cart: Cart): return n\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(adopt(f"{name}.pay").payload.model_fields) == ["n", "cart"]
    namespace = vars(importlib.import_module(name))
    of_worker = Source(name).signature("pay", namespace)
    assert [each.annotation for each in of_worker.parameters.values()] == [int, int]


def test_its_folders_need_no_init(shop: str, tmp_path: Path) -> None:
    (tmp_path / shop / "more" / "deep").mkdir(parents=True)
    (tmp_path / shop / "more" / "deep" / "tasks.py").write_text("def pay(n: int): return n\n")
    assert list(adopt(f"{shop}.more.deep.tasks.pay").payload.model_fields) == ["n"]
    assert imported(shop) == []


@pytest.mark.parametrize("path", ["pay", "nowhere_at_all.tasks.pay", "os.path.nothing.join"])
def test_a_path_to_nothing_is_refused(path: str) -> None:
    with pytest.raises(SettingsError):
        adopt(path)


def test_a_function_that_no_worker_can_import_is_refused() -> None:
    def local() -> None:
        """No other module can import this."""

    with pytest.raises(SettingsError, match="adopt a function of a module"):
        adopt(local)


def test_a_type_that_only_its_own_module_has_is_looked_at_by_the_worker(
    shop: str, tmp_path: Path
) -> None:
    web = Web(tmp_path, [adopt(f"{shop}.tasks.fill", attempts=3)])
    with web.app.app_context():
        dispatch("fill", {"cart": {}})
        with pytest.raises(PayloadInvalid, match="fill: cart: Unable to serialize unknown type"):
            dispatch("fill", {"cart": SimpleNamespace()})
        (said,) = web.work()
    assert "JSON has no form for parameter cart" in said


def test_a_type_without_json_costs_only_the_calls_that_pass_it(shop: str, tmp_path: Path) -> None:
    web = Web(tmp_path, [adopt(f"{shop}.tasks.refill", attempts=1)])
    with web.app.app_context():
        dispatch("refill", {"n": 1})
        dispatch("refill", {"n": 2, "cart": None, "session": None})
        dispatch("refill", {"n": 3, "cart": {}})
        dispatch("refill", {"n": 4, "session": 5})
        *done, cart, session = web.work()
    assert done == [1, 2]
    assert "JSON has no form for parameter cart" in cart
    assert "the type of parameter session is not known" in session


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1, tzinfo=UTC), (1, 2), {1: 2}, {"a": {3}}, float("nan")]
)
def test_without_annotation_only_what_json_gives_back_as_it_was(shop: str, value: Any) -> None:
    spec = adopt(f"{shop}.tasks.pay")
    with pytest.raises(PayloadInvalid, match=r"note: JSON turns .* into .*: annotate it"):
        spec.parse({"order_id": 1, "amount": 1, "note": value})


@pytest.mark.parametrize("timeout", ["1h", -1, 0, float("inf"), None])
def test_a_timeout_as_rq_writes_it_is_refused(shop: str, timeout: Any) -> None:
    """No run of such a job could be sent."""
    with pytest.raises(SettingsError, match="is not a number of seconds"):
        load([adopt(f"{shop}.tasks.pay", timeout=timeout)])


def test_two_of_one_name_are_refused_with_both(shop: str, tmp_path: Path) -> None:
    folder = tmp_path / shop
    (folder / "mail.py").write_text("def pay(): ...")
    both = [adopt(f"{shop}.tasks.pay"), adopt(f"{shop}.mail.pay")]
    with pytest.raises(SettingsError, match=rf"{shop}.tasks.pay .* and {shop}.mail.pay .*name"):
        load(both)
    assert set(load([both[0], adopt(f"{shop}.mail.pay", name="pay-by-mail")])) == {
        "pay",
        "pay-by-mail",
    }


def test_a_context_that_its_module_pushes_stays_with_it(shop: str, tmp_path: Path) -> None:
    (tmp_path / shop / "old.py").write_text(
        "from flask import Flask, current_app\n"
        "Flask('other').app_context().push()\n"
        "def whose(): return current_app.name\n"
    )
    web = Web(tmp_path, [adopt(f"{shop}.old.whose")])
    with web.app.app_context():
        dispatch("whose")
        assert web.work() == ["shop"]


@since("2.1")
def test_a_returned_retry_is_no_success(shop: str, tmp_path: Path) -> None:
    """RQ tries a job again that returns a Retry."""
    (tmp_path / shop / "old.py").write_text(
        "import rq\ndef poll(): return rq.Retry(max=5, interval=[1, 2])\n"
    )
    web = Web(tmp_path, [adopt(f"{shop}.old.poll", attempts=2)])
    with web.app.app_context():
        dispatch("poll", {})
        (outcome,) = web.memory.work(web.runtime.engine)
    assert "AskedAgain: it returned Retry(max=5" in (outcome.error or "")
    assert outcome.due_at is not None


def test_a_decorated_one_is_adopted_as_it_is(shop: str, tmp_path: Path) -> None:
    (tmp_path / shop / "old.py").write_text(
        "import queues, redis\n"
        "@queues.job('q', connection=redis.Redis(port=1))\n"
        "def twice(n: int): return 2 * n\n"
    )
    web = Web(tmp_path, [adopt(f"{shop}.old.twice")])
    with web.app.app_context():
        twice: Any = importlib.import_module(f"{shop}.old").twice
        job = twice.delay(4)
        assert (web.work(), job.return_value(), twice(5)) == ([8], 8, 10)


def test_a_default_that_is_no_literal_is_the_functions_own(shop: str, tmp_path: Path) -> None:
    web = Web(tmp_path, [adopt(f"{shop}.tasks.send_receipt")])
    with web.app.app_context():
        dispatch("send-receipt")
        dispatch("send-receipt", {"n": 5})
        assert web.work() == [3, 5]

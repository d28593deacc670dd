"""The lines that a process logs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from io import StringIO

import pytest

from app.switchyard import logs


class Terminal(StringIO):
    """Standard error where a person looks at it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """The root logger, put back as it was."""
    own = logging.getLogger()
    before = own.handlers[:], own.level
    yield
    own.handlers[:], own.level = before


def written(stream: StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure()
    log = logging.getLogger("shop")
    with logs.bound(run_id="r1", job="pay"), logs.bound(step="charge"):
        try:
            raise ValueError("no such card")
        except ValueError:
            log.exception("not %s", "paid", extra={"job": "own", "cents": {5}})
    log.info("done")
    return stream.getvalue()


def test_a_line_is_one_json_object_with_the_run_it_belongs_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed, done = map(json.loads, written(StringIO(), monkeypatch).splitlines())
    assert failed.pop("exception").endswith("ValueError: no such card")
    assert failed.pop("timestamp").endswith("Z")
    assert failed == {
        "event": "not paid",
        "level": "error",
        "logger": "shop",
        "run_id": "r1",
        "job": "own",
        "step": "charge",
        "cents": "{5}",
    }
    assert done.keys() == {"event", "level", "logger", "timestamp"}


def test_on_a_terminal_it_is_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *trace, last = written(Terminal(), monkeypatch).splitlines()
    assert "error shop not paid" in first
    assert "run_id='r1'" in first
    assert trace[-1] == "ValueError: no such card"
    assert last.endswith("info shop done")


def test_what_is_bound_is_unbound_by_its_name() -> None:
    logs.bind(request_id="q", job="pay")
    logs.unbind("request_id")
    assert dict(logs.values()) == {"job": "pay"}
    logs.unbind("job")


def test_the_layers_own_lines_have_their_details_in_every_format() -> None:
    log, text, lines = logs.logger_of("switchyard.of.a.test"), StringIO(), StringIO()
    log.setLevel("INFO")
    log.propagate = False
    log.handlers[:] = [logging.StreamHandler(text), logging.StreamHandler(lines)]
    log.handlers[1].setFormatter(logs.Lines())
    log.info("%s stays", "5 %", extra={"function": "shop.pay", "reason": "100 %s"})
    log.info("done")
    assert text.getvalue() == "5 % stays function='shop.pay' reason='100 %s'\ndone\n"
    first, last = map(json.loads, lines.getvalue().splitlines())
    assert (first["event"], first["reason"]) == ("5 % stays", "100 %s")
    assert "_event" not in first
    assert last["event"] == "done"

"""decide(): every off switch wins, a ramp is sticky and monotone, an unreadable store changes
nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flags
from flags import Flags, StageRow, bucket, threshold
from tests.support.forks import in_a_fork

ON = {"USE_INNGEST": "true"}
keys = st.text(min_size=1, max_size=40)
percents = st.floats(min_value=0, max_value=100)


class Store:
    """A stage store of the test's own."""

    def __init__(self, *rows: StageRow) -> None:
        self.rows: Iterable[StageRow] = rows
        self.away = False
        self.reads = 0
        self.time = 100.0

    def load(self) -> Iterable[StageRow]:
        self.reads += 1
        if self.away:
            raise ConnectionError("away")
        return self.rows

    def flags(self, environ: dict[str, str] | None = None) -> Flags:
        return Flags(
            self.load,
            lambda job: "qstash" if job == "send-email" else "inngest",
            environ=ON if environ is None else environ,
            monotonic=lambda: self.time,
        )


def live(job: str = "a", version: int = 7) -> StageRow:
    return StageRow(job, "live", None, version)


def test_live_goes_to_the_job_s_serverless_side() -> None:
    store = Store(live("a"), live("send-email", 8))
    decide = store.flags().decide
    assert decide("a", "k") == ("inngest", "STATIC", "live", 7)
    assert decide("send-email", "k") == ("qstash", "STATIC", "live", 8)


@pytest.mark.parametrize("raw", [None, "", "false", "False", "maybe", "1", "yes"])
def test_the_master_switch_wins_unless_it_says_true(raw: str | None) -> None:
    environ = {} if raw is None else {"USE_INNGEST": raw}
    decision = Store(live()).flags(environ).decide("a", "k")
    assert decision == ("rq", "DISABLED", "live", 7)


def test_a_job_never_staged_is_legacy() -> None:
    assert Store().flags().decide("a", "k") == ("rq", "DEFAULT", "legacy", 0)


def test_the_store_is_read_at_most_once_a_second_and_then_again() -> None:
    store = Store(live())
    decide = store.flags().decide
    for _ in range(100):
        decide("a", "k")
    assert store.reads == 1
    store.rows = (StageRow("a", "legacy", None, 9),)
    store.time += 1.0
    assert decide("a", "k") == ("rq", "STATIC", "legacy", 9)
    assert store.reads == 2


def test_an_unreadable_store_leaves_the_last_known_answers_until_it_is_read_again() -> None:
    store = Store(live(), StageRow("b", "ramp", 0.0, 3, (("k", "serverless"),)))
    decide = store.flags().decide
    assert [decide(job, "k").backend for job in "ab"] == ["inngest", "inngest"]
    store.away = True
    store.time += 5
    assert decide("a", "k") == ("inngest", "STALE", "live", 7)
    assert decide("b", "k") == ("inngest", "STALE", "ramp", 3)
    assert decide("never-seen", "k").backend == "rq"
    store.away = False
    store.rows = (StageRow("a", "ramp", 0.0, 8), StageRow("b", "ramp", 0.0, 3))
    store.time += 5
    assert decide("a", "k") == ("rq", "SPLIT", "ramp", 8)
    assert decide("b", "k") == ("rq", "SPLIT", "ramp", 3)


def test_a_cold_start_without_the_store_is_legacy() -> None:
    store = Store(live())
    store.away = True
    assert store.flags().decide("a", "k") == ("rq", "ERROR", "legacy", 0)


def test_nonsense_in_the_store_is_not_taken() -> None:
    store = Store(live(), StageRow("b", "banana", None, 2), StageRow("c", "ramp", None, 3))
    decide = store.flags().decide
    assert decide("b", "k") == ("rq", "ERROR", "legacy", 2)
    assert decide("c", "k").backend == "rq"
    store.rows = (StageRow("a", "ramp", 130.0, 9),)
    store.time += 2
    assert decide("a", "k") == ("inngest", "STALE", "live", 7)


def test_a_fork_does_not_freeze_it() -> None:
    store = Store(live())
    made = store.flags()
    made.decide("a", "k")

    def later() -> str:
        store.rows = (StageRow("a", "legacy", None, 9),)
        store.time += 2
        return made.decide("a", "k").backend

    assert in_a_fork(later) == "rq"


def test_without_a_store_the_process_is_legacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "_at_work", lambda: None)
    assert flags.decide("a", "k") == ("rq", "ERROR", "legacy", 0)


@given(keys, keys, percents, percents)
def test_a_ramp_is_sticky_and_monotone(job: str, key: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    at_low = Store(StageRow(job, "ramp", low, 1)).flags().decide(job, key).backend
    again = Store(StageRow(job, "ramp", low, 2)).flags().decide(job, key).backend
    at_high = Store(StageRow(job, "ramp", high, 3)).flags().decide(job, key).backend
    assert at_low == again
    assert not (at_low != "rq" and at_high == "rq")


@given(keys, keys)
def test_the_ends_of_a_ramp_are_nobody_and_everybody(job: str, key: str) -> None:
    assert Store(StageRow(job, "ramp", 0.0, 1)).flags().decide(job, key).backend == "rq"
    assert Store(StageRow(job, "ramp", 100.0, 1)).flags().decide(job, key).backend != "rq"


@pytest.mark.parametrize(("percent", "least", "most"), [(0.1, 5, 45), (25, 4800, 5200)])
def test_a_ramp_takes_its_share(percent: float, least: int, most: int) -> None:
    limit = threshold(percent)
    assert least <= sum(bucket("job", f"key {n}") < limit for n in range(20_000)) <= most


# --- pins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "percent", "off", "on", "neither"),
    [
        ("legacy", None, "rq", "rq", "rq"),
        ("shadow", None, "rq", "rq", "rq"),
        ("ramp", 0.0, "rq", "inngest", "rq"),
        ("ramp", 100.0, "rq", "inngest", "inngest"),
        ("live", None, "rq", "inngest", "inngest"),
        ("complete", None, "inngest", "inngest", "inngest"),
    ],
)
def test_a_pin_wins_over_the_percent_and_no_off_switch(
    stage: str, percent: float | None, off: str, on: str, neither: str
) -> None:
    pins = (("off", "rq"), ("on", "serverless"))
    store = Store(StageRow("a", stage, percent, 3, pins))
    decide = store.flags().decide
    assert [decide("a", key).backend for key in ("off", "on", "neither")] == [off, on, neither]
    assert decide("other", "on").backend == "rq"
    if stage in ("ramp", "live"):
        assert decide("a", "off") == ("rq", "TARGETING_MATCH", stage, 3)
        assert decide("a", "on") == ("inngest", "TARGETING_MATCH", stage, 3)
    switched_off = store.flags({"USE_INNGEST": "false"}).decide
    assert {switched_off("a", key)[:2] for key in ("off", "on")} == {("rq", "DISABLED")}


def test_a_pin_to_a_side_that_is_none_is_an_off_switch() -> None:
    row = StageRow("a", "live", None, 3, (("k", "banana"),))
    assert Store(row).flags().decide("a", "k").backend == "rq"

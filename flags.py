"""decide(job, key) chooses the backend of a job. It is the only reader of USE_INNGEST.

Any off switch wins: USE_INNGEST is not true, the stage is not yet on the serverless side, or the
key is pinned to RQ. Each process reads a stage at most once in TTL_SECONDS, in the call that finds
it stale: there is no background thread that a fork could lose. While the store cannot be read the
last known answer serves: this process's own, or else a snapshot's. Without either, legacy does.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

TTL_SECONDS = 0.9
"""Every process must see a flip within one second. What is left of it is for the read itself."""
SWITCH = "USE_INNGEST"
OWN_SWITCH = f"SWITCHYARD_{SWITCH}"
"""The same switch for a host that uses the other name for something else. This one wins."""
LEGACY_BACKEND = "rq"
_FULL_SCALE = 1 << 64


class Stage(StrEnum):
    """How far a job is in its migration."""

    LEGACY = "legacy"
    SHADOW = "shadow"
    RAMP = "ramp"
    LIVE = "live"
    COMPLETE = "complete"


MOVING = (Stage.RAMP, Stage.LIVE)
"""The stages in which the serverless side works and the legacy side may have to take over again."""


class Side(StrEnum):
    """The side to which a key can be pinned."""

    RQ = "rq"
    SERVERLESS = "serverless"


class Reason(StrEnum):
    """Why a decision was made. The words are OpenFeature's where it has one."""

    DISABLED = "DISABLED"
    """USE_INNGEST is not true."""
    STATIC = "STATIC"
    """The stage alone decided."""
    SPLIT = "SPLIT"
    """The key's place in a ramp decided."""
    TARGETING_MATCH = "TARGETING_MATCH"
    """The key is pinned to a side."""
    DEFAULT = "DEFAULT"
    """No stage was ever set for this job, so it is legacy."""
    STALE = "STALE"
    """The stage store could not be read, and the last known answer served."""
    ERROR = "ERROR"
    """The stage store could not be read and nothing was known, so it is legacy."""
    PARENT = "PARENT"
    """A child run follows its parent. The flag was not read."""
    SHADOW = "SHADOW"
    """The run compares another run's plan with what it did. The flag was not read."""
    HANDED_OVER = "HANDED_OVER"
    """A drain or an operator moved the run. The flag was not read again."""
    CANARY = "CANARY"
    """`cutover verify` chose the side in order to test it. The flag was not read."""


class Decision(NamedTuple):
    """One answer, which is recorded once, in its run."""

    backend: str
    reason: str
    stage: str
    version: int


class StageRow(NamedTuple):
    """A job's stage as its store holds it. `version` grows with each change."""

    job: str
    stage: str
    percent: float | None
    version: int
    pins: Sequence[tuple[str, str]] = ()
    """Keys and the side to which each is pinned while the stage is ramp or live."""


class _Entry(NamedTuple):
    off: Decision
    on: Decision
    threshold: int
    """Keys whose bucket is below it are on. 0 is nobody, 2**64 everybody."""
    pinned: Mapping[str, Decision]


def switch(environ: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Where an app's master switch is set, in its config or the environment, and by which name."""
    for where in (config, environ):
        if where.get(OWN_SWITCH) not in (None, ""):
            return where, OWN_SWITCH
    return environ, SWITCH


def parse_use_inngest(raw: object) -> bool:
    """The master switch: `true` or `false`, or unset for false. Raises ValueError otherwise."""
    text = "" if raw is None else str(raw).strip().lower()
    if text in ("", "false"):
        return False
    if text == "true":
        return True
    raise ValueError("USE_INNGEST: must be true or false")


def bucket(job: str, key: str) -> int:
    """A key's fixed place in [0, 2**64), the same in every process: a ramp is sticky by key, and a
    higher percentage only adds keys."""
    return int.from_bytes(blake2b(f"{job}\0{key}".encode(), digest_size=8).digest())


def threshold(percent: float) -> int:
    """The bucket below which `percent` of all keys are."""
    return min(_FULL_SCALE, max(0, int(percent / 100 * _FULL_SCALE)))


class Flags:
    """The answers of one process. There is no lock: at worst two threads both read the store."""

    def __init__(
        self,
        load: Callable[[], Iterable[StageRow]],
        serverless_side: Callable[[str], str],
        *,
        snapshot: Callable[[], Iterable[StageRow]] = tuple,
        environ: Mapping[str, Any] = os.environ,
        config: Mapping[str, Any] = MappingProxyType({}),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self.serverless_side = serverless_side
        self._snapshot = snapshot
        self._switch_in, self._switch_name = switch(environ, config)
        self._monotonic = monotonic
        self._fresh_until = 0.0
        self._entries: dict[str, _Entry] | None = None
        self._known: dict[str, StageRow] = {}
        self._missing = Reason.ERROR
        self._switch: tuple[object, bool] = (None, False)

    def decide(self, job: str, key: str) -> Decision:
        """The backend for a new run of `job`. `key` places it in a ramp."""
        entries = self._entries
        if entries is None or self._monotonic() >= self._fresh_until:
            entries = self._refresh()
        entry = entries.get(job)
        if entry is None:
            entry = entries[job] = self._entry(StageRow(job, Stage.LEGACY, None, 0), self._missing)
        raw = self._switch_in.get(self._switch_name)
        if raw != self._switch[0]:
            self._switch = (raw, _is_on(raw))
        if not self._switch[1]:
            return entry.off._replace(reason=Reason.DISABLED.value)
        if entry.pinned and (pinned := entry.pinned.get(key)) is not None:
            return pinned
        if entry.threshold == 0:
            return entry.off
        if entry.threshold == _FULL_SCALE or bucket(job, key) < entry.threshold:
            return entry.on
        return entry.off

    def is_pinned(self, job: str, key: str) -> bool:
        """Whether a pin decides for this key, according to what this process last read."""
        entry = (self._entries or {}).get(job)
        return entry is not None and key in entry.pinned

    def _refresh(self) -> dict[str, _Entry]:
        self._fresh_until = self._monotonic() + TTL_SECONDS
        try:
            rows = {row.job: row for row in self._load()}
        except Exception as failure:  # noqa: BLE001 - a store's client may raise anything
            log.warning(
                "stage store unreadable (%s); last known stages serve", type(failure).__name__
            )
            if not self._known:
                self._known = {row.job: row for row in self._snapshot() if _sound(row)}
            reason = Reason.STALE
            self._missing = Reason.STALE if self._known else Reason.ERROR
            entries = {job: self._entry(row, reason) for job, row in self._known.items()}
        else:
            self._missing = Reason.DEFAULT
            entries = {}
            for job, row in rows.items():
                if _sound(row):
                    self._known[job] = row
                    split = row.stage == Stage.RAMP
                    entries[job] = self._entry(row, Reason.SPLIT if split else Reason.STATIC)
                elif job in self._known:
                    entries[job] = self._entry(self._known[job], Reason.STALE)
                else:
                    nothing = StageRow(job, Stage.LEGACY, None, row.version)
                    entries[job] = self._entry(nothing, Reason.ERROR)
        self._entries = entries
        return entries

    def _entry(self, row: StageRow, reason: Reason) -> _Entry:
        percent = {Stage.RAMP: row.percent or 0.0, Stage.LIVE: 100.0, Stage.COMPLETE: 100.0}
        limit = threshold(percent.get(Stage(row.stage), 0.0))
        off = Decision(LEGACY_BACKEND, reason.value, str(row.stage), row.version)
        on = off._replace(backend=self.serverless_side(row.job))
        if row.stage not in MOVING:
            return _Entry(off, on, limit, {})
        why = reason.value if reason is Reason.STALE else Reason.TARGETING_MATCH.value
        # A side that this code does not know is an off switch, as any nonsense is.
        pinned = {
            key: (on if side == Side.SERVERLESS else off)._replace(reason=why)
            for key, side in row.pins
        }
        return _Entry(off, on, limit, pinned)


def _sound(row: StageRow) -> bool:
    if row.stage not in Stage.__members__.values():
        return False
    if row.stage == Stage.RAMP:
        return row.percent is not None and 0 <= row.percent <= 100
    return True


def _nobody() -> Flags | None:
    return None


_at_work: Callable[[], Flags | None] = _nobody


def resolve(at_work: Callable[[], Flags | None]) -> None:
    """Make `decide` use the flags that `at_work` returns: each app in a process has its own."""
    global _at_work
    _at_work = at_work


def _is_on(raw: object) -> bool:
    try:
        return parse_use_inngest(raw)
    except ValueError as nonsense:
        log.error("%s; taking it for false", nonsense)
        return False


def decide(job: str, key: str) -> Decision:
    """The backend for a new run of `job` in the current app, with reason, stage and version.

    Legacy (reason ERROR) where the process has no stage store: an off switch wins.
    """
    flags = _at_work()
    if flags is None:
        return Decision(LEGACY_BACKEND, Reason.ERROR.value, Stage.LEGACY.value, 0)
    return flags.decide(job, key)

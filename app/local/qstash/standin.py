"""The stand-in put together: its clock, its deliveries, and what a bad day does to them."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import jwt
import requests
from croniter import croniter
from pydantic import Field

from app.local.qstash import params
from app.local.qstash.server import create_app
from app.local.qstash.store import COPY, DEAD, Store
from app.local.serving import LoopbackServer
from app.local.standin import Faults, StandIn

MAX_CALLS = 32
LONGEST_GAP_SECONDS = 86_400.0
TOKEN_SECONDS = 300


class QStashFaults(Faults):
    """Those of every service, and its deliveries'."""

    spread: float = Field(default=1.0, ge=0)  # seconds between those of a doubled one, at most
    late: float = Field(default=0.0, ge=0)  # each message up to so many seconds: out of order


class QStashStandIn(StandIn):
    """A server that speaks QStash's protocol on loopback. Starts once; what it knows is in `data`.

    `gap_scale` multiplies the gaps between attempts.
    """

    faults: QStashFaults = QStashFaults()

    def __init__(
        self,
        token: str,
        signing_key: str,
        data: str = ":memory:",
        gap_scale: float = 1.0,
        seed: int | None = None,
        clock: Callable[[], float] = time.time,
        tick: float = 0.02,
    ) -> None:
        super().__init__(seed)
        self.token = token
        self.clock = clock
        self.store = Store(data)
        self.signing_key = signing_key
        self._gap_scale = gap_scale
        self._tick = tick
        self._busy: dict[int, str | None] = {}
        """Deliveries under way, and their flow control keys."""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_CALLS)
        self._sessions = threading.local()
        self._server: LoopbackServer | None = None
        self._thread = threading.Thread(target=self._keep_time, daemon=True)

    def start(self, port: int = 0) -> str:
        """Serve on `port` (0 for a free one) and deliver; gives the URL."""
        self._server = LoopbackServer(create_app(self), port)
        self.url = self._server.start()
        self._thread.start()
        return self.url

    def stop(self) -> None:
        """End; what was under way is delivered again by whoever serves `data` next."""
        if self._server is not None:
            self._stopped.set()
            self._server.stop()
            self._thread.join()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self.store.close()

    def take(self, doc: dict[str, Any]) -> dict[str, Any]:
        """Accept a message: what a publish answers."""
        now = self.clock()
        known = self.store.duplicate(doc.get("deduplicationId"), now)
        if known is not None:
            return {"messageId": known, "deduplicated": True}
        doubled, lost = self.strikes("double"), self.strikes("swallow")
        at = doc["notBefore"] / 1000 + self.between(0, self.faults.late)
        again = at + self.between(0, self.faults.spread)
        message_id = self.store.add(doc, at, copy_at=again if doubled else None)
        if lost:
            self.store.cancel([message_id], now)
        return {"messageId": message_id}

    def plan(self, doc: dict[str, Any], after: float) -> None:
        """Keep a schedule, its next time the first one after `after`."""
        at = croniter(doc["cron"], datetime.fromtimestamp(after, UTC)).get_next(datetime)
        self.store.save_schedule(doc, at.timestamp())

    def _keep_time(self) -> None:
        while not self._stopped.wait(self._tick):
            now = self.clock()
            for schedule in self.store.schedules(due=now):
                self._fire(schedule, now)
            with self._lock:
                busy = dict(self._busy)
            flows = Counter(busy.values())
            for row in self.store.due(now) if len(busy) < MAX_CALLS else ():
                seq, queue, flow = row["seq"], row["queue"], row["flow"]
                if seq in busy or (queue is not None and self.store.first_in(queue) != seq):
                    continue
                doc = json.loads(row["doc"])
                if flow is not None and flows[flow] >= doc["parallelism"]:
                    continue
                busy[seq] = flow
                flows[flow] += 1
                with self._lock:
                    self._busy[seq] = flow
                self._pool.submit(self._deliver, seq, row["state"], doc)
                if len(busy) >= MAX_CALLS:
                    break

    def _fire(self, schedule: dict[str, Any], now: float) -> None:
        del schedule["nextScheduleTime"]
        if not schedule["isPaused"]:
            at = int(now * 1000)
            template = {**schedule["message"], "createdAt": at, "notBefore": at}
            made = self.take({**template, "scheduleId": schedule["scheduleId"]})
            states = {made["messageId"]: "IN_PROGRESS"}
            schedule |= {"lastScheduleTime": at, "lastScheduleStates": states}
        self.plan(schedule, now)

    def _deliver(self, seq: int, state: str, doc: dict[str, Any]) -> None:
        try:
            status, headers, body = self._call(doc)
            if self._stopped.is_set():
                return  # its outcome is lost with this process, as in a crash
            if state == COPY:
                self.store.remove(seq)
            else:
                self._settle(seq, doc, status, headers, body)
        finally:
            with self._lock:
                self._busy.pop(seq, None)

    def _call(self, doc: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        body = base64.b64decode(doc["body64"])
        headers = {name: ", ".join(values) for name, values in doc["header"].items()}
        headers |= {
            "User-Agent": "Upstash-QStash",
            "Upstash-Signature": self.sign(doc["url"], body),
            "Upstash-Message-Id": doc["messageId"],
            "Upstash-Retried": str(doc["retried"]),
            "Upstash-Caller-Ip": doc["callerIP"],
        }
        if doc.get("scheduleId"):
            headers["Upstash-Schedule-Id"] = doc["scheduleId"]
        if not hasattr(self._sessions, "http"):
            self._sessions.http = requests.Session()
            self._sessions.http.trust_env = False
        try:
            answer: requests.Response = self._sessions.http.request(
                *(doc["method"], doc["url"]),
                data=body,
                headers=headers,
                timeout=(5, doc["timeout"]),
                allow_redirects=False,
            )
        except requests.RequestException as failure:
            return 0, {}, type(failure).__name__.encode()
        return answer.status_code, dict(answer.headers), answer.content

    def sign(self, url: str, body: bytes, **claims: Any) -> str:
        """The signature of a delivery; `claims` stand in for its own."""
        now = int(self.clock())
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).decode().rstrip("=")
        own = {"iss": "Upstash", "sub": url, "exp": now + TOKEN_SECONDS, "nbf": now, "iat": now}
        own |= {"jti": f"jwt_{uuid.uuid4().hex}", "body": digest}
        return jwt.encode({**own, **claims}, self.signing_key, algorithm="HS256")

    def _settle(
        self, seq: int, doc: dict[str, Any], status: int, headers: dict[str, str], body: bytes
    ) -> None:
        now, lower = self.clock(), {name.lower(): value for name, value in headers.items()}
        never = status == 489 and lower.get("upstash-nonretryable-error") == "true"
        answer = {
            "responseStatus": status,
            "responseHeader": {name: [value] for name, value in headers.items()},
            "responseBody": body.decode(errors="replace"),
        }
        if doc.get("callback"):
            self._call_back("callback", doc, answer)
        if 200 <= status < 300:
            self.store.remove(seq)
            self.store.event("DELIVERED", doc, now)
        elif not never and doc["retried"] < doc["maxRetries"]:
            doc["retried"] += 1
            gap = min(LONGEST_GAP_SECONDS, math.exp(2.5 * doc["retried"])) * self._gap_scale
            at = now + _retry_after(lower.get("retry-after", ""), now, gap)
            self.store.move(seq, doc, at)
            self.store.event("RETRY", doc, now, responseStatus=status)
        else:
            dead = {**doc, **answer, "dlqId": f"{int(now * 1000)}-{seq}"}
            self.store.move(seq, dead, now, DEAD)
            self.store.event("FAILED", doc, now, responseStatus=status)
            if doc.get("failureCallback"):
                self._call_back("failureCallback", dead, answer)

    def _call_back(self, which: str, doc: dict[str, Any], answer: dict[str, Any]) -> None:
        """Publish the callback, worded as the service words it."""
        source = {
            "status": answer["responseStatus"],
            "header": answer["responseHeader"],
            "body": base64.b64encode(answer["responseBody"].encode()).decode(),
            "sourceMessageId": doc["messageId"],
            "sourceHeader": doc["header"],
            "sourceBody": doc["body64"],
        }
        names = ("retried", "maxRetries", "dlqId", "url", "method", "scheduleId", "callerIP")
        same = {n: doc[n] for n in (*names, "createdAt", "notBefore") if doc.get(n) is not None}
        body = json.dumps({**same, **source}).encode()
        headers = {"Content-Type": "application/json", "Upstash-Retries": str(doc["maxRetries"])}
        made = params.message(doc[which], headers, body, self.clock())
        self.take({**made, "header": {**made["header"], **doc[f"{which}Header"]}})


def _retry_after(said: str, now: float, gap: float) -> float:
    """Seconds until the next attempt, as the answer asks, or else the usual gap."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", said):
        wait = float(said)
    elif re.fullmatch(r"(\d{1,9}[smhd])+", said):
        wait = float(params.seconds(said))
    else:
        try:
            wait = parsedate_to_datetime(said).timestamp() - now
        except ValueError:
            return gap
    return wait if 0 <= wait <= LONGEST_GAP_SECONDS else gap

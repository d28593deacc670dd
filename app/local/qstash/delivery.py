"""Deliveries: signed, one at a time for each message, retried, and finally given up."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from app.local.qstash import params
from app.local.qstash.store import Store

MAX_CALLS = 32
LONGEST_GAP_SECONDS = 86_400.0
NEVER = 489


class Courier:
    """Calls the destinations of messages that are due. `sign` gives a delivery's signature."""

    def __init__(self, store: Store, sign: Callable[[str, bytes], str], gap_scale: float) -> None:
        self._store = store
        self._sign = sign
        self._gap_scale = gap_scale
        self._busy: dict[int, str | None] = {}
        """Deliveries under way, and their flow control keys."""
        self._pool = ThreadPoolExecutor(MAX_CALLS)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy is asked for what stays on this machine
        self._session.mount("http://", HTTPAdapter(pool_maxsize=MAX_CALLS))
        self._closed = False

    def close(self) -> None:
        """Wait for deliveries under way. Their outcomes are lost, as in a crash."""
        self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def send_due(self, now: float) -> None:
        """Begin the deliveries that are due, as far as flow control allows."""
        busy = dict(self._busy)
        flows = Counter(busy.values())
        for seq, doc in self._store.due(now):
            if len(busy) >= MAX_CALLS:
                return
            flow = doc.get("flowControlKey")
            if seq in busy or (flow is not None and flows[flow] >= doc["parallelism"]):
                continue
            busy[seq] = self._busy[seq] = flow
            flows[flow] += 1
            self._pool.submit(self._deliver, seq, doc)

    def _deliver(self, seq: int, doc: dict[str, Any]) -> None:
        try:
            answer = self._call(doc)
            if not self._closed:
                self._settle(seq, doc, answer)
        finally:
            del self._busy[seq]

    def _call(self, doc: dict[str, Any]) -> requests.Response:
        """The destination's answer, or one with status 0 where there is none."""
        body = base64.b64decode(doc["body64"])
        headers = {name: ", ".join(values) for name, values in doc["header"].items()}
        headers |= {
            "User-Agent": "Upstash-QStash",
            "Upstash-Signature": self._sign(doc["url"], body),
            "Upstash-Message-Id": doc["messageId"],
            "Upstash-Retried": str(doc["retried"]),
        }
        if "scheduleId" in doc:
            headers["Upstash-Schedule-Id"] = doc["scheduleId"]
        try:
            return self._session.request(
                *(doc["method"], doc["url"]),
                data=body,
                headers=headers,
                timeout=(5, doc["timeout"]),
                allow_redirects=False,
            )
        except requests.RequestException as failure:
            answer = requests.Response()
            answer.status_code, answer._content = 0, type(failure).__name__.encode()
            return answer

    def _settle(self, seq: int, doc: dict[str, Any], answer: requests.Response) -> None:
        now, status = self._store.clock(), answer.status_code
        never = status == NEVER and answer.headers.get("Upstash-NonRetryable-Error") == "true"
        if 200 <= status < 300:
            self._store.remove(seq)
        elif not never and doc["retried"] < doc["maxRetries"]:
            doc["retried"] += 1
            gap = min(LONGEST_GAP_SECONDS, math.exp(2.5 * doc["retried"])) * self._gap_scale
            asked = answer.headers.get("Retry-After", "")
            if re.fullmatch(r"\d{1,9}", asked) and int(asked) <= LONGEST_GAP_SECONDS:
                gap = int(asked)
            self._store.move(seq, doc, now + gap)
        else:
            dead = doc | {
                "responseStatus": status,
                "responseHeader": {name: [value] for name, value in answer.headers.items()},
                "responseBody": answer.content.decode(errors="replace"),
                "dlqId": f"{int(now * 1000)}-{seq}",
            }
            self._store.move(seq, dead, now, dead=True)
            if "failureCallback" in doc:
                self._report(dead, answer.content)

    def _report(self, dead: dict[str, Any], answered: bytes) -> None:
        """Publish the failure callback in the service's form."""
        names = ("retried", "maxRetries", "dlqId", "url", "method", "createdAt", "notBefore")
        report = {name: dead[name] for name in names} | {
            "status": dead["responseStatus"],
            "header": dead["responseHeader"],
            "body": base64.b64encode(answered).decode(),
            "sourceMessageId": dead["messageId"],
            "sourceHeader": dead["header"],
            "sourceBody": dead["body64"],
        }
        headers = {"Content-Type": "application/json", "Upstash-Retries": str(dead["maxRetries"])}
        url, raw = dead["failureCallback"], json.dumps(report).encode()
        self._store.accept(params.message(url, headers, raw, self._store.clock()))

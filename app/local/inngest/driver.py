"""The threads: one that lets time pass, and as many as there are calls in flight."""

import queue
import threading
from collections.abc import Callable

import requests

from app.local.inngest import codec, wire
from app.local.inngest.engine import Engine
from app.local.inngest.runs import Call

MAX_WORKERS = 256
CONNECT_SECONDS = 5.0
JOIN_SECONDS = 1.0


class Driver:
    """Makes the calls that fall due. Every `tick` seconds it looks, as the real queue does."""

    def __init__(
        self,
        engine: Engine,
        lock: threading.RLock,
        clock: Callable[[], float],
        tick: float,
        call_timeout: float,
        signing_key: str | None,
    ) -> None:
        self._engine, self._lock, self._clock = engine, lock, clock
        self._tick, self._call_timeout, self._signing_key = tick, call_timeout, signing_key
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._waiting = threading.Semaphore(0)
        # Daemons, so that a call to a hung app cannot hold up the end of the process.
        self._threads = [threading.Thread(target=self._keep_time, daemon=True)]

    def start(self) -> None:
        """Begin; once only."""
        self._threads[0].start()

    def stop(self) -> None:
        """Make no more calls; answers still to come are thrown away."""
        self._stopped.set()
        # First the one that starts the others, so that none is left out.
        self._threads[0].join(JOIN_SECONDS)
        workers = self._threads[1:]
        for _ in workers:
            self._calls.put(None)
        for worker in workers:
            worker.join(JOIN_SECONDS / len(workers))

    def _keep_time(self) -> None:
        while not self._stopped.wait(self._tick):
            with self._lock:
                due = self._engine.take_due(self._clock())
            for call in due:
                self._calls.put(call)
                # An idle worker takes it; without one there must be one more.
                if not self._waiting.acquire(blocking=False) and len(self._threads) < MAX_WORKERS:
                    self._threads.append(threading.Thread(target=self._work, daemon=True))
                    self._threads[-1].start()

    def _work(self) -> None:
        with requests.Session() as session:
            # A proxy from the environment must not see loopback calls.
            session.trust_env = False
            while (call := self._calls.get()) is not None and not self._stopped.is_set():
                answer = self._make(call, session)
                with self._lock:
                    if not self._stopped.is_set():
                        self._engine.answer(call, answer, self._clock())
                self._waiting.release()

    def _make(self, call: Call, session: requests.Session) -> wire.Answer:
        body = wire.encode(call.body)
        headers = dict(call.headers)
        if self._signing_key is not None:
            headers["x-inngest-signature"] = codec.sign(body, self._signing_key, self._clock())
        try:
            reply = session.post(
                call.url,
                data=body,
                headers=headers,
                timeout=(CONNECT_SECONDS, self._call_timeout),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            return wire.failure(f"Unable to reach SDK URL: {error}")
        if self._signing_key is not None and reply.ok:
            signature = reply.headers.get("x-inngest-signature", "")
            if not codec.verify(reply.content, signature, self._signing_key):
                return wire.failure("the answer's signature is wrong")
        return wire.read_answer(reply.status_code, reply.headers, reply.content)

"""FLAG_PROVIDER: another OpenFeature provider decides instead of the stages."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any

from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import FlagEvaluationDetails
from openfeature.flag_evaluation import Reason as Word
from openfeature.provider import FeatureProvider

from app.switchyard.errors import SettingsError
from app.switchyard.logs import logger_of
from app.switchyard.text import reason
from app.switchyard.threads import in_thread
from flags import LEGACY_BACKEND, MOVING, Decision, Flags, Reason

log = logger_of(__name__)

TIMEOUT_SECONDS = 0.25
"""How long a dispatch waits for the provider's answer."""
PAUSE_SECONDS = 5.0
"""How long a provider that was too slow is left alone."""
MOST_ASKING = 8
"""How many threads may wait for a provider at once, so that one that hangs costs only these."""
REMEMBERED = 10_000
_WORDS = frozenset(Word) - {Word.ERROR}


def factory(named: str) -> Callable[[int], FeatureProvider]:
    """Returns a function that makes FLAG_PROVIDER's provider, one for each process id.

    Raises SettingsError where it cannot be made or is not an OpenFeature provider.
    """
    try:
        found = resolve_name(named)
        make = cache(lambda _pid: found())
        provider = make(os.getpid())
    except Exception as failure:
        raise SettingsError(f"FLAG_PROVIDER: {named}: {failure}") from failure
    if not callable(getattr(provider, "resolve_boolean_details", None)):
        raise SettingsError(f"FLAG_PROVIDER: {named} does not make an OpenFeature provider")
    return make


class Provided(Flags):
    """Another provider's boolean flag with the job's name decides: true is the serverless side.

    It is evaluated only where the job's stage is ramp or live, or was never set. Every off switch
    (USE_INNGEST, stage legacy or shadow, a pin) still works, and complete stays complete. Where the
    provider raises, is slow or answers nonsense, its last answer for the key serves (STALE), or
    else legacy (ERROR).
    """

    def __init__(self, *args: Any, make: Callable[[int], FeatureProvider], **options: Any) -> None:
        super().__init__(*args, **options)
        self._make = make
        self._last: dict[tuple[str, str], str] = {}
        self._unbound()
        # A forked child does not have the provider's threads.
        os.register_at_fork(after_in_child=self._unbound)

    def _unbound(self) -> None:
        self._client: OpenFeatureClient | None = None
        self._binding = threading.Lock()
        self._asking = threading.BoundedSemaphore(MOST_ASKING)
        self._paused_until = 0.0

    def decide(self, job: str, key: str) -> Decision:
        """See Flags.decide."""
        own = super().decide(job, key)
        if own.reason == Reason.DISABLED or self.is_pinned(job, key):
            return own
        if own.stage not in MOVING and own.reason != Reason.DEFAULT:
            return own
        answer = self._answer(job, key, own)
        if answer is None:
            last = self._last.get((job, key))
            if last is None:
                return own._replace(backend=LEGACY_BACKEND, reason=Reason.ERROR.value)
            return own._replace(backend=last, reason=Reason.STALE.value)
        backend = self.serverless_side(job) if answer.value else LEGACY_BACKEND
        if len(self._last) >= REMEMBERED:
            self._last.clear()
        self._last[job, key] = backend
        word = answer.reason if answer.reason in _WORDS else Word.UNKNOWN
        return own._replace(backend=backend, reason=str(word))

    def _answer(self, job: str, key: str, own: Decision) -> FlagEvaluationDetails[bool] | None:
        asking = self._asking
        if time.monotonic() < self._paused_until or not asking.acquire(blocking=False):
            return None
        context = EvaluationContext(key, {"job": job, "stage": own.stage})
        asked = in_thread(lambda: self._bound().get_boolean_details(job, False, context))
        asked.add_done_callback(lambda _asked: asking.release())
        try:
            answer = asked.result(TIMEOUT_SECONDS)
        except TimeoutError:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            why = f"no answer within {TIMEOUT_SECONDS:g} s"
        except RuntimeError as no_thread:
            why = reason(no_thread)
        else:
            if answer.error_code is None and isinstance(answer.value, bool):
                return answer
            why = f"{answer.error_code}: {answer.error_message}"
        log.warning("flag provider gave no answer", extra={"job": job, "reason": why})
        return None

    def _bound(self) -> OpenFeatureClient:
        with self._binding:
            if self._client is None:
                # A domain of its own, so that a team's other flags keep their provider.
                domain = f"switchyard-{os.getpid()}"
                try:
                    api.set_provider_and_wait(self._make(os.getpid()), domain)
                except Exception:
                    # It may become ready later, as its status then says.
                    log.exception("flag provider is not ready")
                self._client = api.get_client(domain)
            return self._client

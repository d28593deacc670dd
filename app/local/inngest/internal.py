"""The events the server makes itself, in the shapes recorded."""

from typing import Any

from app.local.inngest.events import Event, make_event
from app.local.inngest.functions import FAILED_EVENT
from app.local.inngest.ids import Ids, iso
from app.local.inngest.runs import Run


def scheduled(cron: str, at: float, ids: Ids) -> Event:
    """A cron's tick; `at` is the scheduled time in Unix seconds."""
    moment = iso(at, "seconds")
    data = {"cron": cron, "fireAt": moment, "scheduledAt": moment}
    return make_event("inngest/scheduled.timer", data, ids.ulid(at), at, id=moment)


def failed(run: Run, error: dict[str, Any], now: float, ids: Ids) -> Event:
    """What `on_failure` functions get; its id is the failed run's."""
    name = error.get("name", "Error")
    data = {
        "_inngest": {"status": "Failed"},
        "error": {
            "error": name,
            "message": error.get("message", ""),
            "name": name,
            "stack": error.get("stack") or "",
        },
        "event": {**run.event.body, "user": {}},
        "events": [run.event.body],
        "function_id": run.function.id,
        "result": error,
        "run_id": run.id,
    }
    return make_event(FAILED_EVENT, data, ids.ulid(now), now, id=run.id)


def invoked(run: Run, op: dict[str, Any], expire: float, now: float, ids: Ids) -> Event:
    """What an invoked function gets; the trace ids lead nowhere."""
    opts, trace, span = op["opts"], f"00-{ids.hex(32)}", ids.hex(16)
    payload = opts.get("payload") or {}
    meta = {
        "correlation_id": f"{run.id}.{op['id']}",
        "expire": int(expire * 1000),
        "fn_id": opts["function_id"],
        "gid": ids.uuid(),
        "isr": {
            "dsid": span,
            "dstp": f"{trace}-{ids.hex(16)}-00",
            "tp": f"{trace}-{span}-01",
            "ts": "",
        },
        "name": op.get("displayName"),
        "source_app_id": run.function.app_id,
        "source_fn_id": run.function.uuid,
        "source_fn_v": 1,
        "tc": {
            "ctx": {"sid": span, "traceparent": f"{trace}-{span}-01"},
            "ts": iso(now, "microseconds"),
        },
    }
    data = {**(payload.get("data") or {}), "_inngest": meta}
    more = {"v": payload["v"]} if payload.get("v") else {}
    return make_event("inngest/function.invoked", data, ids.ulid(now), now, **more)

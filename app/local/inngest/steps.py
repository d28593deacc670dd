"""What each step that the SDK reports makes the engine do."""

import logging
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from app.local.inngest import expressions, internal, wire
from app.local.inngest.functions import seconds
from app.local.inngest.runs import Item, Run, RunStatus

if TYPE_CHECKING:
    from app.local.inngest.engine import Engine

log = logging.getLogger(__name__)

INVOKE_SECONDS = 365 * 24 * 3600
# The real server's cap on one run.
MAX_STEPS = 1000


def apply(
    engine: "Engine", item: Item, ops: list[dict[str, Any]], no_retry: bool, now: float
) -> None:
    """Take the steps of one answer, then go on with the run unless something is still pending."""
    run = item.run
    retried = False
    try:
        for op in ops:
            if op["op"] == "StepError" and engine.retry(item, no_retry, None, now):
                retried = True
            else:
                _take(engine, run, op, now)
        if len(run.steps) > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps")
    except ValueError as error:
        log.warning("run %s of %s refused: %s", run.id, run.function.id, error)
        engine.end(run, RunStatus.FAILED, wire.failure(str(error)).error, now)
    if not retried:
        engine.advance(run, now)


def _take(engine: "Engine", run: Run, op: dict[str, Any], now: float) -> None:
    step_id, opts = op["id"], op.get("opts") or {}
    if opts.get("parallelMode") == "race":
        raise ValueError("the stand-in does not do parallel mode 'race'")
    if op["op"] == "StepRun":
        engine.memoise(run, step_id, {"data": op.get("data")})
        return
    if op["op"] in ("StepError", "StepFailed"):
        engine.memoise(run, step_id, {"error": op["error"]})
        return
    if step_id in run.pending:
        raise ValueError("two steps have the same id")
    run.pending.add(step_id)
    match op["op"]:
        case "StepPlanned":
            engine.enqueue(Item(run, engine.ids.job(), step_id), now)
        case "Sleep":
            until = wire.instant(datetime.fromisoformat(str(op["name"])))
            engine.at(until, partial(engine.resume, run, step_id, None))
        case "WaitForEvent":
            condition = expressions.parse(str(opts["if"])) if opts.get("if") else None
            timeout = now + seconds(str(opts.get("timeout")))
            engine.wait(str(op["name"]), (run, step_id, condition), timeout)
        case _:
            _invoke(engine, run, op, opts, now)


def _invoke(
    engine: "Engine", run: Run, op: dict[str, Any], opts: dict[str, Any], now: float
) -> None:
    step_id, function_id = op["id"], str(opts.get("function_id"))
    function = engine.functions.get(function_id)
    if function is None:
        error = wire.failure(f"could not find function with ID: {function_id}").error
        engine.memoise(run, step_id, {"error": error})
        return
    timeout = opts.get("timeout")
    expire = now + (INVOKE_SECONDS if timeout is None else seconds(str(timeout)))
    event = internal.invoked(run, op, expire, now, engine.ids)
    engine.start(function, event, now, parent=(run, step_id))
    late = wire.failure("Timed out waiting for invoked function to complete").error
    late["name"] = "InngestInvokeTimeoutError"
    engine.at(expire, partial(engine.resume, run, step_id, {"error": late}))

"""adopt(): makes a job of a function that RQ runs, without changing the function."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from dataclasses import replace
from functools import cache
from inspect import Parameter, Signature, isawaitable
from typing import Annotated, Any, Optional

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.errors import PydanticUserError
from pydantic_core import to_jsonable_python
from sqlalchemy.orm import Session

from app.switchyard.context import Context
from app.switchyard.errors import NonRetriable, SettingsError, SwitchyardError
from app.switchyard.job import DECLARED, JobPayload, JobSpec, Legacy, job, relative_path
from app.switchyard.logs import logger_of
from app.switchyard.runs.engine import current_run
from queues.dispatched import DispatchedJob
from queues.signature import UNKNOWN, Source
from queues.versions import asks_again, at_work

log = logger_of(__name__)

_SHOWN = 60
_REFUSED = {
    Parameter.VAR_POSITIONAL: "*{} takes any number of arguments, which have no names",
    Parameter.VAR_KEYWORD: "**{} takes any argument: name those that it expects",
}


class AskedAgain(SwitchyardError):
    """The function returned RQ's Retry. It is tried again by the job's own `attempts` and `gaps`,
    and fails where they allow no other attempt."""


class Arguments(JobPayload):
    """The payload of an adopted function: its arguments by name. A parameter whose name pydantic
    reserves (`json`, `copy`, `_x`) becomes the field `json_`, `copy_` or `x_`.
    """

    model_config = ConfigDict(alias_generator=None, protected_namespaces=())


def adopt(
    function: str | Callable[..., Any],
    *,
    name: str | None = None,
    event: str | None = None,
    **options: Any,
) -> JobSpec:
    """Declare a job that calls an existing function and replaces it at old call sites.

    `function` is the function or its dotted path, as RQ writes it. The job gets the function's
    name with dashes (`shop.tasks.send_receipt`: `send-receipt`), and its event is
    `task.send-receipt`. If two functions share a name, one needs a `name` of its own. `options`
    are those of `@job`, with the same defaults: an exception is retried, and `attempts=1` is what
    RQ does without `Retry`.

    The parameters are read from the module's source, which is not imported, so a web process can
    enqueue and dispatch without it. `*args` and `**kwargs` are refused. Values whose annotations
    are types of the standard library are checked at dispatch. Classes that the module defines or
    imports are known only where the function is called; until then a value is what pydantic turns
    into JSON. A parameter without an annotation takes what survives JSON unchanged: annotate one
    to pass a datetime. A default of None makes an annotation optional.

    The body is a single step that calls the function, and awaits it if it is async. Inside it
    `current_run()` and `rq.get_current_job()` work on every side: that job's `id` is the job_id
    from the old call site or else the run's id, and its `meta` is saved in the ledger as JSON. So
    is the result. One that JSON cannot represent is logged and saved as null, since the function
    has already done its work.

    Raises SettingsError where there is no such function, or JSON cannot represent a parameter.
    """
    path = function if isinstance(function, str) else _path_of(function)
    module, _, short = path.rpartition(".")
    if not module:
        raise SettingsError(f"{path!r} is not a function's dotted path, such as shop.tasks.pay")
    source = Source(module)
    signature = source.signature(short)
    own = short.strip("_").replace("_", "-") if name is None else name
    declared = job(
        own,
        event=f"task.{own}" if event is None else event,
        payload=_model(path, signature),
        legacy=Legacy(path, lambda *args, **kwargs: signature.bind(*args, **kwargs).arguments),
        **options,
    )

    def body(ctx: Context, payload: Arguments) -> Any:
        return ctx.step.run(short, _call, path, payload)

    spec: JobSpec = getattr(declared(body), DECLARED)
    return replace(spec, file=relative_path(source.file))


def _path_of(function: Callable[..., Any]) -> str:
    path = f"{function.__module__}.{function.__qualname__}"
    if function.__module__ == "__main__" or "<" in path:
        raise SettingsError(f"{path}: a worker cannot import it, so adopt a function of a module")
    return path


def _model(path: str, signature: Signature, *, recorded: bool = False) -> type[Arguments]:
    """The payload's model, or with `recorded` the one for payloads that were checked before.

    Raises SettingsError where JSON cannot represent a parameter.
    """
    fields: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        name, required = parameter.name, parameter.default is Parameter.empty
        if parameter.kind in _REFUSED:
            raise SettingsError(f"{path}: {_REFUSED[parameter.kind].format(name)}")
        kind = parameter.annotation
        if parameter.default is None and kind is not UNKNOWN:
            kind = Optional[kind]  # noqa: UP045 - the type is known only at run time
        try:
            kind = _of_json(kind) if recorded else _checked(kind)
        except PydanticUserError:
            unfit = f"JSON has no form for parameter {name}: {kind}"
            if kind is UNKNOWN:
                unfit = f"the type of parameter {name} is not known"
            if required or not recorded:
                raise SettingsError(f"{path}: {unfit}") from None
            kind = Annotated[Any, AfterValidator(_left_out(unfit))]
        taken = name.startswith("_") or hasattr(Arguments, name)
        default = ... if required else parameter.default
        at = f"{name.strip('_') or 'unnamed'}_" if taken else name
        while taken and (at in fields or at in signature.parameters):
            at += "_"
        fields[at] = (kind, Field(default, alias=name if taken else None))
    return create_model("Arguments", __base__=Arguments, **fields)


def _of_json(kind: Any) -> Any:
    TypeAdapter(kind).json_schema()
    return kind


def _left_out(unfit: str) -> Callable[[Any], None]:
    """Refuses every value but None: most calls leave such an argument out, and need no type."""

    def check(value: Any) -> None:
        if value is not None:
            raise ValueError(unfit)

    return check


def _checked(kind: Any) -> Any:
    """The type, with a check that a value survives JSON unchanged."""
    if kind is UNKNOWN:
        return Annotated[Any, BeforeValidator(to_jsonable_python)]
    adapter = TypeAdapter[Any](_of_json(kind))

    def check(value: Any) -> Any:
        back = adapter.validate_python(adapter.dump_python(value, mode="json"))
        if back != value:
            raise ValueError(f"JSON turns {_shown(value)} into {_shown(back)}: annotate it")
        return value

    return Annotated[kind, AfterValidator(check)]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@cache
def _imported(path: str) -> tuple[Callable[..., Any], Signature, type[Arguments]]:
    """The function, and its parameters with the types that its own module knows."""
    module, _, name = path.rpartition(".")
    # In a context of its own: old modules push an app's context when imported and never pop it.
    namespace = vars(copy_context().run(importlib.import_module, module))
    signature = Source(module).signature(name, namespace)
    return namespace[name], signature, _model(path, signature, recorded=True)


def _call(_tx: Session, path: str, payload: Arguments) -> Any:
    given = payload.model_dump(mode="json", by_alias=True, exclude_unset=True)
    try:
        function, signature, model = _imported(path)
        arguments = model.model_validate(given)
    except (SettingsError, ValidationError) as misfit:
        raise NonRetriable(str(misfit)) from misfit
    bound = signature.bind_partial()
    bound.arguments.update(
        (field.alias or name, getattr(arguments, name))
        for name, field in model.model_fields.items()
        if name in arguments.model_fields_set
    )
    run = current_run()
    assert run is not None
    with at_work(DispatchedJob.of_current(run, path, payload, bound.arguments)):
        result = function(*bound.args, **bound.kwargs)
        if isawaitable(result):
            result = asyncio.run(_awaited(result))
    if asks_again(result):
        raise AskedAgain(f"it returned {result!r}")
    return _as_json(path, result)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _as_json(path: str, result: Any) -> Any:
    try:
        if isinstance(result, Iterator):
            raise ValueError("it is an iterator, which could be read only once")
        return to_jsonable_python(result, inf_nan_mode="null")
    except ValueError as unfit:
        log.warning("result not saved: not JSON", extra={"of": path, "why": str(unfit)})
        return None

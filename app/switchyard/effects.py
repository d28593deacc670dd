"""Effects held back: what a plan may look at, but not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from app.switchyard.errors import EffectHeld

_tried: ContextVar[list[str] | None] = ContextVar("switchyard_effects_tried", default=None)


@contextmanager
def held() -> Iterator[list[str]]:
    """In this block, in this thread, every effect is refused; the list fills with what was tried,
    whether or not the refusal was caught."""
    tried: list[str] = []
    token = _tried.set(tried)
    try:
        yield tried
    finally:
        _tried.reset(token)


def allow(what: str) -> None:
    """Called before each effect, by whoever has one. Raises EffectHeld where effects are held."""
    tried = _tried.get()
    if tried is not None:
        tried.append(what)
        raise EffectHeld(f"a plan may not do this: {what}")

"""Holds effects back: a plan may look at things but not do them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from app.switchyard.errors import EffectHeld

_tried: ContextVar[list[str] | None] = ContextVar("switchyard_effects_tried", default=None)


@contextmanager
def held() -> Iterator[list[str]]:
    """Refuse every effect inside the block, in this thread. The list collects what was tried, even
    where the refusal was caught."""
    tried: list[str] = []
    token = _tried.set(tried)
    try:
        yield tried
    finally:
        _tried.reset(token)


def allow(what: str) -> None:
    """Called before each effect. Raises EffectHeld where effects are held back."""
    tried = _tried.get()
    if tried is not None:
        tried.append(what)
        raise EffectHeld(f"a plan may not do this: {what}")

"""What the installed RQ has: a test of what an older one lacks is skipped there."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from unittest.mock import Mock

import pytest
from rq.version import VERSION

INSTALLED = tuple(map(int, VERSION.split(".")[:2]))


def has(version: str) -> bool:
    """Whether RQ is `version` or later."""
    return tuple(map(int, version.split("."))) <= INSTALLED


def since(version: str) -> pytest.MarkDecorator:
    """Only where RQ is `version` or later."""
    return pytest.mark.skipif(not has(version), reason=f"RQ {VERSION} has not what {version} has")


def of_rq(module: str, name: str) -> Any:
    """A class of RQ's; where it has none of that name, something for tests that are skipped."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return Mock()

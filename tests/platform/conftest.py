"""What several of the platform's tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.months import Months
from tests.support.platform import anywhere, platform

__all__ = ["anywhere", "platform"]


@pytest.fixture
def months(database_url: str, tmp_path: Path) -> Iterator[Months]:
    made = Months(database_url, tmp_path / "storage")
    yield made
    made.db.dispose()

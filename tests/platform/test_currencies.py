"""What an amount to be paid out must be."""

from __future__ import annotations

from typing import Any

import pytest

from app.platform.currencies import MAX_AMOUNT, MINIMUM, UNIT, check
from app.switchyard.errors import BadInput


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        *((1, "usd"), (MAX_AMOUNT, "usd"), (1, "jpy"), (1, "krw")),
        *((100, "huf"), (80_000, "twd"), (500, "isk"), (10_000_000, "ugx")),
        *((10, "kwd"), (5_120, "bhd"), (10, "jod"), (10, "omr"), (10, "tnd")),
    ],
)
def test_what_can_be_paid_out(amount: int, currency: str) -> None:
    check(amount, currency)


@pytest.mark.parametrize(
    ("amount", "currency", "says"),
    [
        (100, "xyz", "currency 'xyz' is not supported; there are: usd, eur"),
        (100, "USD", "currency 'USD' is not supported"),
        (100, "", "currency '' is not supported"),
        (1_045, "huf", "amount 1045 huf must be a multiple of 100 minor units"),
        (80_045, "twd", "multiple of 100"),
        (550, "isk", "multiple of 100"),
        (50, "ugx", "multiple of 100"),
        (5_124, "kwd", "multiple of 10 "),
    ],
)
def test_what_cannot(amount: Any, currency: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        check(amount, currency)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_table() -> None:
    assert MINIMUM.keys() == UNIT.keys()
    for code, minimum in MINIMUM.items():
        assert len(code) == 3, code
        assert code.islower(), code
        check(minimum, code)

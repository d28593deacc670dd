"""What an amount to be paid out must be."""

from __future__ import annotations

from typing import Any

import pytest

from app.platform.currencies import MAX_AMOUNT, MINIMUM, UNIT, check
from app.switchyard.errors import BadInput


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


def test_each_currency_s_least_and_most_can_be_paid_out() -> None:
    assert MINIMUM.keys() == UNIT.keys()
    for code, minimum in MINIMUM.items():
        assert (len(code), code.islower()) == (3, True), code
        for amount in (minimum, UNIT[code], MAX_AMOUNT // UNIT[code] * UNIT[code]):
            check(amount, code)

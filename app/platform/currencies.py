"""The currencies that are paid out, with their minimum amounts and their steps.

By https://docs.stripe.com/currencies, yen, won and Chilean pesos have no smaller unit. Krónur and
Uganda shillings have none either, but are given with two decimals that are always 00. Forints and
Taiwan dollars are charged in hundredths but paid out in whole units. Amounts in three-decimal
currencies must end in 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from app.switchyard.errors import BadInput

MAX_AMOUNT = 999_999_999_999
"""Stripe accepts at most twelve digits of minor units, in any currency."""

_WHOLE = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THOUSANDTHS = "bhd jod kwd omr tnd"
"""The other currencies have hundredths at Stripe, which are always zero for isk and ugx."""

_MINIMUM = (
    "usd 2_500, eur 2_500, gbp 2_000, jpy 3_000, aed 10_000, aud 4_000, bhd 10_000, brl 15_000, "
    "cad 3_500, chf 2_500, clp 25_000, czk 60_000, dkk 20_000, hkd 20_000, huf 1_000_000, "
    "ils 10_000, inr 200_000, isk 350_000, jod 18_000, krw 50_000, kwd 8_000, mxn 50_000, "
    "myr 15_000, nok 25_000, nzd 4_000, omr 10_000, php 150_000, pln 10_000, ron 12_000, "
    "sek 25_000, sgd 3_500, thb 90_000, tnd 80_000, twd 80_000, ugx 10_000_000, zar 50_000"
)
MINIMUM: Mapping[str, int] = {one[:3]: int(one[4:]) for one in _MINIMUM.split(", ")}
"""The least amount that is paid, in minor units by currency: about 25 USD, and at least Stripe's
minimum (https://docs.stripe.com/connect/cross-border-payouts/special-requirements). Other
currencies are not paid."""
_STEPS = dict.fromkeys(("huf", "isk", "twd", "ugx"), 100)
_STEPS |= dict.fromkeys(_THOUSANDTHS.split(), 10)
UNIT: Mapping[str, int] = {code: _STEPS.get(code, 1) for code in MINIMUM}
"""The step of which amounts must be multiples, in minor units."""


def unit(currency: str) -> int:
    """The step in which `currency` is paid out, in minor units. Raises BadInput without one."""
    try:
        return UNIT[currency]
    except KeyError:
        raise BadInput(
            f"currency {currency!r} is not supported; there are: {', '.join(UNIT)}"
        ) from None


def check(amount: int, currency: str) -> None:
    """Raise BadInput where an amount, in minor units, cannot be paid out."""
    step = unit(currency)
    if amount % step:
        raise BadInput(f"amount {amount} {currency} must be a multiple of {step} minor units")


def money(amount: int, currency: str) -> str:
    """An amount of minor units as people write it, such as 1,234.50 USD."""
    digits = places(currency.lower())
    return f"{Decimal(amount).scaleb(-digits):,.{digits}f} {currency.upper()}"


def places(currency: str) -> int:
    """The number of decimals in an amount of the currency."""
    return 0 if currency in _WHOLE.split() else 3 if currency in _THOUSANDTHS.split() else 2

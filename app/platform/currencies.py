"""The currencies that are paid out: the least worth paying, and the step amounts must come in.

https://docs.stripe.com/currencies (“Special cases”, zero- and three-decimal currencies): yen, won
and Chilean pesos have no smaller unit. Krónur and Uganda shillings have none either, yet are given
with two decimals, always 00; forints and Taiwan dollars may be charged to the hundredth, but are
paid out in whole ones. Three-decimal currencies must end in 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from app.switchyard.errors import BadInput

MAX_AMOUNT = 999_999_999_999
"""Stripe takes at most twelve digits of minor units, in any currency."""

_WHOLE = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THOUSANDTHS = "bhd jod kwd omr tnd"
"""As Stripe's amounts are (https://docs.stripe.com/currencies): isk and ugx have hundredths there,
always zero."""


_MINIMUM = (
    "usd 2_500, eur 2_500, gbp 2_000, jpy 3_000, aed 10_000, aud 4_000, bhd 10_000, brl 15_000, "
    "cad 3_500, chf 2_500, clp 25_000, czk 60_000, dkk 20_000, hkd 20_000, huf 1_000_000, "
    "ils 10_000, inr 200_000, isk 350_000, jod 18_000, krw 50_000, kwd 8_000, mxn 50_000, "
    "myr 15_000, nok 25_000, nzd 4_000, omr 10_000, php 150_000, pln 10_000, ron 12_000, "
    "sek 25_000, sgd 3_500, thb 90_000, tnd 80_000, twd 80_000, ugx 10_000_000, zar 50_000"
)
MINIMUM: Mapping[str, int] = {one[:3]: int(one[4:]) for one in _MINIMUM.split(", ")}
"""The least worth paying, by Stripe's code: about 25 USD, and not below the least Stripe sends
abroad (https://docs.stripe.com/connect/cross-border-payouts/special-requirements). Any other
currency is not paid. Minor units."""
_STEPS = dict.fromkeys(("huf", "isk", "twd", "ugx"), 100)
_STEPS |= dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10)
UNIT: Mapping[str, int] = {code: _STEPS.get(code, 1) for code in MINIMUM}
"""The step that amounts must come in, minor units."""


def unit(currency: str) -> int:
    """The step in which `currency` is paid out, minor units. Raises BadInput where it is not."""
    try:
        return UNIT[currency]
    except KeyError:
        raise BadInput(
            f"currency {currency!r} is not supported; there are: {', '.join(UNIT)}"
        ) from None


def check(amount: int, currency: str) -> None:
    """Whether such an amount can be paid out, minor units. Raises BadInput that says why not."""
    step = unit(currency)
    if amount % step:
        raise BadInput(f"amount {amount} {currency} must be a multiple of {step} minor units")


def money(amount: int, currency: str) -> str:
    """Minor units as a person writes them, such as 1,234.50 USD."""
    digits = places(currency.lower())
    return f"{Decimal(amount).scaleb(-digits):,.{digits}f} {currency.upper()}"


def places(currency: str) -> int:
    """How many decimals an amount of it is written with."""
    return 0 if currency in _WHOLE.split() else 3 if currency in _THOUSANDTHS.split() else 2

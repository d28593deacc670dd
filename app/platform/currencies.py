"""The currencies that are paid out: the least worth paying, and the step amounts must come in.

https://docs.stripe.com/currencies (“Special cases”, zero- and three-decimal currencies): yen, won
and Chilean pesos have no smaller unit. Krónur and Uganda shillings have none either, yet are given
with two decimals, always 00; forints and Taiwan dollars may be charged to the hundredth, but are
paid out in whole ones. Three-decimal currencies must end in 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

from app.switchyard.errors import BadInput

MAX_AMOUNT = 999_999_999_999
"""Stripe takes at most twelve digits of minor units, in any currency."""

_WHOLE = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THOUSANDTHS = "bhd jod kwd omr tnd"
"""As Stripe's amounts are (https://docs.stripe.com/currencies): isk and ugx have hundredths there,
always zero."""


class Currency(NamedTuple):
    """How a currency is paid out; minor units."""

    minimum: int
    """The least worth paying: about 25 USD, and not below the least Stripe sends abroad,
    https://docs.stripe.com/connect/cross-border-payouts/special-requirements."""
    unit: int = 1


CURRENCIES: Mapping[str, Currency] = {
    "usd": Currency(2_500),
    "eur": Currency(2_500),
    "gbp": Currency(2_000),
    "jpy": Currency(3_000),
    "aed": Currency(10_000),
    "aud": Currency(4_000),
    "bhd": Currency(10_000, 10),
    "brl": Currency(15_000),
    "cad": Currency(3_500),
    "chf": Currency(2_500),
    "clp": Currency(25_000),
    "czk": Currency(60_000),
    "dkk": Currency(20_000),
    "hkd": Currency(20_000),
    "huf": Currency(1_000_000, 100),
    "ils": Currency(10_000),
    "inr": Currency(200_000),
    "isk": Currency(350_000, 100),
    "jod": Currency(18_000, 10),
    "krw": Currency(50_000),
    "kwd": Currency(8_000, 10),
    "mxn": Currency(50_000),
    "myr": Currency(15_000),
    "nok": Currency(25_000),
    "nzd": Currency(4_000),
    "omr": Currency(10_000, 10),
    "php": Currency(150_000),
    "pln": Currency(10_000),
    "ron": Currency(12_000),
    "sek": Currency(25_000),
    "sgd": Currency(3_500),
    "thb": Currency(90_000),
    "tnd": Currency(80_000, 10),
    "twd": Currency(80_000, 100),
    "ugx": Currency(10_000_000, 100),
    "zar": Currency(50_000),
}
"""By Stripe's code, lower case. Any other currency is not paid."""

MINIMUM: Mapping[str, int] = {code: one.minimum for code, one in CURRENCIES.items()}
UNIT: Mapping[str, int] = {code: one.unit for code, one in CURRENCIES.items()}


def unit(currency: str) -> int:
    """The step in which `currency` is paid out, minor units. Raises BadInput where it is not."""
    try:
        return UNIT[currency]
    except KeyError:
        raise BadInput(
            f"currency {currency!r} is not supported; there are: {', '.join(CURRENCIES)}"
        ) from None


def check(amount: int, currency: str) -> None:
    """Whether such an amount can be paid out, minor units. Raises BadInput that says why not."""
    step = unit(currency)
    whole("amount", amount)
    if amount % step:
        raise BadInput(f"amount {amount} {currency} must be a multiple of {step} minor units")


def money(amount: int, currency: str) -> str:
    """Minor units as a person writes them, such as 1,234.50 USD."""
    digits = places(currency.lower())
    return f"{Decimal(amount).scaleb(-digits):,.{digits}f} {currency.upper()}"


def places(currency: str) -> int:
    """How many decimals an amount of it is written with."""
    return 0 if currency in _WHOLE.split() else 3 if currency in _THOUSANDTHS.split() else 2


def whole(name: str, amount: object, least: int = 1) -> None:
    """Whether `amount` is a whole number from `least` to MAX_AMOUNT. Raises BadInput."""
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < least:
        raise BadInput(
            f"{name} must be a whole number of minor units, {least} or more, not {amount!r}"
        )
    if amount > MAX_AMOUNT:
        raise BadInput(f"{name} must be at most {MAX_AMOUNT} minor units, not {amount}")

"""The mail templates: their data, and their subjects, texts and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple
from unicodedata import category

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from app.platform.currencies import money
from app.platform.gateways.address import one_line
from app.switchyard.errors import BadInput
from app.switchyard.job import JobPayload

Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(one_line)]
Link = Annotated[str, Field(max_length=2000, pattern=r"^https?://[!-~]+$")]


class Data(JobPayload, extra="ignore"):
    """The data of a template. Unknown fields are ignored."""

    subject: ClassVar[str]


class Welcome(Data):
    """Welcomes a new creator."""

    subject = "Welcome to {{ platform }}"
    name: Line
    url: Link | None = None


class PayoutMail(Data):
    """A mail about a payout, with its `amount` in minor units."""

    name: Line
    payout_id: Annotated[str, Field(min_length=1, max_length=240), AfterValidator(one_line)]
    amount: int = Field(strict=True, gt=0)
    currency: str = Field(pattern=r"^[a-z]{3}$")


class PayoutPaid(PayoutMail):
    """A payout was paid."""

    subject = "Your payout of {{ amount | money(currency) }} was paid"
    paid_at: AwareDatetime | None = None


class PayoutFailed(PayoutMail):
    """A payout failed."""

    subject = "Your payout of {{ amount | money(currency) }} did not go through"
    reason: Line | None = None


class StatementReady(Data):
    """A month's statement is ready, with the link to it."""

    subject = "Your statement of {{ month | month }} is ready"
    name: Line
    link: Link | None = None
    month: str = Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")


class Block(JobPayload):
    """A heading and the lines below it."""

    heading: str
    lines: list[str]


class AdminSummary(Data):
    """A report on a run, for an admin who needs to know whether there is anything to do."""

    subject = "{{ title | line }}"
    title: str = Field(min_length=1)
    lead: str
    blocks: list[Block]


TEMPLATES: Mapping[str, type[Data]] = {
    "welcome": Welcome,
    "payout-paid": PayoutPaid,
    "payout-failed": PayoutFailed,
    "statement-ready": StatementReady,
    "admin-summary": AdminSummary,
}
"""The templates by name. The files of that name have the text and the HTML."""


class Letter(NamedTuple):
    """A mail, filled in."""

    subject: str
    text: str
    html: str


def checked(name: str, data: Mapping[str, Any]) -> Data:
    """The data as the template's model. Raises ValueError with the first error."""
    template = TEMPLATES.get(name)
    if template is None:
        raise ValueError(f"no template {name[:60]!r}; there are: {', '.join(TEMPLATES)}")
    try:
        return template.model_validate(data)
    except ValidationError as misfit:
        raise ValueError(str(BadInput.misfits("data.", misfit.errors()))) from None


def render(name: str, data: Mapping[str, Any], *, platform: str) -> Letter:
    """Fill in a template. Raises ValueError as checked() does."""
    model = checked(name, data)
    given = {"platform": platform, **dict(model)}
    subject = _ENVIRONMENT.from_string(model.subject).render(given)
    text = _ENVIRONMENT.get_template(f"{name}.txt").render(given)
    html = _ENVIRONMENT.get_template(f"{name}.html").render(given | {"subject": subject})
    return Letter(subject, text, html)


def line(text: str) -> str:
    """The text on one line: an outside name must not look like another line of the mail."""
    return " ".join("".join(c if category(c) != "Cc" else " " for c in text).split())


def _month(text: str) -> str:
    return f"{date.fromisoformat(f'{text}-01'):%B %Y}"


def _time(moment: datetime) -> str:
    there = moment.astimezone(UTC)
    return f"{there.day} {there:%B %Y, %H:%M} UTC"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html"], default_for_string=False),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"money": money, "line": line, "month": _month, "time": _time}

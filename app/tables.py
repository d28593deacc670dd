"""Every table of the product, for migrations and tests."""

from __future__ import annotations

from app.coordination import pace
from app.cutover import marks, parity, pins, stages
from app.db import Base as Base
from app.earnings import models as earnings
from app.earnings import rollup_models as rollups
from app.ledger import models as ledger
from app.mail import models as mail
from app.media import models as media
from app.payouts import inbox
from app.payouts import models as payouts
from app.runs import models as runs
from app.statements import models as statements
from app.webhooks import inbox as webhooks

metadata = Base.metadata
MODULES = (
    *(runs, stages, pins, parity, marks, pace, webhooks, inbox, ledger, payouts, earnings),
    *(rollups, statements, mail, media),
)
"""Where the tables are."""

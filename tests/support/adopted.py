"""The functions of `tasks`, adopted."""

from __future__ import annotations

from app.switchyard import adopt
from tests.support.jobs import GAPS

AT = "tests.support.tasks"

settle = adopt(f"{AT}.settle", queue="tests")
count_up = adopt(f"{AT}.count_up", queue="tests", gaps=GAPS)
after_all = adopt(f"{AT}.after_all", queue="tests")
handle = adopt(f"{AT}.handle", queue="tests")
seen = adopt(f"{AT}.seen", queue="tests", gaps=GAPS)
connected = adopt("tests.support.old_tasks.connected", queue="tests")

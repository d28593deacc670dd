"""The pages under docs/ that are made, and the snippets in them that can be run."""

from __future__ import annotations

from tests.support.configuration import PAGE, page


def test_the_page_of_settings_is_up_to_date() -> None:
    """Made anew by `python -m tests.support.configuration`."""
    assert PAGE.read_text() == page()

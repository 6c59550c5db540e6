"""What tests of methods share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _without_pictures(blank_reports: None) -> None:
    """Runs leave blank reports."""

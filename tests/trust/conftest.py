"""What commands that are attacked read, written once for a file of tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.commands import write_inputs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked") / "home"
    write_inputs(folder / "in")
    return folder

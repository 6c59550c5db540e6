"""What tests of served samples share."""

from __future__ import annotations

import pytest

from accord.prompting import shares
from tests.commands.small import save_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small model."""
    return save_model(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away is looked for again at once."""
    monkeypatch.setattr(shares, "LOOK", 0.02)

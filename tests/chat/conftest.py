"""Models to talk with: one with a chat template, one without, and one of other weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.engine.load import load_model
from accord.engine.models import Policy
from tests.commands.small import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template and one without."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "base")
    save_model(folder / "plain", template=None)
    return folder


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return load_model(str(folder / "base"))


@pytest.fixture(scope="module")
def other(folder: Path) -> Policy:
    """A model of other weights."""
    policy = load_model(str(folder / "base"))
    for parameter in policy.network.parameters():
        parameter.data = parameter.data.flip(0)
    return policy

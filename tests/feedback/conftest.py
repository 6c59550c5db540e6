"""A module of functions, and a reward model, to be named."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.engine.classifiers import Scorer
from accord.engine.load import load_model
from tests.commands.small import save_model

MODULE = """
def brief(completions, **_):
    return [-float(len(text)) for text in completions]

def shorter(prompts, firsts, seconds):
    return [float(len(a) < len(b)) for a, b in zip(firsts, seconds)]

class Object:
    def __call__(self, completions, **_):
        return [1.0] * len(completions)

listed = Object()
nothing = 3
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory."""
    (tmp_path / "house_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    monkeypatch.delitem(__import__("sys").modules, "house_rewards", raising=False)
    return "house_rewards"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    policy = load_model(save_model(folder / "base"))
    return str(Scorer.on(policy, seed=3).save(folder / "reward"))

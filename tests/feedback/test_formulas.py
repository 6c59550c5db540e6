"""Formulas: weighted sums of rewards, written or in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import InputError
from accord.feedback import formula as formulas
from accord.feedback.combine import Combined, weighted
from accord.feedback.judge import RewardJudge
from accord.feedback.learned import LearnedReward
from accord.feedback.named import as_reward, formula, reward_named
from accord.feedback.reward import TextReward, check_prompts, listen, score_texts
from accord.feedback.verifiers import VERIFIERS, exact, number
from accord.records import EncodedPrompt, Text
from tests.feedback.samples import sample

eighths = st.integers(-800, 800).map(lambda n: n / 8)


def test_a_formula_is_a_weighted_sum_and_keeps_its_parts(functions: str) -> None:
    reward = reward_named(f"number + 0.5 * {functions}:brief + -2*exact")
    samples = [sample("18", answer="18"), sample("so 18.0", answer="18"), sample("17", answer="18")]
    # 1 - .5 * 2 - 2 * 1, 1 - .5 * 7 - 0, 0 - .5 * 2 - 0
    assert reward(samples).tolist() == [-2.0, -2.5, -1.0]
    assert isinstance(reward, Combined)
    assert {name: part.tolist() for name, part in reward.parts.items()} == {
        "number": [1, 1, 0],
        "house_rewards:brief": [-2, -7, -2],
        "exact": [1, 0, 0],
    }


@given(st.lists(st.tuples(eighths, st.integers(-999, 999)), min_size=1, max_size=5))
def test_any_weights_written_are_those_read(terms: list[tuple[float, int]]) -> None:
    values = {f"part{i}": value for i, (_, value) in enumerate(terms)}
    spec = " + ".join(f"{weight!r} * part{i}" for i, (weight, _) in enumerate(terms))
    meaning = {name: TextReward(lambda prompt, text, value=value: value) for name, value in values.items()}  # type: ignore[misc]
    total = formula(spec, meaning.__getitem__)([sample("a")])
    expected = sum(weight * value for weight, value in terms)
    assert total.tolist() == [expected]  # at most 5 * 100 * 999, in eighths: exact in single precision


def test_the_sum_of_a_reward_s_weights_by_hand() -> None:
    terms = {"a": (2.0, TextReward(lambda prompt, text: 3.0)), "b": (-0.5, TextReward(lambda prompt, text: len(text)))}
    summed = weighted(terms)
    assert summed([sample(""), sample("four")]).tolist() == [6.0, 4.0]
    assert summed.texts([("p", "four")]).tolist() == [4.0]
    assert summed.parts["b"].tolist() == [4.0]


def test_a_file_s_name_is_never_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a + 2 * b").mkdir()
    seen: list[str] = []

    def meaning(name: str) -> Any:
        seen.append(name)

    formula("a + 2 * b", meaning)
    assert seen == ["a + 2 * b"]


def test_what_a_formula_refers_to_is_known_without_torch() -> None:
    spec = "number@gold + 0.5 * min(runs/a, runs/b) + -1 * rewards:brief"
    assert list(formulas.names_in(spec)) == ["number@gold", "runs/a", "runs/b", "rewards:brief"]
    assert [formulas.kind_of(name) for name in formulas.names_in(spec)] == ["verifier", "model", "model", "function"]
    assert tuple(VERIFIERS) == formulas.VERIFIERS
    script = "import sys, accord.feedback.formula; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_sum_with_a_reward_model_judges_texts_by_their_own_tokens(functions: str, reward_model: str) -> None:
    learned = reward_named(reward_model)
    pairs: list[tuple[Text, Text]] = [("hi", "good day"), ("hi", "bad")]
    brief = torch.tensor([-8.0, -3.0])
    summed = reward_named(f"{reward_model} + 2 * {functions}:brief")
    torch.testing.assert_close(score_texts(summed, pairs), score_texts(learned, pairs) + 2 * brief)


def test_what_any_part_asks_of_a_row_is_asked(functions: str) -> None:
    reward = as_reward({f"{functions}:brief": 1, "number@gold": 1})
    prompt = EncodedPrompt(sample("", answer="1").prompt, (), 6)
    for feedback in (reward, RewardJudge(reward)):
        with pytest.raises(InputError, match="row 7 has no column 'gold', which the verifier number reads"):
            check_prompts(feedback, [prompt])


def test_every_reward_in_a_sum_hears_of_another_vocabulary(reward_model: str) -> None:
    class Other:
        tokenizer = type("Words", (), {"get_vocab": staticmethod(dict)})

    learned = reward_named(reward_model)
    judge = RewardJudge(weighted({"a": (1.0, learned), "b": (1.0, exact())}))
    assert isinstance(learned, LearnedReward) and learned.shares_tokens
    listen(judge, Other())  # type: ignore[arg-type]
    assert not learned.shares_tokens


def test_equal_functions_in_a_mapping_are_told_apart_by_their_names() -> None:
    with pytest.raises(InputError, match="number stands twice in the mapping of rewards; give it one weight"):
        as_reward({"number": 1, number(): 1})

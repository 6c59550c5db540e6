"""Names and formulas become the rewards and judges they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from accord.engine.classifiers import PreferenceNetwork
from accord.engine.load import load_model
from accord.errors import InputError
from accord.feedback import formula as formulas
from accord.feedback.combine import Combined
from accord.feedback.functions import FunctionJudge, FunctionReward
from accord.feedback.judge import JudgeReward, RewardJudge, judge_samples
from accord.feedback.learned import LearnedJudge, LearnedReward
from accord.feedback.named import as_measure, as_reward, judge_named, labeler_named, only_compares, reward_named
from accord.feedback.people import Simulated
from accord.feedback.remote import RemoteReward
from accord.feedback.reward import TextReward, score_texts, unsampled
from accord.feedback.verifiers import Verifier
from accord.records import Comparison, Sample
from accord.worlds.cafe import gold
from tests.commands.small import accord, read_jsonl, write_jsonl
from tests.feedback.samples import sample


def test_names_stand_for_what_they_say(functions: str, reward_model: str) -> None:
    kinds = {
        "number": Verifier,
        "exact@solution": Verifier,
        r"regex:#### (\d+)": Verifier,
        f"{functions}:brief": FunctionReward,
        "http://localhost:1/score": RemoteReward,
        reward_model: LearnedReward,
        "number + number@other": Combined,
        "2 * number": Combined,
    }
    for name, kind in kinds.items():
        assert type(reward_named(name)) is kind, name


def test_a_reward_model_s_judgment_as_a_reward_is_its_score_less_that_of_the_row_s_completion(
    reward_model: str,
) -> None:
    texts, scores = ["a", "b c", "", "c"], reward_named(reward_model)
    against = reward_named(f"beats@gold:{reward_model}")
    assert isinstance(against, JudgeReward)
    known = score_texts(scores, [("how much ?", text) for text in (*texts, "b")])
    found = against([sample(text, gold="b", tokens=()) for text in texts])
    assert found.tolist() == pytest.approx((known[:-1] - known[-1]).tolist(), abs=1e-5)


def test_a_policy_learns_the_same_from_a_reward_model_and_from_it_as_a_judge(reward_model: str, tmp_path: Path) -> None:
    # The two rewards differ by a number for each prompt, which RLOO's baseline takes away.
    rows = [{"prompt": prompt, "completion": "b a"} for prompt in ("a b", "c", "b c a", "a")]
    data, base = write_jsonl(tmp_path / "rows.jsonl", rows), reward_model.replace("reward", "base")
    steps = {}
    for name, reward in (("scored", reward_model), ("judged", f"beats:{reward_model}")):
        given = ("--group-size", 4, "--batch-size", 2, "--max-steps", 3, "--max-new-tokens", 4, "--learning-rate", 1e-2)
        status = accord("rloo", "--model", base, "--data", data, "--reward", reward, *given, "--out", tmp_path / name)
        assert status == 0
        steps[name] = read_jsonl(tmp_path / name / "metrics.jsonl")
    for key in ("loss", "gradient_norm", "length"):
        found, expected = ([row[key] for row in steps[name]] for name in ("judged", "scored"))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), key
    assert all(0 < row["beats"] < 1 for row in steps["judged"])
    assert steps["judged"][0]["reward"] != pytest.approx(steps["scored"][0]["reward"], abs=1e-3)


def test_a_reward_by_a_judge_names_the_judge_and_the_column(functions: str) -> None:
    assert formulas.beats_of("beats:ai:http://a/b.yaml") == ("completion", "ai:http://a/b.yaml")
    assert formulas.beats_of("beats@gold:judge.yaml") == ("gold", "judge.yaml")
    assert [formulas.kind_of(name) for name in ("beats:judge.yaml", "beats@a:b", "beats")] == [
        "beats",
        "beats",
        "model",
    ]
    spec = "0.5 * beats:ai:runs/judge + mean(beats@gold:runs/pm, number)"
    assert list(formulas.names_in(spec)) == ["ai:runs/judge", "runs/pm", "number"]
    judged = reward_named(f"2 * beats:{functions}:shorter + exact")
    # The shorter of 1 and 2 letters wins in both orders, that of 2 and 2 in neither: a tie.
    found = judged([sample("x", completion="yy", answer="x"), sample("zz", completion="yy", answer="x")])
    assert found.tolist() == pytest.approx([2 * 13.815510 + 1, 0.0])
    for wrong, lacking in (("beats:", "judge"), ("beats@:cafe", "column"), ("beats@gold: ", "judge")):
        with pytest.raises(InputError, match=f"names no {lacking}"):
            reward_named(wrong)


def test_a_function_is_named_by_its_module_too(functions: str) -> None:
    reward = reward_named(f"{functions}:brief")
    assert isinstance(reward, FunctionReward) and reward.name == "house_rewards:brief"
    assert reward([sample("four")]).tolist() == [-4.0]
    assert reward_named(f"{functions}:listed")([sample("four")]).tolist() == [1.0]


def test_a_function_is_named_by_its_file_too(tmp_path: Path) -> None:
    (tmp_path / "length_of.py").write_text("def length(text): return float(len(text))")
    file = tmp_path / "json.py"  # a name of Python's own library, of which a module would be imported
    file.write_text(
        "from length_of import length\nRUNS = []\nRUNS.append(1)\n"
        "def long(completions): return [length(t) for t in completions]\n"
        "def runs(completions): return [len(RUNS)] * len(completions)\n"
    )
    reward = reward_named(f"0.5 * {file}:long + {file}:runs")
    assert reward([sample("four")]).tolist() == [3.0]
    for name, told in (
        (f"{file}:lang", f"the file {file} has no function lang; did you mean {file}:long?"),
        (f"{tmp_path}/x.py:long", f"{tmp_path}/x.py:long: there is no file {tmp_path}/x.py"),
    ):
        with pytest.raises(InputError, match=re.escape(told)):
            reward_named(name)


def test_a_reward_model_reads_the_tokens_of_a_policy_of_its_vocabulary(reward_model: str) -> None:
    policy = load_model(reward_model.replace("reward", "base"), dtype="bfloat16")
    reward = reward_named(reward_model, policy)
    assert isinstance(reward, LearnedReward)
    assert reward.shares_tokens and reward.model.dtype == torch.bfloat16


def test_python_s_rewards(functions: str, reward_model: str) -> None:
    def long(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    class Mine:
        def __call__(self, samples: Sequence[Sample]) -> torch.Tensor:
            return torch.ones(len(samples))

    mine = Mine()
    assert as_reward(mine) is mine
    assert isinstance(as_reward("number"), Verifier)
    assert isinstance(as_reward(Path(reward_model)), LearnedReward)
    assert as_reward(long)([sample("four")]).tolist() == [4.0]
    assert as_reward(partial(long))([sample("four")]).tolist() == [4.0]
    summed = as_reward({long: 0.5, "exact": 1, mine: 3})
    assert summed([sample("four", answer="four")]).tolist() == [0.5 * 4 + 1 + 3]
    assert isinstance(summed, Combined) and list(summed.parts)[:2] == ["long", "exact"]
    assert as_reward([long, "exact"])([sample("four", answer="four")]).tolist() == [5.0]  # as trl's reward_funcs
    with pytest.raises(InputError, match="long stands twice in the list of rewards"):
        as_reward([long, long])
    for wrong in (3, Mine, None, ()):
        with pytest.raises(InputError, match="is no reward: give a name, a function, or an object"):
            as_reward(wrong)


def test_judges_stand_for_what_they_say(functions: str, reward_model: str) -> None:
    kinds = {
        reward_model: LearnedJudge,
        f"{functions}:shorter": FunctionJudge,
        f"{functions}:brief": RewardJudge,
        "number": RewardJudge,
        f"{reward_model} + 0.1 * {functions}:brief": RewardJudge,
        "http://localhost:1/score": RewardJudge,
    }
    for name, kind in kinds.items():
        assert type(judge_named(name)) is kind, name


def test_a_reward_as_a_judge_prefers_the_higher_one_and_ties_at_equality(functions: str) -> None:
    comparisons = [Comparison("p", a, b) for a, b in (("xx", "x"), ("x", "xx"), ("x", "y"))]
    assert [v.first_wins for v in judge_named(f"{functions}:brief")(comparisons)] == [0.0, 1.0, 0.5]
    right, wrong = sample("18", answer="18"), sample("17", answer="18")
    verdicts = judge_samples(judge_named("number"), [right, wrong, wrong], [wrong, right, wrong])
    assert [v.first_wins for v in verdicts] == [1.0, 0.0, 0.5]
    with pytest.raises(InputError, match="the row has no column 'answer', which the verifier number reads"):
        judge_named("number")([Comparison("p", "18", "17")])  # texts alone have no answer beside them


NEITHER = "is neither a verifier, nor module:function, nor a URL, nor the folder of a model"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nummber", f"'nummber' {NEITHER}; did you mean number?"),
        ("zzz", f"'zzz' {NEITHER}; the verifiers are exact, number, regex, math, reasoning-gym"),
        ("nowhere/at/all", "there is no model folder nowhere/at/all"),
        ("no_such_module:f", "no_such_module:f: the module no_such_module cannot be imported (No module named"),
        ("house_rewards:breif", "the module house_rewards has no function breif; did you mean house_rewards:brief?"),
        ("house_rewards:nothing", "the module house_rewards has no function nothing"),
        ("house_rewards:Object", "is no reward: give a name"),
        ("broken_rewards:f", "broken_rewards:f: the module broken_rewards cannot be imported ("),
        ("number + ", "the reward 'number + ' has an empty term; write WEIGHT * NAME + WEIGHT * NAME"),
        ("", "the reward '' has an empty term"),
        ("number + 2 * number", "number stands twice in the reward 'number + 2 * number'; give it one weight"),
        ("number:3", "the verifier number takes no pattern"),
        ("ftp://here", "a reward's server is reached by http:// or https://, not by ftp://here"),
    ],
)
def test_mistakes_are_told(spec: str, message: str, functions: str) -> None:
    Path("broken_rewards.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=re.escape(message)):
        reward_named(spec)
    if spec not in ("house_rewards:Object",):
        with pytest.raises(InputError, match=re.escape(message)):
            judge_named(spec)


def test_a_small_world_is_its_gold_reward_by_name() -> None:
    answers = ["the soup is lovely .", "soup soup soup"]
    expected = [gold("how is the soup ?", answer) for answer in answers]
    samples = [unsampled("how is the soup ?", answer) for answer in answers]
    assert reward_named("cafe")(samples).tolist() == pytest.approx(expected)
    assert reward_named("2 * cafe + number")([]).tolist() == []
    comparison = Comparison("how is the soup ?", *answers)
    assert judge_named("cafe")([comparison])[0].first_wins == float(expected[0] > expected[1])
    assert labeler_named("cafe", 0.8, seed=3) == Simulated(gold, 0.8, 3)
    with pytest.raises(InputError, match=r"knows? a world's truth \(cafe, counter, sums\), and number is none"):
        labeler_named("number", 0.8)


def test_a_measure_is_a_reward_unless_it_only_compares(reward_model: str, functions: str) -> None:
    assert isinstance(as_measure(reward_model), LearnedReward)
    assert isinstance(as_measure("house_rewards:brief"), FunctionReward)
    assert isinstance(as_measure("cafe"), TextReward)

    def shorter(firsts: list[str], seconds: list[str]) -> list[float]:
        return [float(len(a) < len(b)) for a, b in zip(firsts, seconds, strict=True)]

    assert isinstance(as_measure(shorter), FunctionJudge) and only_compares(FunctionJudge(shorter))
    assert not only_compares(judge_named("cafe"))
    policy = load_model(str(Path(reward_model).parent / "base"))
    preference = as_measure(
        str(PreferenceNetwork.on(policy, planes=1).save(Path(reward_model).parent / "preference")), policy
    )
    assert isinstance(preference, LearnedJudge) and only_compares(preference)

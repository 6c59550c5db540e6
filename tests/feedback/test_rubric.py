"""Marks by rubric: by hand, against plain transformers, and as a judge and a reward."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.feedback.judge import RewardJudge
from accord.feedback.named import as_measure, judge_named, only_compares, reward_named
from accord.feedback.options import Scale
from accord.feedback.reward import finite_scores, logged, unsampled
from accord.feedback.rubric import Mark, Rubric, RubricJudge, mark
from accord.prompting.local import Local
from accord.prompting.requests import Reply, Request
from accord.records import Comparison, Verdict, show
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.feedback.replies import Replies

TEN = Scale(question="How good is it?")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7), ("**7**", 7), ("Score: 7", 7), ("7/10", 7), ("10", 10), ("(3) since it is short", 3), ("8.", 8),
        ("8, as it is kind", 8), ("Rating: 9 / 10.", 9),
        ("7.5", None), ("-7", None), ("7-8", None), ("7–8", None), ("7/5", None), ("7 things are wrong", None),
        ("I give 7", None), ("0", None), ("11", None), ("", None), ("seven", None), ("7, 8", None),
    ],
)  # fmt: skip
def test_a_mark_that_is_said_is_read_strictly(text: str, value: int | None) -> None:
    assert mark(Reply(text=text), TEN).value == value


def test_reasons_begin_with_their_kind() -> None:
    assert mark(Reply(text="Well", is_cut=True), TEN).reason == "cut before a mark: the judge replied 'Well'"
    assert mark(Reply(text="11"), TEN).reason == "no mark of the scale: the judge gave 11"
    assert mark(Reply(text=None, reason="refused: no"), TEN).reason == "refused: no"
    unclear = mark(Reply(text="", choices={"1": 0.004, "2": 0.001}), Scale(question="?", highest=2))
    assert unclear == Mark(None, "unclear: the judge gives all marks a probability of 0.005 together")


def test_the_expected_mark_by_hand() -> None:
    reply = Reply(text="", choices={"1": 0.1, "2": 0.0, "3": 0.4})
    assert mark(reply, Scale(question="?", highest=3)).value == pytest.approx((0.1 + 3 * 0.4) / 0.5)


def replying(reply: Callable[[str, str], Reply], **scales: Scale) -> Rubric:
    """A rubric whose model replies by the answer and the question it is asked."""

    def said(request: Request) -> Reply:
        question = show(request.prompt).split("[Answer]\n")[1]
        answer, question = question.split("\n\n")
        return reply(answer, question)

    return Rubric(Replies(said), scales)


def test_several_scales_are_weighted() -> None:
    def reply(answer: str, question: str) -> Reply:
        if answer == "odd" and question.startswith("Short?"):
            return Reply(text="Who knows?")
        value = len(answer) if question.startswith("Short?") else 10 - len(answer)
        return Reply(text=str(value))

    scales = {"good": Scale(question="Good?", weight=3), "short": Scale(question="Short?", weight=-1)}
    rubric = replying(reply, **scales)
    samples = [unsampled("Why?", text) for text in ("ab", "abcd", "odd", "ab")]
    scores = rubric(samples)
    assert scores.tolist()[:2] == [(3 * 8 - 2) / 4, (3 * 6 - 4) / 4] and scores[2].isnan() and scores[3] == scores[0]
    assert rubric.parts["good"].tolist() == [8, 6, 7, 8] and rubric.parts["short"][:2].tolist() == [2, 4]
    assert logged(rubric) == {"answers without a score": 0.25}
    assert finite_scores(rubric, samples, "now").isnan().tolist() == [False, False, True, False]
    judge = RubricJudge(rubric)
    pairs = [Comparison("Why?", "ab", "abcd"), Comparison("Why?", "abcd", "ab"), Comparison("Why?", "ab", "ab")]
    assert [v.first_wins for v in judge(pairs)] == [1.0, 0.0, 0.5]
    [invalid] = judge([Comparison("Why?", "odd", "ab")])
    assert invalid == Verdict(None, "no mark: the judge replied 'Who knows?'")
    assert len(rubric.asker.model.asked) == 2 * 6 + 4 + 4  # type: ignore[attr-defined]
    [gap] = RewardJudge(rubric)([Comparison("Why?", "odd", "ab")])
    assert gap.first_wins is None  # an abstention is no tie, whoever reads it


def test_one_and_ten_are_apart(smollm2: Policy) -> None:
    """SmolLM2 writes 10 as two tokens, of which the first is 1: P(1) = P(begins with 1) - P(begins with 1, 0)."""
    rubric = Rubric(Local(smollm2), {"good": TEN})
    asked = rubric._question("2 + 2?", "4", {}, TEN)
    [reply] = rubric.asker.replies([asked])
    tokenizer = smollm2.tokenizer
    assert len(tokenizer("10", add_special_tokens=False)["input_ids"]) == 2
    chat = [{"role": "user", "content": asked.text}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    digits = tokenizer.convert_tokens_to_ids([*"0123456789"])
    with torch.no_grad():
        logits = smollm2.network(torch.tensor([[*tokens, digits[1]]])).logits[0].double().softmax(-1)
    p = {str(m): float(logits[-2, digits[m]]) for m in range(1, 10)}
    p["10"] = p["1"] * float(logits[-1, digits[0]])
    p["1"] -= p["10"]
    assert reply.choices == pytest.approx(p, rel=1e-4, abs=1e-9)
    [[found]] = rubric.marks([("2 + 2?", "4", {})])
    assert found.value == pytest.approx(sum(int(m) * q for m, q in p.items()) / sum(p.values()), rel=1e-4)


def test_a_choice_that_begins_others(tmp_path: Path) -> None:
    model = Local(load_model(save_model(tmp_path / "m")))
    choices = ("hi", "hi good", "hi good day", "bad")
    [every] = model([Request(prompt="hello", max_tokens=0, choices=choices)])
    alone = [model([Request(prompt="hello", max_tokens=0, choices=(c,))])[0].choices for c in choices]
    p = {choice: one[choice] for choice, one in zip(choices, alone, strict=True) if one}
    assert every.choices is not None
    p["hi"], p["hi good"] = p["hi"] - p["hi good"], p["hi good"] - p["hi good day"]
    assert every.choices == pytest.approx(p, rel=1e-4)


def test_a_file_of_scales_is_a_judge_and_a_reward(tmp_path: Path, smollm2: Policy) -> None:
    file = tmp_path / "judge.yaml"
    scales = {name: {"question": f"How {name} is it?", "highest": 3, "weight": 0.5} for name in ("good", "short")}
    file.write_text(json.dumps({"model": "smollm2", "method": "score", "scales": scales}))
    reward, judge = reward_named(f"2 * {file}"), judge_named(str(file))
    samples = [unsampled("2 + 2?", text) for text in ("4", "Five, I think.")]
    scores = reward(samples)
    assert isinstance(judge, RubricJudge) and not only_compares(judge) and isinstance(as_measure(str(file)), Rubric)
    assert scores.tolist() == pytest.approx((2 * judge.rubric(samples)).tolist())
    [gap] = judge.gaps([Comparison("2 + 2?", "4", "Five, I think.")])
    assert float(scores[0] - scores[1]) == pytest.approx(2 * gap, abs=1e-5)


@pytest.mark.slow
def test_scores_from_the_command_line(tmp_path: Path, smollm2: Policy, capsys: pytest.CaptureFixture[str]) -> None:
    judge = tmp_path / "judge.yaml"
    judge.write_text("model: smollm2\nmethod: score\n")
    alone = reward_named("ai:smollm2")
    assert isinstance(alone, Rubric) and list(alone.scales) == ["quality"]
    pairs = [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "It is 5."},
        {"prompt": "Hi", "chosen": "Hi!", "rejected": "No"},
    ]
    data = write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert (
        accord("evaluate", "comparisons", "--reward", judge, "--data", data, "--probes", 0, "--out", tmp_path / "t")
        == 0
    )
    result = json.loads((tmp_path / "t" / "evaluation.json").read_text())
    rubric = reward_named(str(judge))
    first, second = (rubric.texts([(p["prompt"], p[side]) for p in pairs]) for side in ("chosen", "rejected"))  # type: ignore[attr-defined]
    assert result["unit"] == "score" and result["accuracy"]["estimate"] == float((first > second).float().mean())
    samples = [{"prompt": "2 + 2?", "completion": text} for text in ("4", "It is 5.")]
    out = tmp_path / "o.jsonl"
    assert accord("label", "--data", write_jsonl(tmp_path / "s.jsonl", samples), "--out", out, "--judge", judge) == 0
    assert "2 more, 0 requests without one" in capsys.readouterr().err
    assert read_jsonl(out)[0]["chosen"] == ("4" if first[0] > second[0] else "It is 5.")

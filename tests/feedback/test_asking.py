"""Judges that draw principles from a constitution, and that reason before the verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from accord.data.chat import encode_prompt
from accord.engine.models import Policy
from accord.errors import InputError
from accord.feedback.ai import QUESTION, REASONED, VERDICT, AIJudge, ai_judge
from accord.feedback.constitution import read_constitution
from accord.feedback.options import HELPFUL, JudgeConfig, read_judge
from accord.prompting.local import Local
from accord.prompting.requests import Reply, Request
from accord.records import Comparison, Message, Verdict, show
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.feedback.replies import Replies

PRINCIPLES = tuple(f"Principle {i}." for i in range(7))


def even(request: Request) -> Reply:
    return Reply(text="", choices={"A": 0.5, "B": 0.5})


@given(st.integers(1, 8), st.integers(0, 3), st.text(max_size=4), st.text(max_size=4))
def test_both_orders_are_judged_by_the_same_principles(count: int, seed: int, first: str, second: str) -> None:
    judge = AIJudge(Replies(even), PRINCIPLES, per_comparison=count, seed=seed)
    pair = Comparison("Why?", first, (Message("assistant", second),))
    told = [[q.text.split("\n")[2] for q in judge.questions(each)] for each in (pair, pair.swapped)]
    assert told[0] == told[1] and len(set(told[0])) == len(told[0]) == min(count, 7)
    assert set(told[0]) <= set(PRINCIPLES)


def test_every_principle_has_its_turn() -> None:
    judge = AIJudge(Replies(even), PRINCIPLES, per_comparison=1)
    drawn = [judge.questions(Comparison("Why?", f"{i}", "b"))[0].text.split("\n")[2] for i in range(350)]
    assert all(25 <= drawn.count(principle) <= 75 for principle in PRINCIPLES)  # 50 each, give or take 4 deviations
    other = AIJudge(Replies(even), PRINCIPLES, per_comparison=1, seed=1)
    again = [other.questions(Comparison("Why?", f"{i}", "b"))[0].text.split("\n")[2] for i in range(350)]
    assert sum(a == b for a, b in zip(drawn, again, strict=True)) < 85  # one in seven by chance: 50


def test_a_judge_has_principles_or_a_constitution() -> None:
    assert JudgeConfig(model="m").drawn_from() == ((HELPFUL,), 1)
    assert JudgeConfig(model="m", principles=("Be kind.", "Be brief.")).drawn_from()[1] == 2
    told, count = JudgeConfig(model="m", constitution="hhh").drawn_from()
    assert told == tuple(p.prefer for p in read_constitution("hhh")) and count == 1
    assert JudgeConfig(model="m", constitution="hhh", principles_per_comparison=3).drawn_from()[1] == 3


def test_what_is_given_takes_the_place_of_a_files_principles(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("model: m\nprinciples: [Be kind.]\nseed: 4\n")
    config = read_judge(str(file), constitution="hhh", reasoning=16)
    assert (config.principles, config.constitution, config.reasoning, config.seed) == (None, "hhh", 16, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles: []", "an AI judge's principles are a list of sentences"),
        ("constitution: hhhh", "there is no constitution hhhh: name a YAML file, or accord or hhh; did you mean hhh"),
        ("constitution: hhh\nprinciples: [Be kind.]", "has principles or a constitution: give one"),
        ("constitution: hhh\ntemplate: '{first} {second}'", "no place for {principle}"),
        ("principles_per_comparison: 0", "principles_per_comparison must be positive, not 0"),
        ("reasoning: -3", "reasoning is a number of tokens, 0 for none, not -3"),
        ("method: sort", "does not describe a judge .method: Input should be 'choose', 'rank' or 'score'"),
        ("method: score\nconstitution: hhh", "principles are for judges that choose or rank; one that scores has"),
        ("scales: {good: Is it good}", "scales are for judges that score"),
        ("method: score\nscales: {}", "scales are empty"),
        ("method: score\nscales: {good: {question: Is it good, highest: 0}}", "marks must be within 0 and 100"),
        ("method: score\nscales: {good: {question: ' '}}", "a scale's question is empty"),
        ("method: score\nscales: {good: {question: Is it good, weight: 0}}", "a scale of weight 0 has no effect"),
        ("method: score\ntemplate: '{prompt}'", "no place for {answer}"),
        ("method: score\nscales: {a: Is it good, b: Is it good}\ntemplate: '{answer}'", "no place for {question}"),
    ],
)
def test_a_file_that_describes_no_judge(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(f"model: {save_model(tmp_path / 'm')}\n{text}\n")
    with pytest.raises(InputError, match=message):
        ai_judge(str(file))


def test_the_verdict_follows_the_reasoning() -> None:
    def reply(request: Request) -> Reply:
        if request.choices:
            return Reply(text="", choices={"A": 0.03, "B": 0.01})
        told = show(request.prompt)
        if "silent" in told:
            return Reply(text=None, reason="server error (5xx)")
        return Reply(text=" " if "empty" in told else " Kind is better. ", is_cut="long" in told)

    model = Replies(reply)
    judge = AIJudge(model, reasoning=40)
    pairs = [Comparison("Why?", text, "b") for text in ("so", "silent", "empty", "long")]
    none = "no reasoning: the judge gave none within 40 tokens"
    assert judge(pairs) == [
        Verdict(0.75), Verdict(None, "server error (5xx)"), Verdict(None, none), Verdict(0.75)
    ]  # fmt: skip
    assert [r.max_tokens for r in model.asked] == [40] * 4 + [0] * 2
    question = REASONED.format(principle=HELPFUL, prompt="Why?", first="so", second="b")
    assert model.asked[0].prompt == (Message("user", question),)
    thought = Message("assistant", "Kind is better.")
    assert model.asked[4].prompt == (Message("user", question), thought, Message("user", VERDICT))
    assert list(judge.asker.outcome_lines()) == ["1 of 2 reasonings were cut at 40 tokens, and used as far as they go"]


def test_a_judge_at_hand_reasons_as_transformers_does(smollm2: Policy) -> None:
    pair = Comparison("2 + 2?", "4", "It is 5, I think.")
    judge = AIJudge(Local(smollm2), ["Be true."], reasoning=12)
    [found] = judge([pair])
    [question] = judge.questions(pair)
    network, tokenizer = smollm2.network, smollm2.tokenizer
    asked = torch.tensor([encode_prompt(tokenizer, (Message("user", question.text),))])
    said = network.generate(asked, max_new_tokens=12, do_sample=False)[0, asked.shape[1] :]
    thought = tokenizer.decode(said, skip_special_tokens=True).strip()
    chat = (Message("user", question.text), Message("assistant", thought), Message("user", VERDICT))
    letters = tokenizer.convert_tokens_to_ids(["A", "B"])
    with torch.no_grad():
        p = network(torch.tensor([encode_prompt(tokenizer, chat)])).logits[0, -1].double().softmax(0)[letters]
    assert found.first_wins == pytest.approx(float(p[0] / p.sum()), abs=1e-5)


def test_a_model_without_chats_reads_its_reasoning_as_text() -> None:
    model = Replies(lambda r: Reply(text="", choices={"A": 1.0, "B": 0.0}) if r.choices else Reply(text="Because."))
    model.has_template = False  # type: ignore[attr-defined]
    AIJudge(model, template="{first}|{second}", reasoning=4)([Comparison("Why?", "a", "b")])
    assert [r.prompt for r in model.asked] == ["a|b\n\n", f"a|b\n\nBecause.\n\n{VERDICT}\n\n"]
    assert "{first}" in QUESTION


def test_reasoning_and_principles_from_the_command_line(
    tmp_path: Path, smollm2: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [{"prompt": "2 + 2?", "completion": text} for text in ("4", "It is 5.")]
    data, out = write_jsonl(tmp_path / "s.jsonl", samples), tmp_path / "o.jsonl"
    words = ("label", "--data", data, "--out", out, "--judge", "ai:smollm2", "--soft", "--constitution", "hhh")
    assert accord(*words, "--reasoning", 8) == 0
    printed = capsys.readouterr().err
    assert "2 of 2 reasonings were cut at 8 tokens, and used as far as they go" in printed
    assert "0 replies kept before, 4 more" in printed
    journal = [json.loads(line) for line in Path(f"{out}.journal").read_text().splitlines()]
    assert journal[0]["of"]["reasoning"] == 8 and sum(bool(line.get("text")) for line in journal[1:]) == 2
    first = read_jsonl(out)
    assert accord(*words, "--reasoning", 8) == 0 and read_jsonl(out) == first
    capsys.readouterr()
    assert accord(*words, "--reasoning", 9) == 2
    assert "has other settings (reasoning: 8, and here 9)" in capsys.readouterr().err
    assert accord(*words[:-3], "--constitution", "none.yaml", "--journal", tmp_path / "j") == 2
    assert "none.yaml: name a YAML file" in capsys.readouterr().err
    assert accord("label", "--data", data, "--out", out, "--judge", "cafe", "--reasoning", 8) == 2
    assert "--reasoning is for language models that judge, such as ai:MODEL, and cafe is none" in (
        capsys.readouterr().err
    )

"""An AI judge: what it is asked, the probabilities of its letters, and files and names that mean none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from accord.data.chat import encode_prompt
from accord.engine.models import Policy
from accord.errors import InputError
from accord.feedback.ai import AIJudge, verdict
from accord.feedback.judge import BothOrders
from accord.feedback.named import judge_named, reward_named
from accord.feedback.reward import check_prompts
from accord.prompting.local import Local
from accord.prompting.requests import Reply
from accord.records import Comparison, EncodedPrompt, Message, Prompt, Verdict, show
from tests.feedback.replies import Replies

CHAT = (Message("user", "May I?"),)
PAIR = Comparison(CHAT, (Message("assistant", "Yes, gladly."),), "No.")


def letters(a: float, b: float) -> Reply:
    return Reply(text="", choices={"A": a, "B": b})


def test_the_letters_probabilities_are_the_verdict() -> None:
    assert verdict(letters(0.03, 0.01)) == Verdict(0.75)
    unclear = verdict(letters(0.004, 0.001))
    assert unclear.first_wins is None
    assert unclear.reason == "unclear: the judge gives the letters A and B a probability of 0.005 together"
    assert verdict(Reply(text=None, reason="too slow")) == Verdict(None, "too slow")
    cut = verdict(Reply(text="Let me think", is_cut=True))
    assert cut.reason == "cut before a letter: the judge replied 'Let me think', and neither A nor B"


def test_every_principle_is_a_question_and_the_mean_of_the_valid_ones_counts() -> None:
    silent = Reply(text=None, reason="silence")
    replies = iter([letters(0.9, 0.1), silent, letters(0.5, 0.5), silent, Reply(text=None, reason="other"), silent])
    model = Replies(lambda r: next(replies))
    judge = AIJudge(model, ["Be kind.", "Be brief.", "Be true."])
    first, second = judge([PAIR, Comparison("Why?", "a", "b")])
    assert first.first_wins == pytest.approx(0.7)
    assert second == Verdict(None, "silence")
    asked = [str(request.prompt[0].content) for request in model.asked]  # type: ignore[union-attr]
    assert [text.splitlines()[2] for text in asked] == ["Be kind.", "Be brief.", "Be true."] * 2
    assert "[Conversation]\nuser: May I?\n" in asked[0]
    assert "[Answer A]\nYes, gladly.\n\n[Answer B]\nNo.\n" in asked[0]
    assert "[Conversation]\nWhy?\n" in asked[3]
    assert {(r.choices, r.max_tokens, r.temperature) for r in model.asked} == {(("A", "B"), 0, 0.0)}


def test_a_judge_reads_tools_and_calls() -> None:
    rain, wind = ({"function": {"name": name, "arguments": {"in": "Bonn"}}} for name in ("rain", "wind"))
    tools = [{"type": "function", "function": {"name": "rain"}}]
    prompt = (Message("user", "Rain?", {"tools": tools}),)
    first, second = ((Message("assistant", text, {"tool_calls": [c]}),) for text, c in (("", rain), ("I look.", wind)))
    asked = AIJudge(Replies(lambda r: letters(1, 0)), ["Be kind."]).questions(Comparison(prompt, first, second))[0].text
    assert asked.partition("[Conversation]\n")[2].partition("Which answer")[0] == (
        'tools: [{"type": "function", "function": {"name": "rain"}}]\n\nuser: Rain?\n\n'
        '[Answer A]\n{"name": "rain", "arguments": {"in": "Bonn"}}\n\n'
        '[Answer B]\nI look.\n{"name": "wind", "arguments": {"in": "Bonn"}}\n\n'
    )


def test_progress_is_told_reply_by_reply() -> None:
    told: list[Any] = []

    @contextmanager
    def counting(title: str, total: int, note: Callable[[], str]) -> Iterator[Any]:
        told.append((title, total, note()))
        yield told.append

    judge = AIJudge(Replies(lambda r: letters(len(show(r.prompt)) % 100, 100)), ["Be kind.", "Be brief."])
    pairs = [Comparison("Why?", "a" * i, "b") for i in range(1, 6)]
    silent = judge(pairs)
    judge.asker.progress = counting
    assert judge(pairs) == silent == [judge([pair])[0] for pair in pairs]
    assert told[:11] == [("judge", 10, ""), *[1] * 10]


def test_a_template_of_its_own_has_places_for_columns() -> None:
    model = Replies(lambda r: letters(1, 0))
    template = "{{Right}}: {right} {notes}|{principle}|{first}|{second}|A or B?"
    judge = AIJudge(model, ["Be kind."], template=template)
    judge([Comparison("Why?", "so", "no", {"right": "x {first}", "notes": ["é", 1], "more": 2})])
    assert model.asked[0].prompt == (Message("user", '{Right}: x {first} ["é", 1]|Be kind.|so|no|A or B?'),)
    lacks = "has no column 'right', which the judge's template reads; the columns there are: notes"
    with pytest.raises(InputError, match=lacks):
        judge([Comparison("Why?", "so", "no", {"notes": 1})])
    with pytest.raises(InputError, match=f"row 3 {lacks}"):
        check_prompts(BothOrders(judge), [EncodedPrompt(Prompt("Why?", {"notes": 1}), (), 2)])


@pytest.mark.parametrize(
    ("template", "principles", "message"),
    [
        ("Which? {prompt} {first}", ["Be kind."], "has no place for {second}"),
        ("Which? {first} {second}", ["Be kind."], "has no place for {principle}"),
        ("{first} {second} {prompt.name}", ["Be kind."], "has {prompt.name}, which is not a name"),
        ("{first} {second} {}", ["Be kind."], "has {}, which is not a name"),
        ("{first} {second} {x!r}", ["Be kind."], "has {x}, which is not a name"),
        ("{first} {second} {", ["Be kind."], "template cannot be used .*write a literal brace twice"),
    ],
)
def test_a_template_that_cannot_be_used(template: str, principles: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AIJudge(Replies(lambda r: letters(1, 0)), principles, template=template)


@pytest.mark.parametrize("principles", [[], [" "], [3]])
def test_a_judge_has_principles(principles: list[Any]) -> None:
    with pytest.raises(InputError, match="principles are a list of sentences"):
        AIJudge(Replies(lambda r: letters(1, 0)), principles)


def test_a_model_at_hand_gives_what_transformers_gives(smollm2: Policy) -> None:
    pairs = [PAIR, Comparison("2 + 2?", "4", "It is 5, I think.")]
    judge = AIJudge(Local(smollm2), ["Be kind."])
    letters = [smollm2.tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    for pair, found in zip(pairs, judge(pairs), strict=True):
        [question] = judge.questions(pair)
        tokens = torch.tensor([encode_prompt(smollm2.tokenizer, (Message("user", question.text),))])
        with torch.no_grad():
            p = smollm2.network(tokens).logits[0, -1].double().softmax(0)[letters]
        assert found.first_wins == pytest.approx(float(p[0] / p.sum()), abs=1e-5)
    assert judge(pairs[1:]) == judge(pairs)[1:]  # to the last bit


def test_the_example_is_a_judge(smollm2: Policy) -> None:
    judge = judge_named(str(Path(__file__).parents[2] / "examples" / "judge.yaml"))
    assert isinstance(judge, AIJudge) and len(judge.principles) == 2
    [found], [helpful] = judge([PAIR]), AIJudge(Local(smollm2), judge.principles[:1])([PAIR])
    [honest] = AIJudge(Local(smollm2), judge.principles[1:])([PAIR])
    assert found.first_wins == pytest.approx((helpful.first_wins + honest.first_wins) / 2, abs=1e-6)  # type: ignore[operator]


def test_a_question_too_long_has_no_answer(smollm2: Policy) -> None:
    judged, unread = AIJudge(Local(smollm2))([PAIR, Comparison("Why?", "no " * 9000, "b")])
    assert judged.first_wins is not None
    assert unread.first_wins is None
    assert unread.reason.startswith("too long: ") and unread.reason.endswith("where smollm2 reads 8192")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("principles: [Be kind.]\n", "does not describe a judge .*model"),
        ("model: m\nprinciple: Be kind.\n", "does not describe a judge .*principle"),
        ("model: m\nparallel: many\n", "does not describe a judge .*parallel"),
        ("- m\n", "does not describe a judge"),
        ("model: [\n", "does not describe a judge"),
        ("model: m\nserver: ftp://host\n", "reached by http:// or https://, not by ftp://host"),
        ("model: m\nserver: http://host\nparallel: 0\n", "does not describe a judge .*parallel must be positive"),
        ("model: m\nserver: http://host\nmax_tokens: 0\n", "max_tokens must be positive"),
        ("model: m\nserver: http://host\nbudget: 5\n", "a budget needs the prices"),
        ("model: m\nserver: http://host\nprice_in: 5\n", "prices need two numbers"),
        ("model: m\nserver: http://host\nchat_template: chatml\n", "are for a model in this process, and m is served"),
        ("model: m\nbudget: 5\n", "budget is for a served model, and m runs in this process"),
        ("model: m\nserver: http://host\ntemplate: 'Which? {first}'\n", "no place for {second}"),
    ],
)
def test_a_file_that_describes_no_judge(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        judge_named(str(file))


def test_names_that_mean_no_judge(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        judge_named(str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match="names no model; write ai:MODEL"):
        judge_named("ai:")
    judge = tmp_path / "judge.yaml"
    judge.write_text("model: smollm2\n")
    with pytest.raises(InputError, match="compares answers and does not score them: use it as a judge, or set method"):
        reward_named(f"{judge} + number")

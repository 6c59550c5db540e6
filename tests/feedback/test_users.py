"""Conversations with a simulated user: what it is told, where they end, and that their tokens are one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from accord.data.chat import encode_prompt
from accord.data.encoding import encode_prompts
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.sampling import Sampling
from accord.errors import InputError, UsersFault
from accord.feedback.functions import FunctionUser
from accord.feedback.users import Dialogue, user_of
from accord.records import Completion, EncodedPrompt, Message, Prompt, Sample
from tests.commands.small import save_model
from tests.data.conftest import SYSTEM, TEMPLATE

ASKED = [Prompt((Message("user", "hi"),), {"name": "good"}), Prompt((Message("user", "bad day"),), {"name": "bye"})]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_model(save_model(tmp_path_factory.mktemp("models") / "base"), dtype="float32")


def prompts_of(policy: Policy, rows: Sequence[Prompt] = ASKED) -> list[EncodedPrompt]:
    return encode_prompts(policy.tokenizer, rows, room=4, context=policy.context)[0]


def greets(messages: list[dict[str, str]], name: str) -> str | None:
    """Answers with how much was said, and a name; no more after three answers."""
    return f"day {name}" if len(messages) < 6 else None


def test_a_conversation_is_one_text_and_its_user_is_told_all_of_it(policy: Policy) -> None:
    heard: list[tuple[list[dict[str, str]], str]] = []

    def hears(messages: list[dict[str, str]], name: str) -> str | None:
        heard.append((messages, name))
        return greets(messages, name)

    sampling = Sampling(max_new_tokens=4, seed=3)
    conversations = Dialogue(FunctionUser(hears), 5).conversations(policy, prompts_of(policy), 40, sampling)
    assert len(conversations) == 80 and {len(conversation) for conversation in conversations} == {1, 2, 3}
    compared = 0
    for conversation in conversations:
        for earlier, later in pairwise(conversation):
            said = Message("assistant", earlier.text), Message("user", f"day {earlier.prompt.columns['name']}")
            assert later.prompt == Prompt((*earlier.prompt.prompt, *said), earlier.prompt.columns)
            assert earlier.completion.stop == "end"
            begins = earlier.prompt_tokens + earlier.completion.tokens
            assert later.prompt_tokens[: len(begins)] == begins
            if all(token > SYSTEM for turn in conversation for token in turn.completion.tokens[:-1]):
                # What a model reads is what the chat template writes, where all that was said is words.
                assert later.prompt_tokens == encode_prompt(policy.tokenizer, later.prompt.prompt)
                compared += 1
        assert conversation[-1].completion.stop == "length" or len(conversation) == 3
    assert compared > 10
    last = [messages for messages, _ in heard if len(messages) == 6]
    assert len(last) == sum(
        len(conversation) == 3 and conversation[-1].completion.stop == "end" for conversation in conversations
    )
    assert [m["role"] for m in last[0]] == ["user", "assistant"] * 3
    assert {name for _, name in heard} == {"good", "bye"}


def test_equal_conversations_go_on_in_ways_of_their_own(policy: Policy) -> None:
    one = Dialogue(FunctionUser(greets), 2).conversations(
        policy, prompts_of(policy)[:1], 200, Sampling(max_new_tokens=1)
    )
    alike: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for conversation in one:
        if len(conversation) == 2:
            alike.setdefault(conversation[0].completion.tokens, set()).add(conversation[1].completion.tokens)
    assert len(alike) == 1 and len(next(iter(alike.values()))) > 1  # the end token alone, then any token


def test_where_conversations_end(policy: Policy) -> None:
    def never(messages: list[dict[str, str]]) -> str:
        return "hi"

    prompts = prompts_of(policy)
    sampling = Sampling(max_new_tokens=4, seed=3)
    most = Dialogue(FunctionUser(never), 2).conversations(policy, prompts, 20, sampling)
    assert {len(conversation) for conversation in most} == {1, 2}
    room = Dialogue(FunctionUser(never), 50).conversations(policy, prompts, 200, sampling, longest=30)
    assert all(len(turn.prompt_tokens) + 4 <= 30 for conversation in room for turn in conversation)
    whole = [conversation for conversation in room if conversation[-1].completion.stop == "end"]
    assert whole and max(map(len, whole)) > 2  # they had more to say, and no room


def sample_of(*said: str) -> Sample:
    messages = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(said[:-1]))
    return Sample(Prompt(messages, {"name": "good"}), said[-1], (1,), Completion((2,), (0.0,), "end"), 4)


def test_functions_are_called_by_names() -> None:
    def all_of_it(**given: Any) -> str:
        return " ".join(sorted(given))

    async def later(messages: list[dict[str, str]]) -> str | None:
        return None if len(messages) > 2 else messages[-1]["content"]

    assert FunctionUser(all_of_it)([sample_of("hi", "hello")]) == ["messages name"]
    assert FunctionUser(later)([sample_of("hi", "hello"), sample_of("hi", "a", "b", "c")]) == ["hello", None]


def test_what_a_user_cannot_be() -> None:
    def asks(messages: list[dict[str, str]], plan: str) -> str:
        return plan

    def fails(messages: list[dict[str, str]]) -> str:
        raise ValueError("none")

    with pytest.raises(InputError, match="row 5 has no column 'plan', which the simulated user asks reads; .*: name"):
        FunctionUser(asks)([sample_of("hi", "hello")])
    with pytest.raises(InputError, match="the simulated user <lambda> does not take messages"):
        FunctionUser(lambda said: None)
    with pytest.raises(InputError, match="returned 3 for row 5 .* let it return a text or None"):
        FunctionUser(lambda messages: 3)([sample_of("hi", "hello")])
    with pytest.raises(UsersFault, match="the simulated user fails, for row 5 .* raised ValueError"):
        FunctionUser(fails)([sample_of("hi", "hello")])
    with pytest.raises(InputError, match="there is no simulated user 'nobody': give module:function, or counter"):
        user_of("nobody")
    with pytest.raises(InputError, match="row 1: a conversation begins with messages, but this prompt is plain text"):
        Dialogue(FunctionUser(greets)).check(Prompt("hi", {"name": "a"}), 0)


def test_a_template_that_rewrites_answers_is_refused(tmp_path: Path) -> None:
    forgets = TEMPLATE.replace("{{ m.content }}", "{{ m.content if loop.last else 'hi' }}")
    policy = load_model(save_model(tmp_path / "base", forgets), dtype="float32")
    with pytest.raises(InputError, match="row 1: the chat template renders an earlier answer differently"):
        Dialogue(FunctionUser(greets)).conversations(policy, prompts_of(policy)[:1], 40, Sampling(max_new_tokens=4))


def test_an_answer_that_ended_otherwise_has_its_end_before_the_reply(policy: Policy) -> None:
    def replies(messages: Sequence[Mapping[str, str]]) -> str:
        return "hi"

    sampling = Sampling(max_new_tokens=4, seed=1, stop=("good",))
    conversations = Dialogue(FunctionUser(replies), 2).conversations(policy, prompts_of(policy), 100, sampling)
    stopped = [
        conversation
        for conversation in conversations
        if len(conversation) == 2 and conversation[0].completion.tokens[-1] != policy.end
    ]
    assert stopped
    for first, second in stopped:
        reply = second.prompt_tokens[len(first.prompt_tokens) + len(first.completion.tokens) :]
        words = ["</s>", "<user>", "hi", "</s>", "<assistant>"]
        assert list(reply) == policy.tokenizer.convert_tokens_to_ids(words)

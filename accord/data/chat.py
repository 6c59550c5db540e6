"""Encode prompts and completions as tokens, through the tokenizer's chat template.

A prompt and its completions are tokenized separately, never as one joined text: this is what a sampler sees, and the
only way in which all branches of a tree share exactly the same prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from accord.arrays import Ints
from accord.data.chat_template import (
    INTERNAL_KEYS,
    THOUGHT,
    continue_thought,
    end_marks,
    opened_thought,
    own_words,
    render,
    template_fields,
    thoughts_of,
)
from accord.data.messages import align, common_prefix_length
from accord.data.pieces import Piece, eos_of, join, opening, plain_pieces
from accord.data.tokens import tokenize
from accord.engine.trees import Branch
from accord.engine.turns import TurnEnd, turn_end
from accord.errors import InputError
from accord.records import Message, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*")
"""A thought without words, at the beginning of an answer."""


class RewrittenHistory(InputError):
    """The template renders an earlier answer differently once the chat continues, so no one text holds all answers."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> Ints:
    """The tokens of a prompt, up to where the model generates.

    A string gets the tokenizer's special tokens at the start, and none at the end; an empty string is the
    beginning-of-text token alone, or no token if the tokenizer has none. A chat is rendered by the chat template with
    the generation prompt, or up to the end of its prefill. Raises InputError if there is no template, or it refuses the
    chat.
    """
    [tokens] = tokenize(tokenizer, [prompt_text(tokenizer, prompt)])
    return opening(tokenizer, prompt) + tokens


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, *, whole: bool = False
) -> Branch:
    """The tokens of a completion of `prompt`, ending with the end-of-turn token.

    A text ends with the tokenizer's `eos_token`, a chat's turn with the template's end (`turn_end`). In a chat of
    several turns the assistant's text and end-of-turn tokens are flagged as trained; other turns and all headers are
    not. `whole` appends what the template writes after the last turn, untrained, as reward models read it. Raises
    InputError if the template does not render the prompt as the beginning of the whole chat.
    """
    prompt, (completion,) = align(prompt, completion)
    pieces = completion_pieces(tokenizer, prompt, completion, prompt_text(tokenizer, prompt), whole=whole)
    tokens = tokenize(tokenizer, [piece.text for piece in pieces], [piece.before for piece in pieces])
    return join(tokenizer, pieces, tokens)


def encoder_text(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text) -> dict[str, Any]:
    """The tokenizer's arguments for an encoder model that reads prompt and completion at once.

    A chat is rendered by the chat template if there is one. Otherwise the two are a text pair, with the tokenizer's
    special tokens: the last message is the answer, all earlier messages, joined by empty lines, the question. Raises
    InputError if a message has a field that would not be read.
    """
    prompt, (completion,) = align(prompt, completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        return {"text": prompt, "text_pair": completion} if prompt else {"text": completion}
    prompt, completion = _join_prefill(prompt, completion)
    chat = (*prompt, *completion)
    if tokenizer.chat_template is not None:
        return {"text": render(tokenizer, chat, generation=False), "add_special_tokens": False}
    for turn in chat:
        template_fields(turn, "")
    question = "\n\n".join(turn.content for turn in chat[:-1])
    return {"text": question, "text_pair": chat[-1].content} if question else {"text": chat[-1].content}


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> str:
    """The prompt as the text to tokenize, ending with its prefill if it has one."""
    if isinstance(prompt, str):
        return prompt
    if not has_prefill(prompt):
        return render(tokenizer, prompt, generation=True)
    head = render(tokenizer, prompt[:-1], generation=True)
    begun, opened = prompt[-1].content, opened_thought(head)
    if opened or "<think>" in begun.rpartition("</think>")[2]:  # a thought
        return head + begun.removeprefix(opened).removeprefix(opened.strip())
    return head + _answer_text(tokenizer, prompt[:-1], prompt[-1], head).removesuffix(turn_end(tokenizer).text)


def has_prefill(prompt: Sequence[Message]) -> bool:
    """Whether a chat ends with a prefill: the beginning of an assistant turn that the completion continues."""
    if len(prompt) < 2 or prompt[-1].role != "assistant":
        return False
    return bool(prompt[-1].content.strip()) and not prompt[-1].more.get("tool_calls")


def _join_prefill(
    prompt: tuple[Message, ...], completion: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The prompt without its prefill, and the completion with the prefill joined to its first turn."""
    if not has_prefill(prompt) or completion[0].role != "assistant":
        return prompt, completion
    (*before, begun), (first, *rest) = prompt, completion
    more = {key: value for key, value in begun.more.items() if key not in INTERNAL_KEYS}
    first = replace(first, content=begun.content + first.content, more={**more, **first.more})
    return tuple(before), (first, *rest)


def completion_pieces(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, head: str, *, whole: bool = False
) -> tuple[Piece, ...]:
    """Split a completion into pieces to tokenize; the first one follows `head`, the prompt's text.

    Prompt and completion come from `align`: both strings or both chats. An assistant turn's text is what follows the
    chat before it, rendered with the generation prompt.

    Raises RewrittenHistory if the chat before a later answer does not begin with the earlier answers as generated.
    """
    if isinstance(completion, str):
        return plain_pieces(tokenizer, completion, head, whole)
    added = completion[0].content
    asked, completion = _join_prefill(() if isinstance(prompt, str) else prompt, completion)
    end = turn_end(tokenizer)
    pieces: list[Piece] = []
    rendered = head
    begun = head[len(render(tokenizer, asked, generation=True)) :] if len(asked) < len(prompt) else ""
    for i, turn in enumerate(completion):
        if turn.role != "assistant":
            continue
        so_far = (*asked, *completion[:i])
        if i > 0:
            between = _between_turns(tokenizer, so_far, rendered)
            if pieces and (mark := end.mark(between)):  # the end of the previous turn
                pieces[-1] = replace(pieces[-1], text=pieces[-1].text + mark)
                between, rendered = between.removeprefix(mark), rendered + mark
            pieces.append(Piece(between, rendered, trained=False))
            rendered += between
        answer = _answer_text(tokenizer, so_far, turn, rendered.removesuffix(begun) if i == 0 else rendered)
        if i == 0 and begun:
            is_begun_so = answer.startswith(begun)
            answer = answer[len(begun) :] if is_begun_so else added + ("" if end.is_next else end.text)
        pieces.append(Piece(answer, rendered, trained=turn.is_trained))
        rendered += answer
    if whole:
        return (*pieces, Piece(end.rest, rendered, trained=False))
    if end.is_next and pieces:
        calls = any(turn.more.get(key) for key in ("tool_calls", "function_call"))
        pieces[-1] = replace(pieces[-1], text=pieces[-1].text + (end.call if calls else end.text))
    while pieces and not pieces[-1].trained:
        pieces.pop()
    if not pieces:
        raise InputError("no assistant turn is trained: 'weight' or 'train' masks all of them")
    return tuple(pieces)


def encode_reply(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], message: str, *, ended: bool = True
) -> Ints:
    """The tokens from the assistant's answer, the last of `chat`, to its next one, after the user's reply, `message`.

    They begin after the answer's end-of-turn token, or, if the model did not generate it (not `ended`), with it.

    Raises RewrittenHistory if the continued chat does not contain the answer as generated.
    """
    before, (answer,) = _join_prefill(tuple(chat[:-1]), tuple(chat[-1:]))
    head = render(tokenizer, before, generation=True)
    rendered = head + _answer_text(tokenizer, before, answer, head)
    between = _between_turns(tokenizer, (*before, answer, Message("user", message)), rendered)
    end = turn_end(tokenizer)
    if mark := end.mark(between):
        [tokens] = tokenize(tokenizer, [between.removeprefix(mark) if ended else between], [rendered + mark * ended])
        return tokens
    missing = "" if ended else end.text
    [tokens] = tokenize(tokenizer, [missing + between], [rendered.removesuffix(missing)])
    return tokens


def _between_turns(tokenizer: PreTrainedTokenizerBase, so_far: Sequence[Message], rendered: str) -> str:
    """What the template writes between the text `rendered` and the assistant's next turn."""
    before = render(tokenizer, so_far, generation=True)
    if not before.startswith(rendered):
        raise RewrittenHistory(
            "the chat template renders an earlier answer differently once the chat continues (from "
            f"{_divergence(rendered, before)}), so a completion of several answers is not one text: give each answer "
            "its own row, with the turns before it as its prompt"
        )
    return before[len(rendered) :]


def _answer_text(tokenizer: PreTrainedTokenizerBase, so_far: Sequence[Message], turn: Message, head: str) -> str:
    """The text that the model generates for an answer, as the template renders the last turn, with its end of turn.

    If the template drops part of the answer, such as a thought, or does not begin with the generation prompt (which may
    open a thought), the text is the answer itself, as the continuation of `head`.
    """
    end = turn_end(tokenizer)
    after = render(tokenizer, (*so_far, turn), generation=False)
    plain = render(tokenizer, so_far, generation=False)
    asked = head[len(plain) :] if head.startswith(plain) else ""
    written = after[len(head) :] if after.startswith(head) else ""
    if not written and asked and any(before.role == "assistant" for before in so_far):
        written = after.rpartition(asked)[2] if asked in after else ""  # earlier answers are rendered differently now
    content = own_words(turn, end_marks(tokenizer))
    parts = [part.strip() for part in (*THOUGHT.split(content), *thoughts_of(turn))]
    if (written or after == head) and all(part in written for part in parts):
        body, ended, _ = written.rpartition(end.text) if end.text and not end.is_next else ("", "", "")
        return body + ended if ended else written.removesuffix(end.rest)
    if not written and not after.startswith((head, plain)):
        system = "; --system fold may help" if so_far[0].role == "system" else ""
        raise InputError(
            "the tokenizer's chat template is at fault: it does not render a chat's beginning as the beginning of the "
            f"whole chat (they differ from {_divergence(head, after)}){system}"
        )
    body = _words_after(head, after, end) if turn.more.get("tool_calls") else content
    if thoughts_of(turn) or not all(part in body for part in parts):
        raise InputError(
            "the chat template leaves out the answer's thought: let the model think by --chat-template-kwargs "
            "(enable_thinking=true, thinking=true), or remove the thought"
        )
    return continue_thought(body, head) + ("" if end.is_next else end.text)


def _words_after(head: str, after: str, end: TurnEnd) -> str:
    """What a template writes as an answer with tool calls, where the prompt's text opens a thought and that does not.

    Without an empty thought and the end of turn. Raises InputError if the rest does not follow the prompt.
    """
    begun = head.removesuffix(opened_thought(head))
    if not after.startswith(begun):
        raise InputError(
            "the tokenizer's chat template is at fault: an answer with tool calls does not follow the chat before it "
            f"(they differ from {_divergence(begun, after)})"
        )
    written = after[len(begun) :].removesuffix("" if end.is_next else end.text + end.rest)
    return _EMPTY_THOUGHT.sub("", written, count=1) if _EMPTY_THOUGHT.match(written) else written


def _divergence(before: str, after: str) -> str:
    """The place of the first difference between two texts, for messages."""
    index = common_prefix_length(before, after)
    return f"character {index}, after {after[max(0, index - 20) : index]!r}"


def turn_rest(tokenizer: PreTrainedTokenizerBase) -> Ints:
    """The tokens that the chat template writes after the end of a turn, which models do not generate."""
    end = turn_end(tokenizer)
    return tokenize(tokenizer, [end.rest], [end.text])[0]


def closing(tokenizer: PreTrainedTokenizerBase) -> Ints:
    """The tokens after the text of the last answer in a whole chat: the end of turn, and what the template adds."""
    end = turn_end(tokenizer)
    end_token = () if end.is_next else (eos_of(tokenizer) if end.token is None else end.token,)
    return Ints(end_token) + turn_rest(tokenizer)

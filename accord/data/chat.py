"""Chats as tokens: a prompt, what a model says after it, and its end, by what the chat template writes of them.

A prompt and its completions are tokenized apart, each on its own, and never as one joined text: that is how a sampler
sees them, and the only way in which all branches of a tree have exactly the same prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from accord.arrays import Bools, Ints
from accord.data.chat_template import OURS, for_template, render
from accord.data.messages import align, shared
from accord.data.thoughts import THOUGHT, as_asked, opened_by
from accord.data.tokens import tokenize
from accord.engine.trees import Branch
from accord.engine.turns import turn_end
from accord.errors import InputError
from accord.records import Message, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a completion that is tokenized on its own, behind what is `before` it.

    An assistant's turn is trained, others are not.
    """

    text: str
    before: str
    trained: bool = True


class RewrittenPast(InputError):
    """The template writes an answer otherwise once the chat goes on: no text holds all answers as they were said."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> Ints:
    """The tokens of a prompt, up to where the model speaks.

    A string gets the special tokens its tokenizer puts in front, and none behind; an empty string is the
    beginning-of-text token alone, or nothing where the tokenizer has none. A chat is rendered by the tokenizer's chat
    template with the generation prompt, or up to the end of an answer that it has begun. Raises InputError where there
    is no template, or the template refuses the chat.
    """
    [tokens] = tokenize(tokenizer, [prompt_text(tokenizer, prompt)])
    return opening(tokenizer, prompt) + tokens


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, *, whole: bool = False
) -> Branch:
    """The tokens of a completion of `prompt`, the end-of-turn token last.

    A text ends with the tokenizer's `eos_token`, a chat's turn with what the template writes there (`turn_end`). In a
    chat of several turns the assistant's words and the ends of its turns are flagged as trained; other turns and all
    headers are not. With `whole` what the template writes after the end of the last turn follows, untrained: so reward
    models are read. Raises InputError where the template does not render the prompt as the beginning of the whole chat.
    """
    prompt, (completion,) = align(prompt, completion)
    pieces = completion_pieces(tokenizer, prompt, completion, prompt_text(tokenizer, prompt), whole=whole)
    tokens = tokenize(tokenizer, [piece.text for piece in pieces], [piece.before for piece in pieces])
    return join(tokenizer, pieces, tokens)


def encoder_text(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text) -> dict[str, Any]:
    """What a tokenizer is called with, so that a model which reads a text at once reads a prompt and its completion.

    A chat is rendered by the chat template where there is one. Otherwise the two are a pair of texts, with the special
    tokens that the tokenizer puts around those: the answer is the last message, the question the words of all before
    it, with an empty line between two messages. Raises InputError where a message holds something that nothing reads.
    """
    prompt, (completion,) = align(prompt, completion)
    if isinstance(prompt, str) or isinstance(completion, str):
        return {"text": prompt, "text_pair": completion} if prompt else {"text": completion}
    prompt, completion = _gone_on(prompt, completion)
    chat = (*prompt, *completion)
    if tokenizer.chat_template is not None:
        return {"text": render(tokenizer, chat, generation=False), "add_special_tokens": False}
    for turn in chat:
        for_template(turn, "")
    question = "\n\n".join(turn.content for turn in chat[:-1])
    return {"text": question, "text_pair": chat[-1].content} if question else {"text": chat[-1].content}


def opening(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> tuple[int, ...]:
    """The special tokens before a plain prompt: those the tokenizer adds; an empty one gets its `bos_token` anyway."""
    if not isinstance(prompt, str):
        return ()
    added = list(tokenizer("")["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if added and added[-1] == eos and added != [bos]:
        added.pop()
    if not added and not prompt and bos is not None:
        added = [bos]
    return tuple(added)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> str:
    """The prompt as the text that is tokenized; an answer that it has begun is its end."""
    if isinstance(prompt, str):
        return prompt
    if not is_begun(prompt):
        return render(tokenizer, prompt, generation=True)
    head = render(tokenizer, prompt[:-1], generation=True)
    begun, opened = prompt[-1].content, opened_by(head)
    if opened or "<think>" in begun.rpartition("</think>")[2]:  # a thought
        return head + begun.removeprefix(opened).removeprefix(opened.strip())
    return head + _said(tokenizer, prompt[:-1], prompt[-1], head).removesuffix(turn_end(tokenizer).text)


def is_begun(prompt: Sequence[Message]) -> bool:
    """Whether a chat ends within an answer of the assistant's, which a completion goes on with."""
    if len(prompt) < 2 or prompt[-1].role != "assistant":
        return False
    return bool(prompt[-1].content.strip()) and not prompt[-1].more.get("tool_calls")


def _gone_on(
    prompt: tuple[Message, ...], completion: tuple[Message, ...]
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The two with an answer that the prompt has begun in the completion, whole."""
    if not is_begun(prompt) or completion[0].role != "assistant":
        return prompt, completion
    (*before, begun), (first, *rest) = prompt, completion
    more = {key: value for key, value in begun.more.items() if key not in OURS}
    first = replace(first, content=begun.content + first.content, more={**more, **first.more})
    return tuple(before), (first, *rest)


def completion_pieces(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, head: str, *, whole: bool = False
) -> tuple[Piece, ...]:
    """The completion as texts to tokenize, of which the first follows `head`, the prompt's text.

    The prompt and the completion are as `align` left them: both strings or both chats. An assistant turn is what the
    model says after the chat before it, rendered with the generation prompt.

    Raises:
        RewrittenPast: the chat before a later answer does not begin with the answers before it as they were said.
    """
    if isinstance(completion, str):
        return (Piece(completion, head),)
    added = completion[0].content
    asked, completion = _gone_on(() if isinstance(prompt, str) else prompt, completion)
    end = turn_end(tokenizer)
    pieces: list[Piece] = []
    rendered = head
    begun = head[len(render(tokenizer, asked, generation=True)) :] if len(asked) < len(prompt) else ""
    for i, turn in enumerate(completion):
        if turn.role != "assistant":
            continue
        so_far = (*asked, *completion[:i])
        if i > 0:
            between = _between(tokenizer, so_far, rendered)
            if pieces and (mark := end.mark(between)):  # with which the turn before it ends
                pieces[-1] = replace(pieces[-1], text=pieces[-1].text + mark)
                between, rendered = between.removeprefix(mark), rendered + mark
            pieces.append(Piece(between, rendered, trained=False))
            rendered += between
        said = _said(tokenizer, so_far, turn, rendered.removesuffix(begun) if i == 0 else rendered)
        if i == 0 and begun:
            is_begun_so = said.startswith(begun)
            said = said[len(begun) :] if is_begun_so else added + ("" if end.is_next else end.text)
        pieces.append(Piece(said, rendered, trained=turn.is_trained))
        rendered += said
    if whole:
        return (*pieces, Piece(end.rest, rendered, trained=False))
    if end.is_next and pieces:
        calls = any(turn.more.get(key) for key in ("tool_calls", "function_call"))
        pieces[-1] = replace(pieces[-1], text=pieces[-1].text + (end.call if calls else end.text))
    while pieces and not pieces[-1].trained:
        pieces.pop()
    if not pieces:
        raise InputError("no turn of the assistant's is to be trained on: 'weight' or 'train' masks all of them")
    return tuple(pieces)


def encode_reply(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], said: str, *, ended: bool = True) -> Ints:
    """The tokens between the assistant's answer, the last of `chat`, and its next one, where the user says `said`.

    They begin after the end of the answer's turn, or, where the model did not say that (not `ended`), with it.

    Raises:
        RewrittenPast: the chat goes on otherwise than with the answer as it was said.
    """
    before, (answer,) = _gone_on(tuple(chat[:-1]), tuple(chat[-1:]))
    head = render(tokenizer, before, generation=True)
    rendered = head + _said(tokenizer, before, answer, head)
    between = _between(tokenizer, (*before, answer, Message("user", said)), rendered)
    end = turn_end(tokenizer)
    if mark := end.mark(between):
        [tokens] = tokenize(tokenizer, [between.removeprefix(mark) if ended else between], [rendered + mark * ended])
        return tokens
    missing = "" if ended else end.text
    [tokens] = tokenize(tokenizer, [missing + between], [rendered.removesuffix(missing)])
    return tokens


def _between(tokenizer: PreTrainedTokenizerBase, so_far: Sequence[Message], rendered: str) -> str:
    """What the template writes of the chat so far after what is `rendered`, up to where the assistant speaks next."""
    before = render(tokenizer, so_far, generation=True)
    if not before.startswith(rendered):
        raise RewrittenPast(
            "the chat template writes an answer otherwise once the chat goes on (they part at "
            f"{_parting(rendered, before)}), so a completion of several answers is no one text: give each "
            "answer a row, with the turns before it as its prompt"
        )
    return before[len(rendered) :]


def _said(tokenizer: PreTrainedTokenizerBase, so_far: Sequence[Message], turn: Message, head: str) -> str:
    """What the model says in an answer, the end of its turn included, where that is none of the next turn: what the
    template writes of it as the last turn.

    Where that leaves out some of the answer, such as a thought, or does not begin as the model was asked (the
    generation prompt opens a thought), it is the answer as it stands, after what it was asked.
    """
    end = turn_end(tokenizer)
    after = render(tokenizer, (*so_far, turn), generation=False)
    plain = render(tokenizer, so_far, generation=False)
    asked = head[len(plain) :] if head.startswith(plain) else ""
    written = after[len(head) :] if after.startswith(head) else ""
    if not written and asked and any(before.role == "assistant" for before in so_far):
        written = after.rpartition(asked)[2] if asked in after else ""  # answers before it are written otherwise now
    parts = [part.strip() for part in THOUGHT.split(turn.content)]
    if (written or after == head) and all(part in written for part in parts):
        said, ended, _ = written.rpartition(end.text) if end.text and not end.is_next else ("", "", "")
        return said + ended if ended else written.removesuffix(end.rest)
    if not written and not after.startswith((head, plain)):
        system = "; --system fold may help" if so_far[0].role == "system" else ""
        raise InputError(
            "the tokenizer's chat template is at fault: it does not render a chat's beginning as the beginning of the "
            f"whole chat (they part at {_parting(head, after)}){system}"
        )
    return as_asked(turn.content, head) + ("" if end.is_next else end.text)


def _parting(before: str, after: str) -> str:
    """Where two texts part, for people."""
    index = shared(before, after)
    return f"character {index}, after {after[max(0, index - 20) : index]!r}"


def join(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], tokens: Iterable[Sequence[int]]) -> Branch:
    """A branch from the pieces of a completion and the tokens of each; its last turn ends, if only by an eos_token.

    Where a chat is read whole, and ends with nothing, what begins another turn is no part of it.
    """
    joined: list[int] = []
    trained: list[bool] = []
    last = max((i for i, piece in enumerate(pieces) if piece.trained), default=len(pieces) - 1)
    end = turn_end(tokenizer)
    for i, (piece, ids) in enumerate(zip(pieces, tokens, strict=True)):
        said = list(ids)
        if i == last and not (end.closes(piece.text) or (end.is_next and i + 1 < len(pieces) and said)):
            said += [] if said[-1:] == [_eos(tokenizer)] else [_eos(tokenizer)]
        joined += said
        trained += [piece.trained] * len(said)
    return Branch(Ints(joined), None if all(trained) else Bools(trained))


def turn_rest(tokenizer: PreTrainedTokenizerBase) -> Ints:
    """The tokens that the chat template writes after the end of a turn, which no model says."""
    end = turn_end(tokenizer)
    return tokenize(tokenizer, [end.rest], [end.text])[0]


def closing(tokenizer: PreTrainedTokenizerBase) -> Ints:
    """The tokens that follow the words of the last answer in a chat that is read whole: the end of its turn, and what
    the template writes after that."""
    end = turn_end(tokenizer)
    said = () if end.is_next else (_eos(tokenizer) if end.token is None else end.token,)
    return Ints(said) + turn_rest(tokenizer)


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos_token, which every completion must end with: set one")
    return int(tokenizer.eos_token_id)

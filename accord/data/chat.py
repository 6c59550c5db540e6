"""Texts to tokens: the tokenizer's chat template, the prompt tokenised once, the end-of-turn token always there.

A prompt and its completions are tokenised apart, each on its own, and never as one joined text: that is how a sampler
sees them, and the only way in which all branches of a tree have exactly the same prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from accord.data.messages import align
from accord.engine.trees import Branch
from accord.errors import InputError
from accord.records import Message, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a completion that is tokenised on its own: an assistant's turn is trained, others are not."""

    text: str
    trained: bool = True


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> tuple[int, ...]:
    """The tokens of a prompt, up to where the model speaks.

    A string gets the special tokens its tokenizer puts in front, and none behind; an empty string is the
    beginning-of-text token alone, or nothing where the tokenizer has none. A chat is rendered by the tokenizer's chat
    template with the generation prompt. Raises InputError where there is no template, or the template refuses the chat.
    """
    tokens = tokenise(tokenizer, [prompt_text(tokenizer, prompt)])[0]
    return (opening(tokenizer, prompt) if isinstance(prompt, str) else ()) + tuple(tokens)


def encode_completion(tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text) -> Branch:
    """The tokens of a completion of `prompt`, the end-of-turn token last.

    The end-of-turn token is the tokenizer's `eos_token`. In a chat of several turns the assistant's words and the
    end-of-turn tokens after them are flagged as trained; other turns and all headers are not. Raises InputError where
    the chat template does not render the prompt as the beginning of the whole chat.
    """
    prompt, (completion,) = align(prompt, completion)
    pieces = completion_pieces(tokenizer, prompt, completion, prompt_text(tokenizer, prompt))
    return join(pieces, tokenise(tokenizer, [piece.text for piece in pieces]), end_of_turn(tokenizer))


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, without added special tokens."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def opening(tokenizer: PreTrainedTokenizerBase, prompt: str = "") -> tuple[int, ...]:
    """The special tokens before a plain prompt: those the tokenizer adds; an empty one gets its `bos_token` anyway."""
    added = list(tokenizer("")["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if added and added[-1] == eos and added != [bos]:
        added.pop()
    if not added and not prompt and bos is not None:
        added = [bos]
    return tuple(added)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a completion."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos_token, which every completion must end with: set one")
    return int(tokenizer.eos_token_id)


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> str:
    """The prompt as the text that is tokenised."""
    return prompt if isinstance(prompt, str) else render(tokenizer, prompt, generation=True)


def completion_pieces(
    tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: Text, head: str
) -> tuple[Piece, ...]:
    """The completion as texts to tokenise, of which the first follows `head`, the prompt's text.

    The prompt and the completion are as `align` left them: both strings or both chats. In a chat, an assistant turn is
    what the template adds to the chat before it rendered with the generation prompt.
    """
    if isinstance(completion, str):
        return (Piece(completion),)
    asked = () if isinstance(prompt, str) else prompt
    pieces: list[Piece] = []
    rendered = head
    for place, turn in enumerate(completion):
        if turn.role != "assistant":
            continue
        so_far = (*asked, *completion[:place])
        if place > 0:
            before = render(tokenizer, so_far, generation=True)
            pieces.append(Piece(_added(rendered, before), trained=False))
            rendered = before
        after = render(tokenizer, (*so_far, turn), generation=False)
        pieces.append(Piece(_added(rendered, after)))
        rendered = after
    return tuple(pieces)


def join(pieces: Iterable[Piece], tokens: Iterable[Sequence[int]], end: int) -> Branch:
    """A branch from the pieces of a completion and the tokens of each.

    What a template puts between the end-of-turn token and the next turn is not trained on; after the last end-of-turn
    token it is cut. Where the last turn has no such token, one is appended.
    """
    joined: list[int] = []
    trained: list[bool] = []
    last = 0
    for piece, ids in zip(pieces, tokens, strict=True):
        spoken = len(ids)
        if piece.trained:
            spoken = _after_last(ids, end) or len(ids)
            last = len(joined) + spoken
        joined += ids
        trained += [piece.trained and place < spoken for place in range(len(ids))]
    del joined[last:], trained[last:]
    if not joined or joined[-1] != end:
        joined.append(end)
        trained.append(True)
    return Branch(tuple(joined), None if all(trained) else tuple(trained))


def render(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Message], *, generation: bool) -> str:
    """The chat as its tokenizer's template writes it, with the generation prompt where `generation`."""
    if tokenizer.chat_template is None:
        raise InputError("the tokenizer has no chat template: give it one, or use plain text in place of messages")
    if not chat:
        raise InputError("a chat needs a turn before the assistant's first: its prompt has no messages")
    messages = [{"role": turn.role, "content": turn.content} for turn in chat]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except TemplateError as error:
        raise InputError(f"the tokenizer's chat template refuses the chat ({error})") from None
    return str(text)


def _added(before: str, after: str) -> str:
    """What a template adds when a chat goes on from the text `before` to the text `after`."""
    if not after.startswith(before):
        place = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
        raise InputError(
            "the tokenizer's chat template is at fault: it does not render a chat's beginning as the beginning of the "
            f"whole chat (they part at character {place}, after {after[max(0, place - 20) : place]!r})"
        )
    return after[len(before) :]


def _after_last(tokens: Sequence[int], end: int) -> int:
    """The place after the last `end` in `tokens`, 0 where there is none."""
    return next((place for place in range(len(tokens), 0, -1) if tokens[place - 1] == end), 0)

"""The token and text that end a turn, learned once from what the chat template writes after an answer or before a
turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION, ANSWER = "question", "answer"
"""The words of the dialogue by which a template is tried."""


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What a template writes between an answer and the next turn.

    A model generates `text`, which ends with `token`, and never `rest`, such as the newline after it. Without a
    template, or with one that marks no end, `text` is empty and a turn ends with the tokenizer's eos_token.

    Some templates mark only the beginnings of turns, by tokens at which their models stop (GLM-4's `<|user|>` and
    `<|observation|>`). There the end `is_next`, the first token of the following turn: `text` is that of a user's turn
    and `call` that of a tool's.
    """

    token: int | None
    text: str = ""
    rest: str = ""
    call: str = ""

    @property
    def is_next(self) -> bool:
        return bool(self.call)

    def mark(self, following: str) -> str:
        """The mark that ends a turn, given the text after it; "" where the turn's own text includes its end."""
        return next((mark for mark in (self.text, self.call) if self.is_next and following.startswith(mark)), "")

    def closes(self, text: str) -> bool:
        """Whether a text ends with a turn's end."""
        return text.endswith(tuple(filter(None, (self.text, self.call))))


_learned: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, TurnEnd]] = WeakKeyDictionary()


def turn_end(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    """How turns end in a tokenizer's chat template: with its first added token after an answer.

    Where it writes nothing after an answer, with the first token of the next turn, if that is a stop token of the model
    (`stops_at`).
    """
    known = (str(tokenizer.chat_template), tokenizer.eos_token, stops_of(tokenizer))
    if tokenizer not in _learned or _learned[tokenizer][0] != known:
        _learned[tokenizer] = known, _learn(tokenizer)
    return _learned[tokenizer][1]


def stops_at(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> None:
    """Record on a tokenizer, and so on its copies, the tokens at which its model stops."""
    tokenizer._stops = tuple(tokens)  # type: ignore[attr-defined]


def stops_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that `stops_at` recorded."""
    return getattr(tokenizer, "_stops", ())


def _learn(tokenizer: PreTrainedTokenizerBase) -> TurnEnd:
    tail = _after_an_answer(tokenizer)
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
    if tokenizer.eos_token is not None:
        added[str(tokenizer.eos_token)] = int(tokenizer.eos_token_id)
    # the first token in the text; of several at one position the longest
    first = min(((tail.find(text), -len(text), text) for text in added if text and text in tail), default=None)
    if first is not None:
        end = first[0] + len(first[2])
        return TurnEnd(added[first[2]], tail[:end], tail[end:])
    stops = [text for text, index in added.items() if text and index in stops_of(tokenizer)]
    user = "" if tail else _first_of_next(tokenizer, "user", stops)
    if not user:
        return TurnEnd(tokenizer.eos_token_id, rest=tail)
    calls = (_first_of_next(tokenizer, role, stops) for role in ("tool", "observation"))
    return TurnEnd(added[user], user, call=next(filter(None, calls), user))


def _first_of_next(tokenizer: PreTrainedTokenizerBase, role: str, stops: Iterable[str]) -> str:
    """Which of these tokens begins the template's text for a turn after an answer; "" if none."""
    tail = _after_an_answer(tokenizer, {"role": role, "content": "next"})
    return max((stop for stop in stops if tail.startswith(stop)), key=len, default="")


_read_parts: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, bool]] = WeakKeyDictionary()


def as_read(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Messages as the chat template reads them: with their text in a list of one part, if it reads only such lists.

    Templates of models that also read images do (SmolVLM's, LLaVA's), and drop plain strings.
    """
    known = str(tokenizer.chat_template)
    if tokenizer not in _read_parts or _read_parts[tokenizer][0] != known:
        questions = [{"role": "user", "content": QUESTION}], _in_parts([{"role": "user", "content": QUESTION}])
        as_text, as_parts = (QUESTION in rendered(tokenizer, messages) for messages in questions)
        _read_parts[tokenizer] = known, as_parts and not as_text
    return _in_parts(messages) if _read_parts[tokenizer][1] else list(messages)


def _in_parts(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [{**m, "content": [{"type": "text", "text": m["content"]}] if m["content"] else []} for m in messages]


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], *, generation: bool = False
) -> str:
    """The template's text of a chat; "" if the template refuses it.

    A template may fail without tools or documents, which a row may have; it is tried with empty lists of these too.
    """
    with_lists: dict[str, Any] = {"tools": [], "documents": []}
    for more in ({}, with_lists):
        try:
            return str(
                tokenizer.apply_chat_template(
                    list(messages),  # type: ignore[arg-type]
                    tokenize=False,
                    add_generation_prompt=generation,
                    **more,
                )
            )
        except Exception:  # templates raise anything; an error in the data is reported later with its row
            continue
    return ""


def _after_an_answer(tokenizer: PreTrainedTokenizerBase, *turns: dict[str, str]) -> str:
    """The template's text after the answer of a short dialogue, with `turns` following it; "" if the template refuses
    it."""
    if tokenizer.chat_template is None:
        return ""
    dialogue = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}, *turns]
    text = rendered(tokenizer, as_read(tokenizer, dialogue))
    return text.rpartition(ANSWER)[2] if ANSWER in text else ""

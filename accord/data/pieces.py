"""The pieces of a completion, which are tokenized separately and joined to a branch, and the tokens around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accord.arrays import Bools, Ints
from accord.engine.trees import Branch
from accord.engine.turns import stops_of, turn_end
from accord.errors import InputError
from accord.records import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment of a completion that is tokenized separately, as the continuation of the text `before` it.

    Assistant turns are trained, others are not.
    """

    text: str
    before: str
    trained: bool = True


def opening(tokenizer: PreTrainedTokenizerBase, prompt: Text) -> tuple[int, ...]:
    """The special tokens that the tokenizer adds before a plain prompt; an empty prompt gets the `bos_token` anyway.

    A prompt that begins with the `bos_token`, as one rendered before, gets no second.
    """
    if not isinstance(prompt, str):
        return ()
    added = list(tokenizer("")["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if added and added[-1] == eos and added != [bos]:
        added.pop()
    if not added and not prompt and bos is not None:
        added = [bos]
    if added and added[-1] == bos and prompt.startswith(str(tokenizer.bos_token)):
        added.pop()
    return tuple(added)


def plain_pieces(tokenizer: PreTrainedTokenizerBase, completion: str, head: str, whole: bool) -> tuple[Piece, ...]:
    """A plain completion as pieces; one that was rendered before keeps its own end of turn and beginning of text.

    White space after that end is read by reward models (`whole`), but not trained.
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    if not head and bos and completion.startswith(bos) and opening(tokenizer, "")[-1:] == (tokenizer.bos_token_id,):
        completion = completion.removeprefix(bos)
    words = completion.rstrip()
    if words == completion or not (turn_end(tokenizer).closes(words) or (eos and words.endswith(eos))):
        return (Piece(completion, head),)
    rest = (Piece(completion[len(words) :], head + words, trained=False),) if whole else ()
    return (Piece(words, head), *rest)


def join(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[Piece], tokens: Iterable[Sequence[int]]) -> Branch:
    """Join the pieces' tokens to a branch; its last trained turn ends with the template's end, another token at which
    the model stops (gpt-oss's `<|call|>`), or an `eos_token`."""
    joined: list[int] = []
    trained: list[bool] = []
    last = max((i for i, piece in enumerate(pieces) if piece.trained), default=len(pieces) - 1)
    end = turn_end(tokenizer)
    for i, (piece, ids) in enumerate(zip(pieces, tokens, strict=True)):
        piece_tokens = list(ids)
        if i == last and not (end.closes(piece.text) or (end.is_next and i + 1 < len(pieces) and piece_tokens)):
            eos = eos_of(tokenizer)
            piece_tokens += [] if {*piece_tokens[-1:]} & {eos, *stops_of(tokenizer)} else [eos]
        joined += piece_tokens
        trained += [piece.trained] * len(piece_tokens)
    return Branch(Ints(joined), None if all(trained) else Bools(trained))


def eos_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The eos_token. Raises InputError where the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no eos_token, which every completion must end with: set one")
    return int(tokenizer.eos_token_id)

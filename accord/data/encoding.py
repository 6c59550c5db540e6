"""Encode records as trees for training, and rows' prompts for sampling.

Whole datasets are tokenized in one call and fitted to the maximum length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from accord.arrays import Tokens
from accord.data.chat import RewrittenHistory, completion_pieces, encode_prompt, prompt_text
from accord.data.messages import align
from accord.data.notes import unread_settings
from accord.data.pieces import Piece, join, opening
from accord.data.tokens import tokenize
from accord.engine.spaces import adds_space
from accord.engine.trees import Branch, Tree
from accord.engine.turns import turn_end
from accord.errors import InputError, LeftOut, located, row_called
from accord.records import (
    Demonstration,
    EncodedPrompt,
    Labeled,
    Preference,
    Prompt,
    Ranking,
    Row,
    Text,
    Tokenization,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_ROOM = "the prompt leaves no room for a completion"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The trees of a dataset, and a line for each reason that rows were left out, with their number and which."""

    trees: list[Tree]
    left_out: list[str]


def to_tree(tokenizer: PreTrainedTokenizerBase, row: Row, index: int = -1) -> Tree:
    """Encode one row as a tree, at full length.

    A preference has the branches (chosen, rejected) with ranks (0, 1); a ranking has its own ranks; a labeled
    completion has rank 0 if desirable, else 1; a demonstration has no ranks. `index` is the row's index, from 0. Raises
    InputError as `encode` does, except for lengths.
    """
    with located(f"{row_called(index)}: "):
        trees = _trees(tokenizer, [row])
        if len(trees) > 1:
            raise InputError(f"the chat template gives each of the {len(trees)} answers a different prompt")
    return replace(trees[0], row=index)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    max_length: int,
    context: int | None,
    whole: bool = False,
    left_out: LeftOut | None = None,
) -> Encoded:
    """Encode rows as trees whose prompt and any one branch have at most min(`max_length`, `context`) tokens.

    Completions are cut at the right, losing their end-of-turn token. A row is left out, and listed in `left_out`, if
    its prompt leaves no room for a completion, or two branches of different rank have the same tokens (after cutting).
    `context` is the model's maximum sequence length (None: unlimited). `whole` extends completions to the end of what
    the chat template writes, as reward models read them.

    If the template renders earlier answers differently from the last (without thoughts), or has no end of turn, a
    demonstration of several answers becomes one tree per answer, each with the prompt the model would have seen.

    Raises InputError for a prompt longer than `context`, a prompt without completion, a text that the chat template
    cannot render, and if no row is left. A `left_out` that is not strict collects such rows instead.
    """
    if max_length < 1:
        raise InputError(f"max_length must be at least 1, not {max_length}")
    longest = max_length if context is None else min(max_length, context)
    left_out = LeftOut(strict=True) if left_out is None else left_out
    left_out.taken += unread_settings(tokenizer.chat_template, rows)
    kept: list[Tree] = []
    for tree in _trees(tokenizer, rows, whole=whole, left_out=left_out):
        if context is not None and len(tree.prompt) > context:
            why = (
                f"the prompt has {len(tree.prompt)} tokens, more than the model's context of {context}: shorten it or "
                "remove the row"
            )
            left_out.add(
                tree.row, why, kind=f"the prompt is longer than the model's context of {context} tokens", is_bad=False
            )
            continue
        fitted = replace(tree, branches=tuple(_cut(branch, longest - len(tree.prompt)) for branch in tree.branches))
        reason = _unusable(fitted)
        if reason is None:
            kept.append(fitted)
        else:
            left_out.add(tree.row, f"{reason} within {longest} tokens", is_asked=True)
    if not kept:
        _require_usable(left_out)
        can_rise = context is None or max_length < context
        is_cut = can_rise and any(reason.why.startswith(NO_ROOM) for reason in left_out.reasons)
        why = "; ".join([*left_out.lines(), *["raise --max-length"] * is_cut]) or "the data holds no rows"
        raise InputError(f"no row is left to train on: {why}")
    return Encoded(kept, left_out.lines())


def _require_usable(left_out: LeftOut) -> None:
    """Raise InputError for the first row that cannot be used, if any."""
    if bad := next((reason for reason in left_out.reasons if reason.is_bad), None):
        raise InputError(f"{bad.where}: {bad.why}")


def _trees(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    whole: bool = False,
    left_out: LeftOut | None = None,
) -> list[Tree]:
    """Encode all rows as trees, tokenizing their texts in one call for speed."""
    plans = []
    texts: list[str] = []
    befores: list[str] = []
    for i, row in enumerate(rows):
        index = i if left_out is None else left_out.index(i)
        try:
            planned = [_plan(tokenizer, part, whole) for part in _split_answers(tokenizer, row)]
        except InputError as error:
            if left_out is None:
                raise
            if left_out.strict:
                raise InputError(f"{row_called(index)}: {error}") from None
            left_out.add(i, str(error))
            continue
        for head, begin, branches, ranks in planned:
            pieces = [piece for branch in branches if not isinstance(branch, Branch) for piece in branch]
            texts += [head, *(piece.text for piece in pieces)]
            befores += ["", *(piece.before for piece in pieces)]
            more: dict[str, Any] = {"user": row.user} if isinstance(row, Preference | Ranking) else {}
            more |= {"margin": row.margin, "probability": row.probability} if isinstance(row, Preference) else {}
            plans.append((index, begin, branches, ranks, more))
    tokens = iter(tokenize(tokenizer, texts, befores))
    trees = []
    for index, begin, branches, ranks, more in plans:
        prompt_tokens = begin + next(tokens)
        joined = tuple(
            branch if isinstance(branch, Branch) else join(tokenizer, branch, [next(tokens) for _ in branch])
            for branch in branches
        )
        trees.append(Tree(prompt_tokens, joined, ranks, index, **more))
    return trees


def _plan(
    tokenizer: PreTrainedTokenizerBase, row: Row, whole: bool
) -> tuple[str, Tokens, list[Branch | tuple[Piece, ...]], tuple[int, ...]]:
    """A row before tokenization: the prompt's text and opening tokens, the completions' pieces, and their ranks.

    A completion whose tokens are known is given as a branch.
    """
    if isinstance(row, Tokenization):
        if max(row.tokens) >= len(tokenizer):
            raise InputError(
                f"'input_ids' has the token {max(row.tokens)}, and the tokenizer's last is {len(tokenizer) - 1}: "
                "tokenize the row with this tokenizer"
            )
        first = next(i for i, is_trained in enumerate(row.trained) if is_trained)
        mask = row.trained[first:]
        return "", row.tokens[:first], [Branch(row.tokens[first:], None if all(mask) else mask)], ()
    completions, ranks = branches_of(row)
    if not completions:
        raise InputError("a prompt without a completion cannot be trained on: add a column completion")
    prompt, completions = align(row.prompt, *completions)
    head = prompt_text(tokenizer, prompt)
    if own := _sampled_tokens(tokenizer, row):
        return head, opening(tokenizer, prompt), [Branch(own)], ranks
    branches: list[Branch | tuple[Piece, ...]] = [
        completion_pieces(tokenizer, prompt, completion, head, whole=whole) for completion in completions
    ]
    return head, opening(tokenizer, prompt), branches, ranks


def _sampled_tokens(tokenizer: PreTrainedTokenizerBase, row: Row) -> Tokens:
    """The sampled tokens of a demonstration's completion, if this tokenizer decodes them to its text; else none."""
    if not isinstance(row, Demonstration) or not row.tokens or max(row.tokens) >= len(tokenizer):
        return ()
    text = row.completion if isinstance(row.completion, str) else "".join(turn.content for turn in row.completion)
    read = str(tokenizer.decode(list(row.tokens), skip_special_tokens=True))
    is_own = read == text or (f" {read}" == text and adds_space(tokenizer))
    return row.tokens if is_own else ()


def _split_answers(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[Row]:
    """The row, or one demonstration per answer if the template rewrites earlier answers or has no end of turn."""
    if not isinstance(row, Demonstration) or isinstance(row.completion, str) or len(row.completion) == 1:
        return [row]
    prompt, (turns,) = align(row.prompt, row.completion)
    try:
        completion_pieces(tokenizer, prompt, turns, prompt_text(tokenizer, prompt))
    except RewrittenHistory:
        pass
    else:
        if turn_end(tokenizer).text:
            return [row]
    asked = (*prompt, *turns)
    answers = [i for i in range(len(prompt), len(asked)) if asked[i].role == "assistant" and asked[i].is_trained]
    return [Demonstration(asked[:i], asked[i : i + 1]) for i in answers]


def branches_of(row: Row) -> tuple[tuple[Text, ...], tuple[int, ...]]:
    """The completions of a row and their ranks; a demonstration has no ranks, a prompt neither."""
    match row:
        case Demonstration(completion=completion):
            return (completion,), ()
        case Labeled(completion=completion, label=label):
            return (completion,), (0 if label else 1,)
        case Preference(chosen=chosen, rejected=rejected):
            return (chosen, rejected), (0, 1)
        case Ranking(completions=completions, ranks=ranks):
            return completions, ranks
    return (), ()


def _cut(branch: Branch, room: int) -> Branch:
    """The branch's first `room` tokens."""
    room = max(room, 0)
    if len(branch.tokens) <= room:
        return branch
    trained = None if branch.trained is None or all(branch.trained[:room]) else branch.trained[:room]
    return Branch(branch.tokens[:room], trained)


def _unusable(tree: Tree) -> str | None:
    """Why the tree cannot be trained on, None if it can."""
    if not all(branch.tokens and (branch.trained is None or any(branch.trained)) for branch in tree.branches):
        return NO_ROOM
    ranked = combinations(zip(tree.branches, tree.ranks, strict=False), 2)
    if any(a.tokens == b.tokens and i != j for (a, i), (b, j) in ranked):
        return "completions of different rank are the same tokens"
    return None


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    room: int,
    context: int | None,
    longest: int | None = None,
    left_out: LeftOut | None = None,
) -> tuple[list[EncodedPrompt], list[str]]:
    """Encode the prompts that leave `room` for a completion within `longest` tokens; also lines about those left out,
    and about what the chat template does not read.

    Raises InputError if a prompt is empty, cannot be rendered by the chat template, or does not fit the model's
    `context` with its completion, and if no prompt is left. A `left_out` that is not strict collects such prompts
    instead.
    """
    kept: list[EncodedPrompt] = []
    within, remedy = f"the model's context of {context}", "shorten the prompts or lower --max-new-tokens"
    left_out = LeftOut(strict=True) if left_out is None else left_out
    unread = unread_settings(tokenizer.chat_template, rows)
    left_out.taken += unread
    for i, row in enumerate(rows):
        prompt = row if isinstance(row, Prompt) else Prompt(row.prompt)
        try:
            tokens = encode_prompt(tokenizer, prompt.prompt)
        except InputError as error:
            left_out.add(i, str(error))
            continue
        if not tokens:
            left_out.add(i, "the prompt is empty; give it something to answer.", kind="the prompt is empty")
        elif context is not None and len(tokens) + room > context:
            why = (
                f"the prompt of {len(tokens)} tokens and a completion of {room} do not fit into the model's context of "
                f"{context}; shorten the prompt or lower --max-new-tokens."
            )
            left_out.add(
                i,
                why,
                kind=f"prompt and completion do not fit into the model's context of {context} tokens",
                is_bad=False,
            )
        elif longest is not None and len(tokens) + room > longest:
            left_out.add(i, f"{NO_ROOM} within {longest} tokens", is_asked=True)
            within, remedy = str(longest), "raise --max-length"
        else:
            kept.append(EncodedPrompt(prompt, tokens, left_out.index(i)))
    if rows and not kept:
        _require_usable(left_out)
        raise InputError(f"no prompt leaves room for {room} new tokens within {within} tokens; {remedy}.")
    return kept, [*unread, *left_out.lines()]

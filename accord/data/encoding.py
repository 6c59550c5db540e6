"""What is trained on: records as trees, and the prompts of rows as a sampler takes them.

Whole data sets are tokenized at once and fitted to the length that training allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from accord.arrays import Tokens
from accord.data.chat import (
    Piece,
    RewrittenPast,
    completion_pieces,
    encode_prompt,
    join,
    opening,
    prompt_text,
    tokenize,
)
from accord.data.messages import align
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
    """The trees of a data set, and a line for every reason that rows were left out, with how many and which."""

    trees: list[Tree]
    left_out: list[str]


def to_tree(tokenizer: PreTrainedTokenizerBase, row: Row, index: int = -1) -> Tree:
    """The row as a tree, at full length.

    A preference has the branches (chosen, rejected) with ranks (0, 1); a ranking its own; a labeled completion has
    rank 0 where it is desirable and 1 where it is not; a demonstration has no ranks. `index` is the row's number,
    from 0. Raises InputError as `encode` does, but for what length decides.
    """
    with located(f"{row_called(index)}: "):
        trees = _trees(tokenizer, [row])
        if len(trees) > 1:
            raise InputError(f"the chat template gives each of its {len(trees)} answers a prompt of its own")
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
    """The rows as trees in which a prompt with any one branch has at most min(`max_length`, `context`) tokens.

    Completions are cut at the right, and lose their end-of-turn token with it. A row is left out, and listed in
    `left_out`, where its prompt leaves no room for a completion, or where two branches of different rank are the same
    tokens (once cut). `context` is the model's longest sequence (None: unlimited). With `whole` completions go on to
    the end of what the chat template writes, as reward models are read.

    Where the template writes earlier answers otherwise than the last (without their thoughts), or marks no end of a
    turn, a demonstration of several answers becomes as many trees, each with the prompt that the model would have seen.

    Raises InputError for a prompt longer than `context`, for prompts without completions, where a text cannot be
    rendered by the chat template, and where no row is left. With a `left_out` that is not strict such rows are left out
    and noted there.
    """
    if max_length < 1:
        raise InputError(f"max_length must be at least 1, not {max_length}")
    longest = max_length if context is None else min(max_length, context)
    left_out = LeftOut(strict=True) if left_out is None else left_out
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
        reason = _fault(fitted)
        if reason is None:
            kept.append(fitted)
        else:
            left_out.add(tree.row, f"{reason} within {longest} tokens", is_asked=True)
    if not kept:
        _require_usable(left_out)
        raise InputError(f"no row is left to train on: {'; '.join(left_out.lines()) or 'the data holds no rows'}")
    return Encoded(kept, left_out.lines())


def _require_usable(left_out: LeftOut) -> None:
    """Raise InputError for the first row that cannot be used, where there is one."""
    if bad := next((reason for reason in left_out.reasons if reason.is_bad), None):
        raise InputError(f"{bad.where}: {bad.why}")


def _trees(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    whole: bool = False,
    left_out: LeftOut | None = None,
) -> list[Tree]:
    """All rows as trees; their texts are tokenized in one call, which is what makes it quick."""
    plans = []
    texts: list[str] = []
    befores: list[str] = []
    for i, row in enumerate(rows):
        index = i if left_out is None else left_out.index(i)
        try:
            planned = [_plan(tokenizer, part, whole) for part in _parts(tokenizer, row)]
        except InputError as error:
            if left_out is None:
                raise
            if left_out.strict:
                raise InputError(f"{row_called(index)}: {error}") from None
            left_out.add(i, str(error))
            continue
        for head, begin, branches, ranks in planned:
            pieces = [piece for said in branches if not isinstance(said, Branch) for piece in said]
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
            said if isinstance(said, Branch) else join(tokenizer, said, [next(tokens) for _ in said])
            for said in branches
        )
        trees.append(Tree(prompt_tokens, joined, ranks, index, **more))
    return trees


def _plan(
    tokenizer: PreTrainedTokenizerBase, row: Row, whole: bool
) -> tuple[str, Tokens, list[Branch | tuple[Piece, ...]], tuple[int, ...]]:
    """A row before it is tokenized: its prompt's text and what opens it, its completions' pieces, and their ranks.

    A completion whose tokens are known is a branch already.
    """
    if isinstance(row, Tokenization):
        if max(row.tokens) >= len(tokenizer):
            raise InputError(
                f"'input_ids' has the token {max(row.tokens)}, and the tokenizer ends at {len(tokenizer) - 1}: the row "
                "was made with another tokenizer"
            )
        first = next(i for i, is_trained in enumerate(row.trained) if is_trained)
        mask = row.trained[first:]
        return "", row.tokens[:first], [Branch(row.tokens[first:], None if all(mask) else mask)], ()
    completions, ranks = branches_of(row)
    if not completions:
        raise InputError("a prompt without a completion cannot be trained on: a completion column is needed")
    prompt, completions = align(row.prompt, *completions)
    head = prompt_text(tokenizer, prompt)
    if own := _own(tokenizer, row):
        return head, opening(tokenizer, prompt), [Branch(own)], ranks
    branches: list[Branch | tuple[Piece, ...]] = [
        completion_pieces(tokenizer, prompt, said, head, whole=whole) for said in completions
    ]
    return head, opening(tokenizer, prompt), branches, ranks


def _own(tokenizer: PreTrainedTokenizerBase, row: Row) -> Tokens:
    """The tokens that were drawn for a row's completion, where its text is what this tokenizer reads in them."""
    if not isinstance(row, Demonstration) or not row.tokens or max(row.tokens) >= len(tokenizer):
        return ()
    said = row.completion if isinstance(row.completion, str) else "".join(turn.content for turn in row.completion)
    read = str(tokenizer.decode(list(row.tokens), skip_special_tokens=True))
    is_own = read == said or (f" {read}" == said and adds_space(tokenizer))
    return row.tokens if is_own else ()


def _parts(tokenizer: PreTrainedTokenizerBase, row: Row) -> list[Row]:
    """The row, or the answers of a demonstration one by one where no one text holds all of them as they were said, or
    none but the last would end, as the template marks no end."""
    if not isinstance(row, Demonstration) or isinstance(row.completion, str) or len(row.completion) == 1:
        return [row]
    prompt, (turns,) = align(row.prompt, row.completion)
    try:
        completion_pieces(tokenizer, prompt, turns, prompt_text(tokenizer, prompt))
    except RewrittenPast:
        pass
    else:
        if turn_end(tokenizer).text:
            return [row]
    asked = (*prompt, *turns)
    answers = [i for i in range(len(prompt), len(asked)) if asked[i].role == "assistant" and asked[i].is_trained]
    return [Demonstration(asked[:i], asked[i : i + 1]) for i in answers]


def branches_of(row: Row) -> tuple[tuple[Text, ...], tuple[int, ...]]:
    """The completions of a row, and their ranks, which a demonstration has not; of a prompt neither."""
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


def _fault(tree: Tree) -> str | None:
    """Why the tree cannot be trained on, if so."""
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
    """The rows' prompts that leave `room` for a completion within `longest` tokens, and a line for those left out.

    Raises InputError where a prompt is empty, cannot be rendered by the chat template, or with its completion would not
    fit into the model's `context`, or all are longer than `longest`. With a `left_out` that is not strict such prompts
    are left out and noted there.
    """
    kept: list[EncodedPrompt] = []
    left_out = LeftOut(strict=True) if left_out is None else left_out
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
        else:
            kept.append(EncodedPrompt(prompt, tokens, left_out.index(i)))
    if rows and not kept:
        _require_usable(left_out)
        raise InputError(f"no prompt leaves room for {room} new tokens within {longest} tokens; raise --max-length.")
    return kept, left_out.lines()

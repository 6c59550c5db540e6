"""`accord data`: how the rows of a file are read, and which of their tokens a model would be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text as Line

from accord import data as rows_of
from accord import engine
from accord.console import legible, show, status
from accord.errors import InputError, LeftOut
from accord.evaluate.options import ChatOptions, takes
from accord.records import Preference, Prompt, Row, Text, Tokenization
from accord.records import show as as_text

if TYPE_CHECKING:
    from accord.engine import Branch, Policy, Tree


@takes(ChatOptions)
def data(
    file: str | list[str], *, model: str | None = None, first: int = 3, max_length: int = 512, **options: Any
) -> None:
    """Show how rows are read: their kind, number and length, the first ones, and which are left out and why.

    With a model, the first rows are shown as its chat template renders them, with marks around the trained tokens, and
    lengths are in tokens.

    Args:
        file: a file, a folder or a Hub name; or several, each with :WEIGHT for a mix.
        model: a folder, a Hugging Face Hub name, or smollm2, whose tokenizer and chat template are used.
        first: how many rows to show.
        max_length: the most tokens of prompt and completion together. Longer completions are cut; rows with longer
            prompts are left out.
        options: the fields of `ChatOptions`.

    Raises:
        InputError: the file cannot be read, or none of its rows can be used.
    """
    if first < 0:
        raise InputError(f"--first must be 0 or more, not {first}.")
    if max_length < 1:
        raise InputError(f"max_length must be at least 1, not {max_length}.")
    settings, left_out = ChatOptions(**options), LeftOut()
    rows = _read(file, settings, left_out)
    policy = settings.templated(engine.load.load_model(model)) if model else None
    trees: list[Tree] = []
    if policy and isinstance(rows[0], Prompt):
        prompts, _ = rows_of.encoding.encode_prompts(
            policy.tokenizer, rows, room=1, context=policy.context, longest=max_length, left_out=left_out
        )
        trees = [engine.trees.Tree(prompt.tokens, (), (), prompt.row) for prompt in prompts]
    elif policy:
        trees = rows_of.encoding.encode(
            policy.tokenizer, rows, max_length=max_length, context=policy.context, left_out=left_out
        ).trees
    show(summary(rows_of.mix.called(file), rows, trees))
    for reason in (*left_out.taken, *left_out.lines()):
        status(reason)
    lines = [marked(policy, tree) for tree in trees[:first]] if policy else []
    for number, line in enumerate(lines or [plain(row) for row in rows[:first]], 1):
        show(Line(f"row {number}", "bold"), line)


def _read(file: str | list[str], settings: ChatOptions, left_out: LeftOut) -> list[Row]:
    """The rows to train on; of chats of which none has an answer the prompts, as commands that sample read them."""
    arguments: dict[str, Any] = {"split": settings.split, "limit": settings.limit, "columns": settings.columns}
    try:
        return rows_of.load_data(file, left_out=left_out, **arguments)
    except InputError:
        with suppress(InputError):
            rows = [record for record, *_ in rows_of.load.read_rows(file, left_out=None, keep=True, **arguments)]
            if all(isinstance(row, Prompt) for row in rows):
                left_out.reasons.clear()
                return rows
        raise


def summary(file: str, rows: Sequence[Row], trees: Sequence[Tree]) -> Table:
    """A table of the rows' kind and number, and the lengths of their prompts and completions."""
    prompts = [row.prompt for row in rows]
    completions = [completion for row in rows for completion in rows_of.encoding.branches_of(row)[0]]
    unit = "tokens" if trees else "characters"
    lengths = {"prompt": [len(as_text(text)) for text in prompts], "completion": [len(as_text(c)) for c in completions]}
    if trees:
        lengths = {
            "prompt": [len(tree.prompt) for tree in trees],
            "completion": [len(branch.tokens) for tree in trees for branch in tree.branches],
        }
    grid = Table(file, "")
    form = "tokens" if isinstance(rows[0], Tokenization) else _form(prompts + completions)
    grid.add_row("read as", f"{type(rows[0]).__name__.lower()}s, {form}")
    grid.add_row("rows", f"{len(rows):,}")
    for name, sizes in lengths.items():
        if sizes:
            grid.add_row(f"{name}, {unit}", f"{min(sizes):,} to {max(sizes):,}, median {median(sizes):,.0f}")
    if lengths["completion"] and trees:
        grid.add_row("between ⟦ and ⟧", "what is trained on")
    doubts = [row.probability for row in rows if isinstance(row, Preference) and row.probability != 1]
    if doubts:
        grid.add_row("may be wrong", f"{len(doubts):,} rows, chosen_probability {min(doubts):.3f} to {max(doubts):.3f}")
    return grid


def _form(texts: Iterable[Text]) -> str:
    chats = {not isinstance(text, str) for text in texts if text}
    return "chats and plain texts" if len(chats) > 1 else "chats" if chats == {True} else "plain texts"


def plain(row: Row) -> Line:
    """A row as text, its prompt before its completions; tokens as numbers, the trained ones between ⟦ and ⟧."""
    if isinstance(row, Tokenization):
        tokens = zip(row.tokens, row.trained, strict=True)
        return Line(" ".join(f"⟦{token}⟧" if is_trained else str(token) for token, is_trained in tokens))
    completions, ranks = rows_of.encoding.branches_of(row)
    line = Line(legible(as_text(row.prompt)), "dim")
    for i, completion in enumerate(completions):
        rank = f" (rank {ranks[i]})" if ranks else ""
        line.append(f"\n-> completion{rank}: ", "bold").append(legible(as_text(completion)), "not dim")
    return line


def marked(policy: Policy, tree: Tree) -> Line:
    """A tree as the model reads it, with ⟦ and ⟧ around trained tokens."""
    line = Line(_spelled(policy, tree.prompt), "dim")
    for i, branch in enumerate(tree.branches):
        rank = f" (rank {tree.ranks[i]})" if tree.ranks else ""
        line.append(f"\n-> completion{rank}: ", "bold")
        for is_trained, text in _stretches(policy, branch):
            line.append(f"⟦{text}⟧" if is_trained else text, "not dim" if is_trained else "dim")
    return line


def _stretches(policy: Policy, branch: Branch) -> Iterator[tuple[bool, str]]:
    trained = branch.trained or (True,) * len(branch.tokens)
    for is_trained, some in groupby(zip(trained, branch.tokens, strict=True), key=lambda pair: pair[0]):
        yield is_trained, _spelled(policy, tuple(token for _, token in some))


def _spelled(policy: Policy, tokens: Sequence[int]) -> str:
    return legible(str(policy.tokenizer.decode(list(tokens))))

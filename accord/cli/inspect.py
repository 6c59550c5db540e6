"""`accord inspect`: look inside a model as it reads a text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text as Line

from accord import data, engine
from accord.console import on_one_line, show
from accord.errors import InputError
from accord.records import Message, Text

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine.inside import Inside
    from accord.engine.models import Policy
    from accord.report.inside import Guess, Reading, Spot

MOST = 128
"""Tokens of a text that pictures can still show."""

NEIGHBOURS = 5
"""Nearest embeddings of each token in the table ..."""

TIED, SPREAD = 3, 16
"""... and in the picture, of so many of the text's tokens."""


def inspect(
    model: str,
    text: str,
    *,
    out: str | None = None,
    chat: bool = False,
    layer: int | None = None,
    head: int | None = None,
    top: int = 10,
) -> Path:
    """Look inside a model as it reads a text, in tables on the terminal and on a page with pictures.

    Shown are its tokens with the probability that the model gave each, what the model expects next, its attention, what
    it would predict after each layer (the logit lens), and the tokens whose embeddings are nearest.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        text: what the model reads, at most 128 tokens.
        out: the HTML file to write, or the folder for it; without it runs/inspect.html, or inspect-2.html and so on
            where that is taken.
        chat: make the text a user's message in the model's chat template.
        layer: show the attention of this layer large, counted from 1.
        head: show the attention of this head large, counted from 1; without either, the head that looks most elsewhere.
        top: how many of the likeliest next tokens to show.

    Raises:
        InputError: the text is empty or too long, or there is no such layer or head.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, not {top}.")
    from accord.report.html import page_file
    from accord.report.inside import write_inside

    path = page_file(out, "inspect.html") if out else unused(Path("runs/inspect.html"))
    policy = engine.load.load_model(model)
    prompt: Text = (Message("user", text),) if chat else text
    tokens = data.chat.encode_prompt(policy.tokenizer, prompt)
    longest = min(MOST, policy.context or MOST)
    if not text or not 1 <= len(tokens) <= longest:
        problem = "is empty" if not text or not tokens else f"has {len(tokens)} tokens"
        raise InputError(f"the text {problem}; give one of 1 to {longest} tokens.")
    read = reading(policy, text, chat, engine.inside.look(policy.network, tokens), top, layer, head)
    write_inside(read, path)
    show(*tables(read))
    print(f"The pictures: {path}")
    return path


def unused(path: Path) -> Path:
    """The path, with a number where that is taken already."""
    numbered = (path.with_stem(f"{path.stem}-{n}") for n in count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


def reading(
    policy: Policy, text: str, is_chat: bool, inside: Inside, top: int, layer: int | None, head: int | None
) -> Reading:
    """What a model made of a text, as the page and the terminal show it."""
    from accord.report.inside import Guess, Reading, Token

    ids = inside.tokens.tolist()
    best = inside.logp[-1].topk(min(top, inside.logp.shape[1]))
    given, ranks, entropies = inside.given().tolist(), inside.ranks().tolist(), inside.entropies().tolist()
    thought = zip(given, ranks, entropies[:-1], strict=True)
    own = list(dict.fromkeys(ids))
    embeddings: Tensor = policy.network.get_input_embeddings().weight  # type: ignore[assignment]
    near, cosines = engine.inside.nearest(embeddings, own, NEIGHBOURS)
    spots, kept = _spots(policy, embeddings, own[:SPREAD], near[:SPREAD, :TIED])

    def guesses(best_ids: Tensor, logps: Tensor) -> tuple[Guess, ...]:
        pairs = zip(best_ids.tolist(), logps.tolist(), strict=True)
        return tuple(Guess(spelled(policy, token), token, logp) for token, logp in pairs)

    return Reading(
        model=policy.name,
        text=text,
        is_chat=is_chat,
        tokens=tuple(Token(spelled(policy, i), i, *known) for i, known in zip(ids, [(), *thought], strict=True)),
        following=guesses(best.indices, best.values),
        entropy=entropies[-1],
        attention=tuple(weights.double().numpy() for weights in inside.attention),
        chosen=chosen(inside.attention, layer, head),
        is_asked_for=layer is not None or head is not None,
        lens=tuple(guesses(*row) for row in zip(inside.lens, inside.lens_logp, strict=True)),
        neighbors=tuple(
            (spelled(policy, i), tuple((spelled(policy, n), c) for n, c in zip(*row, strict=True)))
            for i, row in zip(own, zip(near.tolist(), cosines.tolist(), strict=True), strict=True)
        ),
        spots=spots,
        kept_variance=kept,
    )


def spelled(policy: Policy, token: int) -> str:
    """A token's text on one line, with signs for what cannot be seen; of one without text, its name."""
    text = str(policy.tokenizer.decode([token]))
    return on_one_line(text or str(policy.tokenizer.convert_ids_to_tokens(token)))


def chosen(attention: tuple[Tensor, ...], layer: int | None, head: int | None) -> tuple[int, int]:
    """The layer and head to show large, from 0: those asked for, else of those left the one that looks most elsewhere.

    Raises InputError where there is no such layer or head.
    """
    shape = (len(attention), len(attention[0])) if attention else (0, 0)
    for what, asked, there in (("layer", layer, shape[0]), ("head", head, shape[1])):
        if asked is not None and not 1 <= asked <= there:
            has = f"{there} {what}s, counted from 1" if there else "no attention to show"
            raise InputError(f"--{what} {asked} is not there: the model has {has}.")
    if not attention:
        return 0, 0
    shares = engine.inside.elsewhere(attention)
    open_to = shares.new_full(shares.shape, -1)
    rows = slice(None) if layer is None else layer - 1
    columns = slice(None) if head is None else head - 1
    open_to[rows, columns] = shares[rows, columns]
    return divmod(int(open_to.argmax()), shape[1])


def _spots(policy: Policy, embeddings: Tensor, own: list[int], near: Tensor) -> tuple[tuple[Spot, ...], float]:
    """The tokens and their neighbors, each once, on the plane of their principal components."""
    from accord.report.inside import Spot

    of: dict[int, int | None] = dict.fromkeys(own)
    for index, others in enumerate(near.tolist()):
        for other in others:
            of.setdefault(other, index)
    points, kept = engine.inside.plane(embeddings[list(of)])
    spots = (Spot(spelled(policy, i), x, y, o) for (i, o), (x, y) in zip(of.items(), points.tolist(), strict=True))
    return tuple(spots), kept


def tables(read: Reading) -> Iterator[Table]:
    """The tables for the terminal; what surprised the model is colored."""
    colors = ("", "", "yellow", "dark_orange", "red", "bold red")
    table = Table("token", *_right("id", "probability", "log p", "rank", "entropy before"), title="What it read")
    for token in read.tokens:
        row = [str(token.id)]
        if token.logp is not None:
            row += [f"{token.probability:.4f}", f"{token.logp:.3f}", f"{token.rank:,}", f"{token.entropy:.3f}"]
        table.add_row(Line(token.text, colors[token.shade]), *row)
    yield table
    table = Table("token", *_right("id", "probability", "log p"), title=f"What comes next (entropy {read.entropy:.3f})")
    for guess in read.following:
        table.add_row(Line(guess.text), str(guess.id), f"{guess.probability:.4f}", f"{guess.logp:.3f}")
    yield table
    table = Table(
        *_right("after layer"),
        "likeliest next token",
        *_right("probability"),
        title="What would come next, were each layer the last",
    )
    for layer, row_of in enumerate(read.lens):
        guess = row_of[-1]
        table.add_row(str(layer) if layer else "embeddings", Line(guess.text), f"{guess.probability:.4f}")
    yield table
    table = Table("token", "nearest embeddings, with cosines", title="Neighbors")
    for text, near in read.neighbors:
        table.add_row(Line(text), Line("  ".join(f"{other} {cosine:.2f}" for other, cosine in near)))
    yield table


def _right(*names: str) -> list[Any]:
    return [Column(name, justify="right") for name in names]

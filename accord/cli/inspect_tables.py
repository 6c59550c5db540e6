"""The tables that `accord inspect` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table
from rich.text import Text as Line

if TYPE_CHECKING:
    from accord.report.reading import Analogy, Direction, HeadReading, Parts, Reading, Words

WIDE = 72
"""The least width of a table, so that its title and caption are not broken."""

LOOKED_AT = 8
"""How many of the tokens with the largest attention weights are shown."""


def of_text(read: Reading) -> Iterator[Table]:
    """The tables of a model reading a text; surprising tokens are colored."""
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
    if read.look:
        yield _of_head(read, read.look)
    if read.parts:
        yield _of_parts(read.parts)
    table = Table("token", "nearest embeddings, with cosines", title="Neighbors")
    for text, near in read.neighbors:
        table.add_row(Line(text), Line("  ".join(f"{other} {cosine:.2f}" for other, cosine in near)))
    yield table


def _of_head(read: Reading, look: HeadReading) -> Table:
    layer, head = read.chosen
    title = f"What layer {layer + 1}, head {head + 1} adds at {read.tokens[look.position].text}"
    table = Table("looks at", *_right("score", "share", "length added"), "raises most, in logits", title=title)
    most = sorted(range(len(look.keys)), key=lambda j: -look.keys[j].weight)[:LOOKED_AT]
    for key in (look.keys[j] for j in sorted(most)):
        score = "" if key.score is None else f"{key.score:.2f}"
        raised = "  ".join(f"{text} {much:+.2f}" for text, much in key.raised)
        table.add_row(Line(key.text), score, f"{key.weight:.3f}", f"{key.length:.3f}", Line(raised))
    return table


def _of_parts(parts: Parts) -> Table:
    """What each part adds to a token's logit (the sum is in the title), and the norms of the parts."""
    title = Line(f"What adds up to the logit of {parts.token}, {parts.total:+.2f} above the mean token's")
    split = bool(parts.attention)
    columns = ("attention", "MLP", "attention's length", "MLP's length") if split else ("adds", "length")
    table = Table("layer", *_right(*columns), title=title)
    empty = [""] * (len(columns) - 1)
    table.add_row("embedding", f"{parts.embedding:+.3f}", *empty)
    rows = zip(parts.attention, parts.mlp, parts.attention_lengths, parts.mlp_lengths, strict=True)
    whole = zip(parts.layers, parts.layer_lengths, strict=True)
    for number, (a, b, *lengths) in enumerate(rows, start=1):
        table.add_row(str(number), f"{a:+.3f}", f"{b:+.3f}", *(f"{length:.2f}" for length in lengths))
    for number, (value, length) in enumerate(whole if not split else (), start=1):
        table.add_row(str(number), f"{value:+.3f}", f"{length:.2f}")
    if parts.constant:
        table.add_row("biases", f"{parts.constant:+.3f}", *empty)
    return table


def of_words(words: Words) -> Iterator[Table]:
    """The tables of word embeddings."""
    if words.analogy:
        yield _of_analogy(words.analogy)
    if words.direction:
        yield _of_direction(words.direction)


def _of_analogy(analogy: Analogy) -> Table:
    own = "  ".join(f"{text} {cosine:.3f}" for text, cosine in analogy.own)
    table = Table(
        "token",
        *_right("cosine"),
        title=Line(f"Nearest to {analogy.terms}"),
        caption=Line(f"left out: {own}"),
        min_width=WIDE,
    )
    for text, cosine in analogy.nearest:
        table.add_row(Line(text), f"{cosine:.3f}")
    return table


def _of_direction(direction: Direction) -> Table:
    pairs = len(direction.pairs)
    caption = f"of {pairs} pairs, along the mean of the others, the second is farther in {direction.agreeing}"
    table = Table(
        "word",
        *_right("dot product", "cosine"),
        title=f"Along the direction (length {direction.length:.3f})",
        caption=caption if pairs > 1 else "a single pair is measured along itself",
        min_width=WIDE,
    )
    for word in [*(word for pair in direction.pairs for word in pair), *direction.others]:
        table.add_row(Line(word.text), f"{word.dot:+.3f}", f"{word.cosine:+.3f}")
    return table


def _right(*names: str) -> list[Any]:
    return [Column(name, justify="right") for name in names]

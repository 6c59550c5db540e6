"""`accord inspect`: look inside a model as it reads a text."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from accord import data, engine
from accord.arrays import Tokens
from accord.cli import inspect_tables, inspect_words
from accord.cli.inspect_words import spelled
from accord.console import show
from accord.errors import InputError
from accord.records import Message, Text

if TYPE_CHECKING:
    from torch import Tensor

    from accord.engine.inside import Inside
    from accord.engine.models import Policy
    from accord.engine.stream import Stream
    from accord.report.reading import EmbeddedToken, HeadReading, Parts, Reading

MOST = 128
"""The longest text, in tokens, that the pictures can show."""

NEIGHBORS = 5
"""Nearest embeddings per token in the table."""

TIED, SPREAD = 3, 16
"""Nearest embeddings per token in the picture, and the number of tokens of the text that it shows."""

RAISED = 3
"""How many of the tokens whose logits a value raises most are shown."""


def inspect(
    model: str,
    text: str = "",
    *,
    out: str | None = None,
    chat: bool = False,
    layer: int | None = None,
    head: int | None = None,
    position: int | None = None,
    top: int = 10,
    analogy: str | list[str] | None = None,
    direction: str | list[str] | None = None,
    along: str | list[str] | None = None,
) -> Path:
    """Look inside a model as it reads a text, in tables on the terminal and on a page with pictures.

    The output has the text's tokens with the probability the model gave each, its next-token predictions, its attention
    and the scores before the softmax, what a head's values and each layer's attention and MLP add, the prediction after
    each layer (the logit lens), and the tokens with the nearest embeddings. With or without a text, it has sums and
    directions of word embeddings.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        text: the text to read, at most 128 tokens; needed unless --analogy or --direction is given.
        out: the HTML file to write, or the folder for it (default: runs/inspect.html, or the next free inspect-2.html
            ...).
        chat: render the text as a user's message in the model's chat template.
        layer: enlarge the attention of this layer, counted from 1.
        head: enlarge the attention of this head, counted from 1 (default: the head that looks most at other tokens).
        position: show what that head and every layer add at this token, counted from 1 (default: the last).
        top: how many of the likeliest next tokens, and of the words nearest to a sum, to show.
        analogy: a sum of words, such as king - man + woman, whose nearest embeddings are shown.
        direction: pairs of words, such as cat:cats dog:dogs, whose mean difference is a direction.
        along: words to project on that direction, in addition to the pairs' own.

    Raises:
        InputError: the text is empty or too long, there is no such layer, head or position, or a word is not a single
            token of the model.
    """
    if top < 1:
        raise InputError(f"--top must be at least 1, not {top}.")
    questions = inspect_words.read(analogy, direction, along)
    of_text = {"chat": chat or None, "layer": layer, "head": head, "position": position}
    given = next((name for name, value in of_text.items() if value is not None), None)
    if given and questions and not text:
        raise InputError(f"--{given} is about a text; give one, or leave it out.")
    from accord.report.html import page_file
    from accord.report.inside import write_inside

    path = page_file(out, "inspect.html") if out else unused(Path("runs/inspect.html"))
    policy = engine.load.load_model(model)
    words = inspect_words.answer(policy, questions, top)
    read = None if questions and not text else read_text(policy, text, chat, View(layer, head, position, top))
    write_inside(policy.name, read, words, path)
    show(*(inspect_tables.of_text(read) if read else ()), *inspect_tables.of_words(words))
    print(f"The pictures: {path}")
    return path


def unused(path: Path) -> Path:
    """The path, with a number added where the file exists."""
    numbered = (path.with_stem(f"{path.stem}-{n}") for n in count(2))
    return path if not path.exists() else next(other for other in numbered if not other.exists())


@dataclass(frozen=True)
class View:
    """The layer, head and position shown enlarged, counted from 1 or None, and how many likeliest tokens are shown."""

    layer: int | None = None
    head: int | None = None
    position: int | None = None
    top: int = 10


def read_text(policy: Policy, text: str, is_chat: bool, view: View) -> Reading:
    """Everything that the page and the tables show of a model reading a text.

    Raises InputError where the text is empty or too long, or the layer, head or position does not exist.
    """
    from accord.report.reading import Guess, Reading, Token

    tokens = _tokens(policy, text, is_chat)
    index = (view.position or len(tokens)) - 1
    if not 0 <= index < len(tokens) or view.position == 0:
        raise InputError(f"--position {view.position} is not there: the text has {len(tokens)} tokens, counted from 1.")
    inside, stream = engine.inside.look(policy.network, tokens), engine.stream.trace(policy.network, tokens)
    large = chosen(inside.attention, view.layer, view.head)
    ids = inside.tokens.tolist()
    best = inside.logp[-1].topk(min(view.top, inside.logp.shape[1]))
    logp, ranks, entropies = inside.token_logp().tolist(), inside.ranks().tolist(), inside.entropies().tolist()
    thought = zip(logp, ranks, entropies[:-1], strict=True)
    own = list(dict.fromkeys(ids))
    embeddings: Tensor = policy.network.get_input_embeddings().weight  # type: ignore[assignment]
    near, cosines = engine.inside.nearest(embeddings, own, NEIGHBORS)
    spots, kept = _spots(policy, embeddings, own[:SPREAD], near[:SPREAD, :TIED])

    def guesses(best_ids: Tensor, logps: Tensor) -> tuple[Guess, ...]:
        pairs = zip(best_ids.tolist(), logps.tolist(), strict=True)
        return tuple(Guess(spelled(policy, token), token, logp) for token, logp in pairs)

    return Reading(
        text=text,
        is_chat=is_chat,
        tokens=tuple(Token(spelled(policy, i), i, *known) for i, known in zip(ids, [(), *thought], strict=True)),
        following=guesses(best.indices, best.values),
        entropy=entropies[-1],
        attention=tuple(weights.double().numpy() for weights in inside.attention),
        scores=tuple(scores.double().numpy() for scores in inside.scores),
        chosen=large,
        is_asked_for=(view.layer, view.head) != (None, None),
        look=_look(policy, inside, stream, large, index) if inside.attention else None,
        parts=_parts(policy, inside, stream, index) if stream else None,
        lens=tuple(guesses(*row) for row in zip(inside.lens, inside.lens_logp, strict=True)),
        neighbors=tuple(
            (spelled(policy, i), tuple((spelled(policy, n), c) for n, c in zip(*row, strict=True)))
            for i, row in zip(own, zip(near.tolist(), cosines.tolist(), strict=True), strict=True)
        ),
        spots=spots,
        kept_variance=kept,
    )


def _tokens(policy: Policy, text: str, is_chat: bool) -> Tokens:
    prompt: Text = (Message("user", text),) if is_chat else text
    tokens = data.chat.encode_prompt(policy.tokenizer, prompt)
    longest = min(MOST, policy.context or MOST)
    if not text or not 1 <= len(tokens) <= longest:
        problem = "is empty" if not text or not tokens else f"has {len(tokens)} tokens"
        raise InputError(f"the text {problem}; give one of 1 to {longest} tokens.")
    return tokens


def chosen(attention: tuple[Tensor, ...], layer: int | None, head: int | None) -> tuple[int, int]:
    """The layer and head to enlarge, from 0: those asked for, else the head that attends most to other tokens.

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


def _look(
    policy: Policy, inside: Inside, stream: Stream | None, large: tuple[int, int], index: int
) -> HeadReading | None:
    """What the enlarged head attends to at a position, and what each value, times its weight, adds there."""
    from accord.report.reading import HeadReading, Key

    layer, head = large
    if stream is None or len(stream.mixing) != len(inside.attention):
        return None
    added = stream.mixing[layer].added(head, index)[: index + 1]
    norm, raised = stream.last_norm(index), list[tuple[tuple[str, float], ...]]()
    for much in stream.raised(added, norm) if norm else ():
        best = much[: policy.vocabulary].topk(min(RAISED, policy.vocabulary))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        raised.append(tuple((spelled(policy, token), value) for token, value in pairs))
    scores = inside.scores[layer][head, index] if inside.scores else None
    return HeadReading(
        index,
        tuple(
            Key(
                spelled(policy, token),
                float(scores[j]) if scores is not None else None,
                float(inside.attention[layer][head, index, j]),
                float(added[j].norm()),
                raised[j] if raised else (),
            )
            for j, token in enumerate(inside.tokens[: index + 1].tolist())
        ),
    )


def _parts(policy: Policy, inside: Inside, stream: Stream, index: int) -> Parts | None:
    """What every layer adds at a position to the logit of the token that the model finds likeliest there."""
    from accord.report.reading import Parts

    token = int(inside.logp[index, : policy.vocabulary].argmax())
    effect = stream.toward(token, index)
    if effect is None:
        return None

    def numbers(values: Tensor | None) -> tuple[float, ...]:
        return () if values is None else tuple(values.tolist())

    def lengths(parts: Tensor | None) -> tuple[float, ...]:
        return () if parts is None else tuple(parts[:, index].norm(dim=-1).tolist())

    return Parts(
        position=index,
        token=spelled(policy, token),
        embedding=float(effect.embedding),
        constant=float(effect.constant),
        attention=numbers(effect.attention),
        mlp=numbers(effect.mlp),
        layers=numbers(effect.layers),
        attention_lengths=lengths(stream.attention),
        mlp_lengths=lengths(stream.mlp),
        layer_lengths=lengths(stream.layers),
    )


def _spots(policy: Policy, embeddings: Tensor, own: list[int], near: Tensor) -> tuple[tuple[EmbeddedToken, ...], float]:
    """The tokens and their neighbors, each once, on the plane of their principal components."""
    from accord.report.reading import EmbeddedToken

    of: dict[int, int | None] = dict.fromkeys(own)
    for index, others in enumerate(near.tolist()):
        for other in others:
            of.setdefault(other, index)
    points, kept = engine.inside.plane(embeddings[list(of)])
    placed = zip(of.items(), points.tolist(), strict=True)
    spots = (EmbeddedToken(spelled(policy, token), x, y, neighbor) for (token, neighbor), (x, y) in placed)
    return tuple(spots), kept

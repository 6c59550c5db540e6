"""Word embeddings in `accord inspect`: sums of words, and directions given by pairs of words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from accord import engine
from accord.console import on_one_line
from accord.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from accord.engine.models import Policy
    from accord.report.reading import Analogy, Direction, Words

MINUS = ("-", "−", "–")


@dataclass(frozen=True)
class Questions:
    """The terms of a sum, each with whether it is subtracted; the pairs of a direction, and words to project on it."""

    terms: tuple[tuple[bool, str], ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    along: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.terms or self.pairs)


def read(
    analogy: str | Sequence[str] | None, direction: str | Sequence[str] | None, along: str | Sequence[str] | None
) -> Questions:
    """The questions from the options' strings: `king - man + woman`, `cat:cats dog:dogs`, and words.

    Raises InputError where a string has another form.
    """
    if along is not None and direction is None:
        raise InputError("--along needs --direction: give pairs of words, as cat:cats dog:dogs.")
    return Questions(
        () if analogy is None else _terms(_words(analogy)),
        () if direction is None else _pairs(_words(direction)),
        () if along is None else tuple(_words(along)),
    )


def _words(text: str | Sequence[str]) -> list[str]:
    return (text if isinstance(text, str) else " ".join(text)).split()


def _terms(words: list[str]) -> tuple[tuple[bool, str], ...]:
    signs, names = ["+", *words[1::2]], words[::2]
    if len(names) < 2 or len(names) != len(signs) or not {*signs} <= {"+", *MINUS} or {*names} & {"+", *MINUS}:
        text = " ".join(words)
        raise InputError(f"--analogy {text!r} is not a sum of words; write it with spaces, as king - man + woman.")
    terms = tuple((sign in MINUS, name) for sign, name in zip(signs, names, strict=True))
    plus, minus = (sorted(name for is_minus, name in terms if is_minus == which) for which in (False, True))
    if plus == minus:
        raise InputError(f"--analogy {' '.join(words)!r} subtracts all that it adds; change a word.")
    return terms


def _pairs(words: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(word.split(":")) for word in words]
    wrong = next((word for word, pair in zip(words, pairs, strict=True) if len(pair) != 2 or not all(pair)), None)
    if wrong is not None or not pairs:
        raise InputError(f"--direction needs pairs of words, as cat:cats dog:dogs, not {wrong or 'nothing'!r}.")
    same = next((word for word, (first, second) in zip(words, pairs, strict=True) if first == second), None)
    if same is not None:
        raise InputError(f"--direction {same} is the same word twice, which has no direction.")
    if sorted(pairs) == sorted((second, first) for first, second in pairs):
        raise InputError(
            f"--direction {' '.join(words)} has each pair in both directions; leave out the reversed pairs."
        )
    return tuple((first, second) for first, second in pairs)


def answer(policy: Policy, questions: Questions, top: int) -> Words:
    """The answers from the model's embeddings.

    Raises InputError where a word is not a single token of the model.
    """
    from accord.report.reading import Words

    embeddings: Tensor = policy.network.get_input_embeddings().weight[: policy.vocabulary]  # type: ignore[assignment, index]
    return Words(
        _analogy(policy, embeddings, questions, top) if questions.terms else None,
        _direction(policy, embeddings, questions) if questions.pairs else None,
    )


def token_of(policy: Policy, word: str) -> int:
    """The one token of a word, preferably with a space before it.

    Raises InputError where it is several tokens, or unknown.
    """
    forms = [policy.tokenizer.encode(form, add_special_tokens=False) for form in (f" {word}", word)]
    whole = next((ids[0] for ids in forms if len(ids) == 1), None)
    if whole is None:
        pieces = min(forms, key=len)
        shown = " | ".join(spelled(policy, token) for token in pieces)
        raise InputError(
            f"{word!r} is {len(pieces)} tokens of {policy.name} ({shown}); ask about words that are one token."
        )
    if whole == policy.tokenizer.unk_token_id:
        raise InputError(f"{policy.name} has no token for {word!r}; ask about words that it knows.")
    return int(whole)


def spelled(policy: Policy, token: int) -> str:
    """A token's text on one line, with signs for hidden characters; its name where it has no text."""
    text = str(policy.tokenizer.decode([token]))
    return on_one_line(text or str(policy.tokenizer.convert_ids_to_tokens(token)))


def _analogy(policy: Policy, embeddings: Tensor, questions: Questions, top: int) -> Analogy:
    from accord.report.reading import Analogy

    tokens = [(is_minus, token_of(policy, word)) for is_minus, word in questions.terms]
    plus, minus = ([token for is_minus, token in tokens if is_minus == which] for which in (False, True))
    ids, cosines = engine.directions.analogy(embeddings, plus, minus, top)
    to_all = engine.directions.toward(embeddings, plus, minus)
    own = {token: float(to_all[token]) for _, token in tokens}
    (_, first), *rest = tokens
    terms = " ".join([spelled(policy, first), *(f"{'−' if off else '+'} {spelled(policy, t)}" for off, t in rest)])
    return Analogy(
        terms,
        tuple((spelled(policy, token), cosine) for token, cosine in own.items()),
        tuple((spelled(policy, t), c) for t, c in zip(ids.tolist(), cosines.tolist(), strict=True)),
    )


def _direction(policy: Policy, embeddings: Tensor, questions: Questions) -> Direction:
    from accord.report.reading import Direction, TokenProjection

    pairs = [(token_of(policy, first), token_of(policy, second)) for first, second in questions.pairs]
    differences = engine.directions.differences(embeddings, pairs)
    mean = differences.mean(0)

    def measured(tokens: Sequence[int], direction: Tensor) -> list[TokenProjection]:
        dots, cosines = (values.tolist() for values in engine.directions.along(embeddings, tokens, direction))
        return [TokenProjection(spelled(policy, t), d, c) for t, d, c in zip(tokens, dots, cosines, strict=True)]

    both = (measured(pair, rest) for pair, rest in zip(pairs, engine.directions.left_out(differences), strict=True))
    return Direction(
        tuple((first, second) for first, second in both),
        tuple(measured([token_of(policy, word) for word in questions.along], mean)),
        float(mean.norm()),
    )

"""`accord label`: preferences from samples, by judges that compare the completions of each prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accord import feedback
from accord.cli.aggregate import combined
from accord.console import status
from accord.data.conventions import user_of
from accord.errors import InputError
from accord.evaluate.options import checked_by, takes
from accord.feedback.options import JudgesOptions
from accord.outputs import require_file, save_rows
from accord.records import Comparison, Prompt, Ranking, Text, Verdict

if TYPE_CHECKING:
    from accord.feedback.judge import Judge
    from accord.feedback.ranking import RankingJudge


def _check(
    judge: str | Sequence[str], by: str | None, agreement: float | None, pairs: int | None, soft: bool, rankings: bool
) -> None:
    """Raise InputError where options do not fit each other, or a number makes no sense."""
    if rankings and (soft or pairs is not None):
        raise InputError("--rankings compares all completions and writes their ranks; leave out --soft and --pairs.")
    if by is not None and (isinstance(judge, str) or len(judge) == 1):
        raise InputError(f"--by {by} is for several judges, and there is one: name more, or leave it out.")
    if pairs is not None and pairs < 1:
        raise InputError(f"--pairs must be at least 1, not {pairs}.")
    if agreement is not None:
        feedback.people.require_agreement(agreement)


@takes(JudgesOptions)
@checked_by(_check)
def label(
    data: str | list[str],
    out: str,
    *,
    judge: str | list[str],
    by: Literal["mean", "dawid-skene", "bradley-terry", "majority"] | None = None,
    agreement: float | None = None,
    seed: int | None = None,
    pairs: int | None = None,
    soft: bool = False,
    rankings: bool = False,
    columns: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Have judges compare the completions of each prompt, and write their preferences as rows of chosen and rejected.

    Judges that might favor a position are asked in both orders. Ties and invalid answers are counted and left out.
    Where rows name a `user`, completions for the same user are compared, and the preferences are that user's. Replies
    of language models are saved at once, in --journal or next to --out: if the command ends for any reason, the same
    command continues from there, and no request is repeated.

    Args:
        data: a file of prompts and completions, as `accord sample` writes it, or several. Completions of the same
            prompt are compared.
        out: the JSONL file of preferences to write.
        judge: the judge: the folder of a reward or preference model, ai:MODEL or the YAML file of an AI judge, a small
            world (cafe) whose gold reward judges, module:function, or any reward; or several of these.
        by: how several judges' verdicts are combined: the mean of their log-odds (the default), or dawid-skene,
            bradley-terry or majority, as in `accord aggregate`, which also say how reliable each judge is.
        agreement: how often a simulated labeler agrees with the world's gold reward (default: always).
        seed: seed of the simulated labeler's errors and of the principles drawn (default: 0).
        pairs: the most comparisons per prompt, taken in the order of its completions.
        soft: also write the judge's probability, as chosen_probability, and keep ties, as rows with probability .5.
        rankings: write one ranking per prompt, with ties, instead of pairs: as a ranking judge orders the completions,
            or by the number of others that each beats over all pairs.
        columns: the data's own names for accord's columns: prompt=question,completion=said.
        options: the fields of `JudgesOptions`.

    Raises:
        InputError: a server cannot be asked, or the budget is spent (replies so far are kept); no prompt has two
            different completions, or none is preferred to another.
    """
    _check(judge, by, agreement, pairs, soft, rankings)
    require_file(out, data, judge, options)
    from accord.data.load import load_samples
    from accord.data.mix import called

    comparisons = comparisons_of(load_samples(data, columns), pairs)
    if not comparisons:
        raise InputError(f"{called(data)} has no prompt with two different completions; sample with --n 2 or more.")
    judges = _judges(judge, options, seed, journal=f"{out}.journal", agreement=agreement)
    first, *others = judges.values()
    if rankings and not others and isinstance(first, feedback.ranking.RankingJudge):
        return _write_rankings(out, *_at_once(first, comparisons))
    by_judge = {name: _verdicts(name, one, comparisons, alone=not others) for name, one in judges.items()}
    verdicts, believed = combined(by_judge, comparisons, by or "mean", seed or 0)
    _write(out, comparisons, verdicts, rankings=rankings, soft=soft)
    if believed:
        believed.show()
    return Path(out)


def _judges(
    judge: str | list[str],
    options: Mapping[str, Any],
    seed: int | None,
    *,
    journal: str,
    agreement: float | None,
) -> dict[str, Judge]:
    """The judges by name."""
    names = [judge] if isinstance(judge, str) else judge
    settings = JudgesOptions(**options)
    given = settings.of_models(options) | ({} if seed is None else {"seed": seed})
    judges = feedback.named.judges_named(names, given, journal=journal, agreement=agreement)
    settings.allow(list(judges.values()))
    return judges


def _write(
    out: str, comparisons: Sequence[Comparison], verdicts: Sequence[Verdict], *, rankings: bool, soft: bool
) -> None:
    """Write the preferences or rankings, and print how many ties and invalid verdicts there were."""
    if rankings:
        _write_rankings(out, *_by_wins(comparisons, verdicts))
        return
    preferences, counts = feedback.people.labeled(comparisons, verdicts, soft=soft)
    left_out = f"{counts.ties} ties, {counts.invalid} invalid{_kinds(verdicts)}"
    if counts.ties + counts.invalid == len(comparisons):
        raise InputError(f"the judge found no completion better than another: {left_out}.")
    save_rows(out, preferences)
    status(f"label: {len(preferences)} preferences from {len(comparisons)} comparisons, {left_out}")


def _verdicts(name: str, judge: Judge, comparisons: Sequence[Comparison], *, alone: bool) -> list[Verdict]:
    """A judge's verdicts over both orders; of one among several judges, print its ties and invalid verdicts."""
    with _telling(judge):
        verdicts = feedback.judge.BothOrders(judge)(comparisons)
    if not alone:
        counts = feedback.people.labeled(comparisons, verdicts)[1]
        status(f"{name}: {counts.ties} ties, {counts.invalid} invalid{_kinds(verdicts)}")
    return verdicts


@contextmanager
def _telling(judge: Any) -> Iterator[None]:
    """Print the outcome of the requests to language models after the block, however it ends."""
    try:
        yield
    finally:
        for asker in feedback.asking.askers_in(judge):
            for line in asker.outcome_lines():
                status(line)


def _by_prompt(comparisons: Sequence[Comparison]) -> list[list[int]]:
    """The indices of the comparisons of each prompt, and of each user where rows name users."""
    groups: dict[tuple[Text, str], list[int]] = {}
    for i, comparison in enumerate(comparisons):
        groups.setdefault((comparison.prompt, user_of(comparison.columns)), []).append(i)
    return list(groups.values())


def _at_once(judge: RankingJudge, comparisons: Sequence[Comparison]) -> tuple[list[Ranking | Verdict], int]:
    """The ranking of each prompt's completions by a judge that sees them all at once, or an invalid verdict."""
    groups: list[tuple[Text, tuple[Text, ...], dict[str, Any]]] = []
    for some in _by_prompt(comparisons):
        pairs = [comparisons[i] for i in some]
        every = dict.fromkeys(text for pair in pairs for text in (pair.first, pair.second))
        shared = {k: v for k, v in pairs[0].columns.items() if all(pair.columns.get(k) == v for pair in pairs)}
        groups.append((pairs[0].prompt, tuple(every), shared))
    with _telling(judge):
        ranked = zip(groups, judge.rank(groups), strict=True)
    return [
        Ranking(*group[:2], one.ranks, user_of(group[2])) if one.scores else Verdict(None, one.reason)
        for group, one in ranked
    ], 0


def _by_wins(comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> tuple[list[Ranking | Verdict], int]:
    """Rankings from verdicts on all pairs; and the number of prompts whose verdicts agree with no ranking."""
    rankings: list[Ranking | Verdict] = []
    cyclic = 0
    for some in _by_prompt(comparisons):
        pairs, answers = [comparisons[i] for i in some], [verdicts[i] for i in some]
        ranking = feedback.people.to_ranking(pairs, answers, transitive=False)
        cyclic += ranking is not None and feedback.people.to_ranking(pairs, answers) is None
        rankings.append(ranking or next(v for v in answers if v.first_wins is None))
    return rankings, cyclic


def _write_rankings(out: str, rankings: Sequence[Ranking | Verdict], cyclic: int) -> Path:
    """Write the rankings except those that are all ties, and print what was left out."""
    every, invalid = [r for r in rankings if isinstance(r, Ranking)], [v for v in rankings if isinstance(v, Verdict)]
    rows = [ranking for ranking in every if len(set(ranking.ranks)) > 1]
    left_out = f"{len(every) - len(rows)} all tied, {len(invalid)} invalid{_kinds(invalid)}"
    if not rows:
        raise InputError(f"the judge found no completion better than another: {left_out}.")
    save_rows(out, rows)
    without = f"; {cyclic} by verdicts that agree with no ranking" if cyclic else ""
    status(f"label: {len(rows)} rankings of {len(rankings)} prompts{without}, {left_out}")
    return Path(out)


def _kinds(verdicts: Sequence[Verdict]) -> str:
    """The counts of invalid verdicts by kind of reason, the most frequent first, in parentheses."""
    kinds = feedback.judge.faults(verdicts).most_common(9)
    return f" ({', '.join(f'{count} {kind}' for kind, count in kinds)})" if kinds else ""


def _comparisons_in(data: str | list[str], columns: Mapping[str, str] | None, most: int | None) -> list[Comparison]:
    """The pairs of completions in files of samples, by `comparisons_of`; InputError where there are none."""
    from accord.data.load import load_samples
    from accord.data.mix import called

    if comparisons := comparisons_of(load_samples(data, columns), most):
        return comparisons
    raise InputError(f"{called(data)} has no prompt with two different completions; sample with --n 2 or more.")


def comparisons_of(samples: Iterable[tuple[Prompt, Text]], most: int | None = None) -> list[Comparison]:
    """The pairs of different completions of each prompt, at most `most` per prompt; empty completions are skipped.

    A comparison has the columns on which the rows of its two completions agree (the first row of each). Where rows name
    users, only completions for the same user are compared.
    """
    grouped: dict[tuple[Text, str], dict[Text, Mapping[str, Any]]] = {}
    for prompt, completion in samples:
        if completion:
            asked = prompt.prompt, user_of(prompt.columns)
            grouped.setdefault(asked, {}).setdefault(completion, prompt.columns)
    return [
        Comparison(prompt, first, second, {k: v for k, v in ours.items() if k in theirs and theirs[k] == v})
        for (prompt, _), completions in grouped.items()
        for (first, ours), (second, theirs) in list(combinations(completions.items(), 2))[:most]
    ]

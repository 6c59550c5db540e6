"""`accord label`: which of two completions is better? Samples in, preferences out.

`accord aggregate`: the same, as several annotators said it of whom some are careless.

`accord score`: the log-probability a model gives to every completion of every row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accord import engine, feedback
from accord.console import show, status
from accord.engine.config import TemplateOptions, require_positive
from accord.errors import InputError
from accord.evaluate.options import ChatOptions, RowOptions, takes
from accord.feedback.formula import kind_of
from accord.files import write_rows
from accord.prompting.options import LimitOptions, told
from accord.records import Comparison, Preference, Prompt, Ranking, Text, Verdict

if TYPE_CHECKING:
    from accord.evaluate.annotators import Beliefs


@dataclass(kw_only=True)
class LabelOptions(TemplateOptions, LimitOptions):
    """By which chat template a model judges, and within which limits a language model is asked."""


@takes(LabelOptions)
def label(
    data: str | list[str],
    out: str,
    *,
    judge: str,
    agreement: float | None = None,
    seed: int = 0,
    pairs: int | None = None,
    soft: bool = False,
    columns: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Have a judge compare the completions of each prompt, and write what it prefers as rows of chosen and rejected.

    A judge who might favor a position is asked in both orders. Ties and answers that cannot be understood are counted
    and left out. What a language model replies is kept at once, in --journal or beside --out: a command that was ended,
    however it was, goes on from there, and asks nothing twice.

    Args:
        data: a file of prompts and completions, as `accord sample` writes it, or several; those of one prompt are
            compared.
        out: the JSONL file of preferences to write.
        judge: the folder of a reward or preference model, ai:MODEL or the YAML file of an AI judge, a small world
            (cafe) whose gold reward judges, module:function, or anything that can be a reward.
        agreement: how often a simulated labeler agrees with the world's gold reward; without it the judge never errs.
        seed: decides where the simulated labeler errs.
        pairs: at most so many comparisons of each prompt, in the order of its completions.
        soft: write the judge's probability too, as chosen_probability, and keep ties, as rows of probability .5.
        columns: the data's columns by the names that are read, where they have others: prompt=question,completion=said.
        options: the fields of `LabelOptions`, of the model that judges.

    Raises:
        InputError: a server cannot be asked, or the budget is spent, and what was answered is kept; no prompt has two
            different completions, or none is preferred to another.
    """
    if pairs is not None and pairs < 1:
        raise InputError(f"--pairs must be at least 1, not {pairs}.")
    from accord.data.load import called, load_samples

    comparisons = comparisons_of(load_samples(data, columns), pairs)
    if not comparisons:
        raise InputError(f"{called(data)} has no prompt with two different completions; sample with --n 2 or more.")
    named = _judge(judge, agreement, seed, options, f"{out}.journal")
    try:
        verdicts = feedback.judge.BothOrders(named)(comparisons)
    finally:
        for line in told(named.model) if hasattr(named, "model") else ():
            status(line)
    preferences, counts = feedback.people.labeled(comparisons, verdicts, soft=soft)
    left_out = f"{counts.ties} ties, {counts.invalid} invalid{_kinds(verdicts)}"
    if counts.ties + counts.invalid == len(comparisons):
        raise InputError(f"the judge found no completion better than another: {left_out}.")
    write_rows(out, preferences)
    status(f"label: {len(preferences)} preferences from {len(comparisons)} comparisons, {left_out}")
    return Path(out)


def _judge(name: str, agreement: float | None, seed: int, given: Mapping[str, Any], journal: str) -> Any:
    """The judge of that name. Raises InputError where options that are given are for others."""
    options = LabelOptions(**given)
    if agreement is None and kind_of(name) == "ai":
        return feedback.ai.with_progress(feedback.ai.ai_judge(name, given=given, journal=journal))
    for field in fields(LimitOptions):
        if field.name in given:
            flag = field.name.replace("_", "-")
            raise InputError(f"--{flag} is for language models that judge, such as ai:MODEL, and {name} is none.")
    if agreement is None:
        named: Any = feedback.named.judge_named(name)
    else:
        named = feedback.named.labeler_named(name, agreement, seed)
    feedback.named.give_template(named, name, options)
    return named


def _kinds(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts are invalid for which kind of reason, the most frequent first."""
    reasons = (v.reason.removeprefix(feedback.judge.SWAPPED) for v in verdicts if v.first_wins is None)
    kinds = Counter(reason.partition(":")[0] for reason in reasons).most_common(9)
    return f" ({', '.join(f'{count} {kind}' for kind, count in kinds)})" if kinds else ""


@takes(RowOptions)
def aggregate(
    out: str,
    *,
    data: str | None = None,
    annotators: dict[str, str] | None = None,
    by: Literal["dawid-skene", "bradley-terry", "majority"] = "dawid-skene",
    hard: bool = False,
    seed: int = 0,
    **options: Any,
) -> Beliefs:
    """Aggregate what several annotators said of the same comparisons: a row for each, with how likely it is right.

    A row has chosen, the likelier of the two, rejected, and chosen_probability. How reliable each annotator is, by how
    far they agree with each other, is printed, with 95% intervals. Ties count half for the majority; the other two
    leave them out.

    Args:
        out: the JSONL file of preferences to write.
        data: a file or Hub name of judgments with a column that says who judged, or a column for each annotator:
            --columns.annotator worker, or --columns.label ann,bob. --columns.group names what they are groups by.
        annotators: instead, a file of judgments for each annotator, as --annotators.ann first.jsonl.
        by: whom to believe: dawid-skene (one completion is better, and each annotator errs at a rate of his own),
            bradley-terry (completions have scores, and each annotator follows them to some degree: CrowdBT), or
            majority (all alike).
        hard: write the likelier side as certain, without chosen_probability, and leave out what is even.
        seed: draws the samples of the posterior that dawid-skene and bradley-terry average over.
        options: the fields of `RowOptions`.

    Raises:
        InputError: the options do not fit each other or the data, or nobody preferred any completion to another.
    """
    from accord.evaluate import annotators as models
    from accord.evaluate.agreement import rate_items, read_judged

    judged = read_judged(data, annotators or {}, RowOptions(**options))
    ratings = rate_items(judged)
    if (ratings.labels % 2 != 0).all():  # neither the first, 2, nor the second, 0
        raise InputError("every judgment is a tie, so nothing says which completion is better.")
    if by == "majority":
        beliefs = models.majority(ratings)
    else:
        beliefs = (models.dawid_skene if by == "dawid-skene" else models.bradley_terry)(ratings, seed=seed)
    verdicts = [Verdict(p) for p in beliefs.first_better.tolist()]
    rows, counts = feedback.people.labeled(ratings.items, verdicts, soft=not hard)
    if not rows:
        raise InputError("every comparison is even, so --hard leaves no row; leave it out.")
    write_rows(out, rows)
    show(*beliefs.tables())
    even = "left out" if hard else "kept"
    status(
        f"aggregate: {len(rows)} preferences from {len(judged)} judgments by {len(ratings.annotators)} annotators; "
        f"{counts.ties} even, and {even}; {ratings.repeated} repeat an annotator's own, and are left out"
    )
    for line in models.warnings_of(ratings, beliefs):
        status(line)
    return beliefs


def comparisons_of(samples: Iterable[tuple[Prompt, Text]], most: int | None = None) -> list[Comparison]:
    """The pairs of different completions of each prompt, at most `most` of them; an empty text is no completion.

    A comparison has the columns in which the rows of its two completions agree, of each its first row.
    """
    grouped: dict[Text, dict[Text, Mapping[str, Any]]] = {}
    for prompt, completion in samples:
        if completion:
            grouped.setdefault(prompt.prompt, {}).setdefault(completion, prompt.columns)
    return [
        Comparison(prompt, first, second, {k: v for k, v in ours.items() if k in theirs and theirs[k] == v})
        for prompt, completions in grouped.items()
        for (first, ours), (second, theirs) in list(combinations(completions.items(), 2))[:most]
    ]


@takes(ChatOptions)
def score(
    model: str,
    data: str | list[str],
    out: str,
    *,
    dtype: Literal["auto", "float32", "bfloat16"] = "float32",
    tokens_per_pass: int = 4096,
    **options: Any,
) -> Path:
    """Write for every row the log-probability of its completions, in nats, summed over tokens, end of turn included.

    Preferences get chosen_logp, chosen_tokens, rejected_logp and rejected_tokens; single completions completion_logp
    and completion_tokens; rankings the lists completions_logp and completions_tokens.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        data: a file or Hub name of preferences, demonstrations or rankings, or several.
        out: the JSONL file to write, a row for each row of the data.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.
        tokens_per_pass: tokens computed at once; fewer need less memory.
        options: the fields of `ChatOptions`.

    Raises:
        InputError: a row has no completion, or does not fit into the model's context.
    """
    from accord.data.encoding import to_tree
    from accord.data.load import called
    from accord.evaluate.answers import branch_log_probs

    require_positive(tokens_per_pass=tokens_per_pass)
    asked = ChatOptions(**options)
    policy = asked.templated(engine.load.load_model(model).in_dtype(dtype))
    rows = asked.rows(data)
    trees = []
    for i, row in enumerate(rows):
        if isinstance(row, Prompt):
            raise InputError(f"{called(data)}, row {i + 1}: there is no completion to score.")
        trees.append(to_tree(policy.tokenizer, row, i))
        longest = len(trees[-1].prompt) + max(len(b.tokens) for b in trees[-1].branches)
        if policy.context is not None and longest > policy.context:
            raise InputError(
                f"{called(data)}, row {i + 1}: {longest} tokens do not fit into the model's context of "
                f"{policy.context}."
            )
    sums = branch_log_probs(policy, trees, tokens_per_pass)
    counts = [[len(b.tokens) if b.trained is None else sum(b.trained) for b in tree.branches] for tree in trees]
    write_rows(out, map(_row, rows, sums, counts))
    return Path(out)


def _row(row: object, logps: list[float], tokens: list[int]) -> dict[str, Any]:
    if isinstance(row, Ranking):
        return {"completions_logp": logps, "completions_tokens": tokens}
    names = ("chosen", "rejected") if isinstance(row, Preference) else ("completion",)
    return {
        f"{n}_{k}": v for n, lp, t in zip(names, logps, tokens, strict=True) for k, v in (("logp", lp), ("tokens", t))
    }

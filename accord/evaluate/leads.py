"""Models under test (a reward, a judge or a policy), and their leads: how far they prefer one completion to another.

A lead is antisymmetric: swapping the completions changes its sign, and 0 prefers neither. It is the log-odds of the
first for a reward or preference model, the difference of scores for another reward, and P(first) - 1/2 for a judge that
compares two texts. NaN marks a pair without a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from accord import data, engine, feedback, objectives
from accord.errors import InputError
from accord.evaluate.statistics import Floats
from accord.records import Comparison, Message, Ranking, Text, Verdict
from accord.results.comparisons import Unit

if TYPE_CHECKING:
    from torch import Tensor

    from accord.arrays import Tokens
    from accord.engine import Model, Policy, Tree
    from accord.evaluate.options import ComparisonOptions
    from accord.feedback.judge import Judge, Orders

Flags = NDArray[np.bool_]

BRANCHES = 8
"""Maximum number of completions of one prompt that are computed together."""


@dataclass(frozen=True)
class Leads:
    """For every pair: the lead of the first, whether the pair could be read, and whether without a cut.

    `orders` has a judge's verdicts in both orders of each pair, if it can distinguish them.
    """

    lead: Floats
    read: Flags
    whole: Flags
    orders: Sequence[Orders] = ()

    @staticmethod
    def of(lead: Floats, orders: Sequence[Orders] = ()) -> Leads:
        """Leads of texts that are read whole."""
        every = np.ones(len(lead), dtype=bool)
        return Leads(lead, every, every, orders)


Leader: TypeAlias = Callable[[Sequence[Comparison]], Leads]
"""The model under test: how far it prefers the first of each pair to the second."""


@dataclass(frozen=True)
class ScoreLeads:
    """Leads by scores of texts: differences of two scores."""

    score: Callable[[Sequence[tuple[Text, Text]]], Tensor]
    """From (prompt, completion) pairs to their scores (C,)."""

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """Scores every distinct text once."""
        firsts, seconds = _texts(comparisons)
        index = {text: i for i, text in enumerate(dict.fromkeys(firsts + seconds))}
        scores = self.score(list(index)).double().numpy()
        return Leads.of(scores[[index[t] for t in firsts]] - scores[[index[t] for t in seconds]])


@dataclass(frozen=True)
class JudgeLeads:
    """Leads by a judge that reads two texts, asked in both orders unless it cannot distinguish them."""

    judge: Judge

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """A pair with an invalid verdict in either order has no lead."""
        forward = self.judge(comparisons)
        if getattr(self.judge, "symmetric", False):
            return Leads.of(_leads(forward))
        swapped = self.judge([c.swapped for c in comparisons])
        orders = [feedback.judge.Orders(*both) for both in zip(forward, swapped, strict=True)]
        return Leads.of(_leads([o.verdict for o in orders]), orders)


@dataclass(frozen=True)
class ChatLeads:
    """Leads of plain texts by a model that reads chats: prompts become user messages, completions the answers."""

    leader: Leader

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        return self.leader([_as_chat(c) for c in comparisons])


def _as_chat(pair: Comparison) -> Comparison:
    asked = (Message("user", pair.prompt),) if isinstance(pair.prompt, str) and pair.prompt else pair.prompt
    prompt, (first, second) = data.messages.align(asked, pair.first, pair.second)
    return Comparison(prompt, first, second, pair.columns)


@dataclass(frozen=True)
class ModelLeads:
    """Leads by a model that reads tokens: `general_preference` of two completions' outputs, log-odds or a difference.

    Completions are cut to fit `max_length` tokens with their prompt. A pair is not read where its prompt leaves no
    room, or where the cut makes two different texts the same tokens.
    """

    model: Model
    outputs: Callable[[Sequence[Tree]], Tensor]
    """From trees to the inputs of `general_preference` for every branch, in order, (C, 1 + 2k)."""
    max_length: int

    def __call__(self, comparisons: Sequence[Comparison]) -> Leads:
        """Computes every distinct completion once, and its prompt once for up to `BRANCHES` of them."""
        firsts, seconds = _texts(comparisons)
        trees, index = self._trees(firsts + seconds)
        branches = [branch for tree in trees for branch in tree.branches]
        outputs = self.outputs(trees).double()
        one, two = ([index.get(text, -1) for text in texts] for texts in (firsts, seconds))
        lead = objectives.preference.general_preference(outputs[one], outputs[two]).numpy()
        ends = np.array([self._is_whole(tree, branch.tokens) for tree in trees for branch in tree.branches])
        whole = ends[one] & ends[two]
        merged = np.array([branches[i].tokens == branches[j].tokens for i, j in zip(one, two, strict=True)])
        read = (np.minimum(one, two) >= 0) & (whole | ~merged)
        return Leads(np.where(read, lead, np.nan), read, whole & read)

    @property
    def _longest(self) -> int:
        return min(self.max_length, self.model.context or self.max_length)

    def _is_whole(self, tree: Tree, tokens: Tokens) -> bool:
        """Whether a completion was not cut: its turn ends, followed by whatever the chat template writes after that.

        For a model that reads whole texts without an end token, only the length can tell.
        """
        reads_whole = isinstance(self.model, engine.classifiers.Classifier)
        if reads_whole and engine.turns.turn_end(self.model.tokenizer).is_next:
            return len(tree.prompt) + len(tokens) < self._longest
        rest = data.chat.turn_rest(self.model.tokenizer) if reads_whole else ()
        written = tokens[: len(tokens) - len(rest)]
        return tokens[-1] in self.model.ends or (written[-1:] == (self.model.end,) and tokens == written + rest)

    def _trees(self, texts: Sequence[tuple[Text, Text]]) -> tuple[list[Tree], dict[tuple[Text, Text], int]]:
        """Trees that hold every distinct text once, and the branch of each text; texts without room have none."""
        prompts: dict[Text, dict[Text, None]] = {}
        for prompt, completion in texts:
            prompts.setdefault(prompt, {})[completion] = None
        groups = [(p, tuple(c)[i : i + BRANCHES]) for p, c in prompts.items() for i in range(0, len(c), BRANCHES)]
        rows = [Ranking(prompt, some, (0,) * len(some)) for prompt, some in groups]
        encode, whole = data.encoding.encode, isinstance(self.model, engine.classifiers.Classifier)
        trees = encode(self.model.tokenizer, rows, max_length=self._longest, context=None, whole=whole).trees
        kept = [(rows[tree.row].prompt, c) for tree in trees for c in rows[tree.row].completions]
        return trees, {text: i for i, text in enumerate(kept)}


def _leads(verdicts: Sequence[Verdict]) -> Floats:
    """P(first) - 1/2, NaN where a verdict is invalid."""
    return np.array([np.nan if v.first_wins is None else v.first_wins - 0.5 for v in verdicts], dtype=np.float64)


def _texts(comparisons: Sequence[Comparison]) -> tuple[list[tuple[Text, Text]], list[tuple[Text, Text]]]:
    return [(c.prompt, c.first) for c in comparisons], [(c.prompt, c.second) for c in comparisons]


@dataclass(frozen=True)
class TestedModel:
    """A model under test: its kind, for the report, the unit of its leads, and the function that computes them."""

    kind: str
    unit: Unit
    leader: Leader
    has_template: bool = False
    """Whether the model reads chats by a template."""

    def chance(self, lead: Floats) -> Floats | None:
        """P(first) for each lead; None where leads are scores."""
        if self.unit == "score":
            return None
        return lead + 0.5 if self.unit == "probability" else np.asarray(scipy.special.expit(lead))


def tested_reward(
    reward: str, settings: ComparisonOptions, beta: float | None, max_length: int, dtype: str
) -> TestedModel:
    """A reward or judge, by name, as the model under test; InputError for `beta` where it gives probabilities."""
    judge = feedback.asking.with_progress(feedback.named.judge_named(reward))
    feedback.named.give_template(judge, reward, settings)
    settings.allow([judge])
    models = [m.model for m in feedback.named.models_in(judge) if isinstance(m, feedback.learned.Learned)]
    has_template = any(model.tokenizer.chat_template is not None for model in models)
    RewardJudge, ScoreJudge, score = feedback.judge.RewardJudge, feedback.judge.ScoreJudge, feedback.reward.score_texts
    if isinstance(judge, RewardJudge | ScoreJudge):
        scorer = judge.reward if isinstance(judge, RewardJudge) else feedback.named.reward_named(reward)
        settings.allow([scorer])
        unit: Unit = "score" if beta is None else "log-odds"
        return TestedModel("reward", unit, ScoreLeads(lambda texts: (beta or 1.0) * score(scorer, texts)), has_template)
    if beta is not None:
        raise InputError(f"--beta turns scores into log-odds, but {reward} already gives probabilities; leave it out.")
    if isinstance(judge, feedback.learned.LearnedJudge):
        if isinstance(judge.model, engine.encoders.Encoder):
            return TestedModel(
                "reward model", "log-odds", ScoreLeads(lambda texts: judge.of_texts(texts).squeeze(1)), has_template
            )
        model = judge.model.in_dtype(dtype)
        learned = feedback.learned.Learned(model)
        kind = "preference model" if isinstance(model, engine.classifiers.PreferenceNetwork) else "reward model"
        return TestedModel(kind, "log-odds", ModelLeads(model, learned.of_trees, max_length), has_template)
    if isinstance(judge, feedback.rubric.RubricJudge):
        return TestedModel("judge", "score", lambda pairs: Leads.of(np.array(judge.gaps(pairs))))
    return TestedModel("judge", "probability", JudgeLeads(judge))


def tested_policy(
    policy: str, reference: str | None, settings: ComparisonOptions, beta: float | None, max_length: int, dtype: str
) -> TestedModel:
    """A policy's implicit reward, log pi - log ref, or log pi alone, times `beta`, as the model under test."""
    import torch

    from accord.evaluate.answers import branch_log_probs, require_same_vocabulary

    settings.allow([])
    pi = settings.templated(engine.load.load_model(policy, dtype=dtype))
    ref = engine.load.load_model(reference, dtype=dtype) if reference else None
    require_same_vocabulary(pi, ref)

    def sums(model: Policy, trees: Sequence[Tree]) -> Tensor:
        return torch.tensor(
            [logp for of_tree in branch_log_probs(model, trees) for logp in of_tree], dtype=torch.float64
        )

    def outputs(trees: Sequence[Tree]) -> Tensor:
        gained = sums(pi, trees) if ref is None else sums(pi, trees) - sums(ref, trees)
        return (beta or 1.0) * gained[:, None]

    unit: Unit = "score" if beta is None else "log-odds"
    has_template = pi.tokenizer.chat_template is not None
    return TestedModel("implicit reward", unit, ModelLeads(pi, outputs, max_length), has_template)

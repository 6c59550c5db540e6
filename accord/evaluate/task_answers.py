"""How a model answers the questions of a task: it writes, or the most likely of the options is its choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accord import engine
from accord.errors import InputError
from accord.evaluate.task_scores import metric_named, option_scores
from accord.records import EncodedPrompt, Prompt, Ranking
from accord.results.tasks import TaskSettings

if TYPE_CHECKING:
    from accord.data.examples import Example
    from accord.data.tasks import Task
    from accord.engine import Policy, Sampling, Tree


@dataclass(frozen=True)
class Questions:
    """A task with the rows it is asked about."""

    task: Task
    examples: list[Example]

    @property
    def asked(self) -> list[tuple[Example, int]]:
        """Every row under every instruction: the row, and the instruction's number."""
        return [(example, t) for example in self.examples for t in range(len(example.prompts))]

    @property
    def chance(self) -> float | None:
        """What guessing scores, as the task says, or else one in a row's options; None where nobody says it."""
        if self.task.chance is not None or not self.examples[0].options:
            return self.task.chance
        return sum(1 / len(example.options) for example in self.examples) / len(self.examples)


@dataclass(frozen=True)
class Answered:
    """A model's answer to each question of a task, its scores, and the share of written answers that ended."""

    answers: list[str]
    scores: list[float]
    ended: float | None = None

    def by_row(self, templates: int) -> list[float]:
        """Each row's mean over its instructions."""
        groups = (self.scores[i : i + templates] for i in range(0, len(self.scores), templates))
        return [sum(group) / templates for group in groups]


def answer(policy: Policy, questions: Sequence[Questions], settings: TaskSettings) -> list[Answered]:
    """A model's answers to every task."""
    if settings.form == "chat" and policy.tokenizer.chat_template is None:
        raise InputError(f"{policy.name} has no chat template; ask it with --form plain.")
    return [(choose if q.task.metric == "options" else write)(policy, q, settings) for q in questions]


def write(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """Answers that the model writes, scored by the task's metric."""
    from accord.data.chat import encode_prompt
    from accord.data.examples import asked
    from accord.evaluate.answers import sampled

    task = questions.task
    sampling, metric = sampling_for(task, settings), metric_named(task.metric)
    prompts = []
    for example, t in questions.asked:
        prompt = Prompt(asked(example.prompts[t], settings.form))
        tokens = encode_prompt(policy.tokenizer, prompt.prompt)
        _require_room(policy, len(tokens) + sampling.max_new_tokens, task, example)
        prompts.append(EncodedPrompt(prompt, tokens, example.row - 1))
    samples = sampled(policy, prompts, 1, sampling)
    texts = [s.text.strip() for s in samples]
    scores = [metric(text, example.references) for text, (example, _) in zip(texts, questions.asked, strict=True)]
    return Answered(texts, scores, sum(s.completion.stop == "end" for s in samples) / len(samples))


def choose(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """The option of each question that the model finds most likely; every question is one tree, an option a branch."""
    from accord.evaluate.answers import branch_log_probs

    priors = _priors(policy, questions, settings) if settings.option_score == "pmi" else None
    trees = [_tree(policy, e.prompts[t], e, questions.task, settings) for e, t in questions.asked]
    answers = []
    for (example, t), tree, logps in zip(questions.asked, trees, branch_log_probs(policy, trees), strict=True):
        prior = priors[example.options, t] if priors else None
        scores = option_scores(logps, [len(b.tokens) for b in tree.branches], prior, settings.option_score)
        answers.append(example.options[scores.index(max(scores))])
    right = [float(a in example.references) for a, (example, _) in zip(answers, questions.asked, strict=True)]
    return Answered(answers, right)


def _priors(
    policy: Policy, questions: Questions, settings: TaskSettings
) -> dict[tuple[tuple[str, ...], int], list[float]]:
    """log pi of the options after an instruction without its row, each instruction and set of options asked once."""
    from accord.data.tasks import blank
    from accord.evaluate.answers import branch_log_probs

    once = {(e.options, t): e for e, t in questions.asked}
    texts = [blank(template) for template in questions.task.prompts]
    trees = [_tree(policy, texts[t], e, questions.task, settings) for (_, t), e in once.items()]
    return dict(zip(once, branch_log_probs(policy, trees), strict=True))


def _tree(policy: Policy, prompt: str, example: Example, task: Task, settings: TaskSettings) -> Tree:
    from accord.data.encoding import to_tree
    from accord.data.examples import dialogue

    rows = [dialogue(prompt, option, settings.form) for option in example.options]
    ranking = Ranking(rows[0].prompt, tuple(row.completion for row in rows), tuple(range(len(rows))))
    tree = to_tree(policy.tokenizer, ranking, example.row - 1)
    where = f"{task.data}, row {example.row}, for the task {task.label}"
    if not tree.prompt:
        raise InputError(f"{where}: {policy.name} reads no token before the options; add words to the instruction.")
    if len({branch.tokens for branch in tree.branches}) < len(rows):
        raise InputError(f"{where}: {policy.name} reads two of the options as the same tokens.")
    _require_room(policy, len(tree.prompt) + max(len(b.tokens) for b in tree.branches), task, example)
    return tree


def _require_room(policy: Policy, tokens: int, task: Task, example: Example) -> None:
    if policy.context is not None and tokens > policy.context:
        raise InputError(
            f"{task.data}, row {example.row}, for the task {task.label}: prompt and answer of {tokens} tokens do not "
            f"fit into the context of {policy.name}, {policy.context}."
        )


def sampling_for(task: Task, settings: TaskSettings) -> Sampling:
    tokens = task.max_new_tokens or settings.max_new_tokens
    return engine.sampling.Sampling(tokens, settings.temperature, seed=settings.seed)

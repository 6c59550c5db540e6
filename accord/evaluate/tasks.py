"""`accord evaluate tasks`: models on clusters of tasks, those held out from training and others.

A row's score is the mean over its task's instructions, a task's the mean over rows, a cluster's the mean over its tasks
(Wei et al. 2021, arXiv:2109.01652, section 3). A difference between two models is taken row by row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from accord import engine
from accord.engine.config import TemplateOptions
from accord.errors import InputError
from accord.evaluate.options import takes
from accord.evaluate.statistics import FEW, bootstrap_mean, mean_of
from accord.evaluate.task_scores import metric_named, option_scores
from accord.outputs import require_folder, save_rows
from accord.records import EncodedPrompt, Prompt, Ranking
from accord.results.base import FILE, Interval
from accord.results.tasks import ClusterRow, TaskRow, TaskSettings, TasksResult

if TYPE_CHECKING:
    from accord.data.examples import Example
    from accord.data.tasks import Task
    from accord.engine import Policy, Sampling, Tree

Scores: TypeAlias = Mapping[str, Sequence[float]]
"""Each model's score of every row."""


@dataclass(kw_only=True)
class TaskOptions(TemplateOptions):
    """How models are asked."""

    form: Literal["chat", "plain"] = "chat"
    """Chat asks by a user's message, plain by text to go on from, as suits a model without a chat template."""
    option_score: Literal["sum", "mean", "pmi"] = "sum"
    """An option's log-probability as it is (sum), a token (mean), or less what it is without the row (pmi)."""
    templates: int | None = None
    """Only so many instructions of each task, the first."""
    limit: int | None = None
    """Only so many rows of each task, the first."""
    max_new_tokens: int = 64
    """Answers are cut after so many tokens, where the task says nothing else."""
    temperature: float = 0.0
    """Divides the logits that answers are drawn from; 0 always takes the most likely token."""
    seed: int = 0
    """One seed gives the same answers again."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; auto is bfloat16 where the processor has it."""

    def __post_init__(self) -> None:
        for option, count in (("templates", self.templates), ("limit", self.limit)):
            if count is not None and count < 1:
                raise InputError(f"--{option} must be at least 1, not {count}.")


@takes(TaskOptions)
def evaluate_tasks(
    tasks: str,
    out: str,
    *,
    models: dict[str, str],
    held_out: str | None = None,
    data: str | None = None,
    **options: Any,
) -> TasksResult:
    """Let models do tasks: written answers by exact match, number or ROUGE, options by their log-probability.

    Every row is asked under every instruction of its task. Scores come with 95% intervals, clusters with the mean over
    their tasks, models with their gain over the first; predictions.jsonl has every answer.

    Args:
        tasks: a YAML file of tasks in clusters, a file or folder in one of the field's own layouts, or probes.
        out: the folder to write evaluation.json and predictions.jsonl to.
        models: models by name, as --models.base runs/base/model, or a mapping in YAML.
        held_out: the cluster, or several with commas, that a model was not trained on, to be marked as such.
        data: the folder of the tasks' data files, where they are not beside the tasks file.
        options: the fields of `TaskOptions`.

    Raises:
        InputError: the tasks, their rows or an option cannot be used.
    """
    from accord.data.examples import examples_of
    from accord.data.tasks import clusters_named, read_tasks

    asked = TaskOptions(**options)
    require_folder(out, tasks, models, data, options, leaves=(FILE, "predictions.jsonl"))
    given = read_tasks(tasks, data)
    left_out = clusters_named(held_out, given)
    dtype = str(engine.precision.compute_dtype(asked.dtype)).removeprefix("torch.")
    settings = TaskSettings(**{**dataclasses.asdict(asked), "tasks": tasks, "dtype": dtype})
    questions = []
    for task in given:
        examples = examples_of(task, limit=asked.limit)
        asked_of = [dataclasses.replace(e, prompts=e.prompts[: asked.templates]) for e in examples]
        questions.append(Questions(task, asked_of))
        _sampling(task, settings)
        if task.metric != "options":
            metric_named(task.metric)
    answered = {
        name: answer(asked.templated(engine.load.load_model(folder, dtype=asked.dtype)), questions, settings)
        for name, folder in models.items()
    }
    save_rows(Path(out) / "predictions.jsonl", _predictions(questions, answered))
    return summary(questions, answered, left_out, settings).publish(out)


@dataclass(frozen=True)
class Questions:
    """A task with the rows it is asked about."""

    task: Task
    examples: list[Example]

    @property
    def asked(self) -> list[tuple[Example, int]]:
        """Every row under every instruction: the row, and the instruction's number."""
        return [(example, t) for example in self.examples for t in range(len(example.prompts))]


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
    sampling, metric = _sampling(task, settings), metric_named(task.metric)
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

    trees = [_tree(policy, e, t, questions.task, settings) for e, t in questions.asked]
    priors = _priors(policy, questions, trees, settings) if settings.option_score == "pmi" else None
    answers = []
    for (example, t), tree, logps in zip(questions.asked, trees, branch_log_probs(policy, trees), strict=True):
        prior = priors[example.options, t] if priors else None
        scores = option_scores(logps, [len(b.tokens) for b in tree.branches], prior, settings.option_score)
        answers.append(example.options[scores.index(max(scores))])
    right = [float(a in example.references) for a, (example, _) in zip(answers, questions.asked, strict=True)]
    return Answered(answers, right)


def _priors(
    policy: Policy, questions: Questions, trees: Sequence[Tree], settings: TaskSettings
) -> dict[tuple[tuple[str, ...], int], list[float]]:
    """log pi of the options after an instruction without its row, each instruction and set of options asked once.

    The tokens of the options are those of the question. An instruction that holds nothing of the row has nothing to be
    compared with: its priors are 0.
    """
    from accord.data.tasks import blank, names_columns
    from accord.evaluate.answers import branch_log_probs

    once = {(e.options, t): tree for (e, t), tree in zip(questions.asked, trees, strict=True)}
    prompts = questions.task.prompts
    without = {
        (options, t): dataclasses.replace(tree, prompt=_prompt_tokens(policy, blank(prompts[t]), settings))
        for (options, t), tree in once.items()
        if names_columns(prompts[t])
    }
    found = dict(zip(without, branch_log_probs(policy, list(without.values())), strict=True))
    return {key: found.get(key, [0.0] * len(tree.branches)) for key, tree in once.items()}


def _tree(policy: Policy, example: Example, t: int, task: Task, settings: TaskSettings) -> Tree:
    from accord.data.encoding import to_tree
    from accord.data.examples import dialogue

    rows = [dialogue(example.prompts[t], option, settings.form) for option in example.options]
    ranking = Ranking(rows[0].prompt, tuple(row.completion for row in rows), tuple(range(len(rows))))
    tree = to_tree(policy.tokenizer, ranking, example.row - 1)
    tree = dataclasses.replace(tree, prompt=_prompt_tokens(policy, example.prompts[t], settings))
    if len({branch.tokens for branch in tree.branches}) < len(rows):
        where = f"{task.data}, row {example.row}, for the task {task.label}"
        raise InputError(f"{where}: {policy.name} reads two of the options as the same tokens.")
    _require_room(policy, len(tree.prompt) + max(len(b.tokens) for b in tree.branches), task, example)
    return tree


def _prompt_tokens(policy: Policy, prompt: str, settings: TaskSettings) -> tuple[int, ...]:
    """What a model reads before an option: an empty text is the token that a text begins after.

    That is the beginning of text, or where a tokenizer has none the end of the text before.
    """
    from accord.data.chat import encode_prompt
    from accord.data.examples import asked

    return encode_prompt(policy.tokenizer, asked(prompt, settings.form)) or (policy.tokenizer.eos_token_id,)


def _require_room(policy: Policy, tokens: int, task: Task, example: Example) -> None:
    if policy.context is not None and tokens > policy.context:
        raise InputError(
            f"{task.data}, row {example.row}, for the task {task.label}: prompt and answer of {tokens} tokens do not "
            f"fit into the context of {policy.name}, {policy.context}."
        )


def _sampling(task: Task, settings: TaskSettings) -> Sampling:
    tokens = task.max_new_tokens or settings.max_new_tokens
    return engine.sampling.Sampling(tokens, settings.temperature, seed=settings.seed)


def summary(
    questions: Sequence[Questions],
    answered: Mapping[str, list[Answered]],
    held_out: Sequence[str],
    settings: TaskSettings,
) -> TasksResult:
    """Everything measured, cluster by cluster."""
    clusters: dict[str, list[TaskRow]] = {}
    for i, q in enumerate(questions):
        templates = len(q.examples[0].prompts)
        scores = {model: answers[i].by_row(templates) for model, answers in answered.items()}
        ended = None if q.task.metric == "options" else {m: answers[i].ended for m, answers in answered.items()}
        chance = sum(1 / len(e.options) for e in q.examples) / len(q.examples) if ended is None else None
        row = task_row(q.task.name, q.task.metric, templates, scores, chance, ended)
        clusters.setdefault(q.task.cluster, []).append(row)
    return TasksResult(
        settings=settings,
        models=list(answered),
        clusters=[cluster_row(name, name in held_out, rows) for name, rows in clusters.items()],
        warnings=_warnings(questions, answered, held_out),
    )


def _warnings(
    questions: Sequence[Questions], answered: Mapping[str, list[Answered]], held_out: Sequence[str]
) -> list[str]:
    from accord.data.examples import overlapping

    lines = []
    for i, q in enumerate(questions):
        if len(q.examples) < FEW:
            lines.append(
                f"{q.task.label} has {len(q.examples)} rows: its intervals are rough, ask about {FEW} or more."
            )
        if held_out and q.task.cluster not in held_out and (shared := overlapping(q.task)):
            lines.append(
                f"{q.task.label}: {shared} of the rows asked about are trained on too; set split and train_split."
            )
        for model, answers in answered.items():
            if (ended := answers[i].ended) is not None and ended < 0.5:
                lines.append(
                    f"{q.task.label}: {1 - ended:.0%} of what {model} wrote was cut, which its score suffers from."
                )
    return lines


def _predictions(questions: Sequence[Questions], answered: Mapping[str, list[Answered]]) -> list[dict[str, Any]]:
    return [
        {
            "cluster": q.task.cluster,
            "task": q.task.name,
            "row": example.row,
            "template": t + 1,
            "prompt": example.prompts[t],
            "right": list(example.references),
            "answers": {model: answers[i].answers[k] for model, answers in answered.items()},
            "scores": {model: answers[i].scores[k] for model, answers in answered.items()},
        }
        for i, q in enumerate(questions)
        for k, (example, t) in enumerate(q.asked)
    ]


def mean_of_tasks(tasks: Sequence[Interval]) -> Interval:
    """The mean over tasks, with the interval that follows from the tasks' own (Zou and Donner 2008).

    With k tasks of estimates m_i in [l_i, u_i] and m their mean:

        low = m - sqrt(sum (m_i - l_i)^2) / k        high = m + sqrt(sum (u_i - m_i)^2) / k

    The tasks stay, their rows vary: the interval is for these tasks on other rows, and says nothing of other tasks.
    """
    k = len(tasks)
    mean = sum(task.estimate for task in tasks) / k
    below = sqrt(sum((task.estimate - task.low) ** 2 for task in tasks)) / k
    above = sqrt(sum((task.high - task.estimate) ** 2 for task in tasks)) / k
    return Interval(mean, mean - below, mean + above, sum(task.n for task in tasks))


def task_row(
    name: str,
    metric: str,
    templates: int,
    scores: Scores,
    chance: float | None,
    ended: Mapping[str, float | None] | None,
) -> TaskRow:
    """A task in numbers: each model's score, and its gain over the first model; see the fields of `TaskRow`."""
    first, *others = scores
    gains = {m: [a - b for a, b in zip(scores[m], scores[first], strict=True)] for m in others}
    return TaskRow(
        name=name,
        metric=metric,
        n=len(scores[first]),
        templates=templates,
        chance=chance,
        scores={model: mean_of(values) for model, values in scores.items()},
        gains={model: bootstrap_mean(values) for model, values in gains.items()},
        ended=None if ended is None else dict(ended),
    )


def cluster_row(name: str, held_out: bool, tasks: Sequence[TaskRow]) -> ClusterRow:
    """A cluster in numbers: its tasks, and the means over them of scores and of gains over the first model."""
    return ClusterRow(
        name=name,
        held_out=held_out,
        tasks=list(tasks),
        mean={model: mean_of_tasks([task.scores[model] for task in tasks]) for model in tasks[0].scores},
        gains={model: mean_of_tasks([task.gains[model] for task in tasks]) for model in tasks[0].gains},
    )

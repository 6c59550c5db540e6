"""`accord evaluate tasks`: models on clusters of tasks, those held out from training and others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from accord.cli.label import score_trees
from accord.cli.sample import draw
from accord.data.chat import encode_prompt
from accord.data.encoding import to_tree
from accord.data.examples import Example, asked, dialogue, examples_of, overlapping
from accord.data.tasks import Task, blank, clusters_named, read_tasks
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype
from accord.engine.sampling import Sampling
from accord.engine.trees import Tree
from accord.errors import InputError
from accord.evaluate.metrics import metric_named
from accord.evaluate.questions.shared import tell, write
from accord.evaluate.tasks import OptionScore, cluster_row, ranked, task_row
from accord.files import require_folder, write_rows
from accord.records import EncodedPrompt, Prompt, Ranking

FEW = 20
"""Rows below which an interval is more wish than measurement."""


@dataclass(frozen=True)
class Settings:
    """How models are asked; written into evaluation.json as it is."""

    tasks: str
    form: Literal["chat", "plain"]
    option_score: OptionScore
    templates: int | None
    limit: int | None
    max_new_tokens: int
    temperature: float
    seed: int
    dtype: str

    def sampling(self, task: Task) -> Sampling:
        """How a task's answers are written."""
        return Sampling(task.max_new_tokens or self.max_new_tokens, self.temperature, seed=self.seed)


@dataclass(frozen=True)
class Asked:
    """A task with the rows it is asked about."""

    task: Task
    examples: list[Example]

    @property
    def questions(self) -> list[tuple[Example, int]]:
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


def tasks(
    tasks: str,
    out: str,
    *,
    models: dict[str, str],
    held_out: str | None = None,
    data: str | None = None,
    form: Literal["chat", "plain"] = "chat",
    option_score: Literal["sum", "mean", "pmi"] = "sum",
    templates: int | None = None,
    limit: int | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
) -> Path:
    """Let models do tasks: written answers by exact match, number or ROUGE, options by their log-probability.

    Every row is asked under every instruction of its task. Scores come with 95% intervals, clusters with the mean over
    their tasks, models with their gain over the first; predictions.jsonl has every answer.

    Args:
        tasks: a YAML file of tasks in clusters.
        out: the folder to write evaluation.json and predictions.jsonl to.
        models: models by name, as --models.base runs/base/model, or a mapping in YAML.
        held_out: the cluster, or several with commas, that a model was not trained on, to be marked as such.
        data: the folder of the tasks' data files, where they are not beside the tasks file.
        form: chat asks by a user's message, plain by text to go on from, as suits a model without a chat template.
        option_score: an option's log-probability as it is (sum), a token (mean), or less what it is without the row
            (pmi).
        templates: only so many instructions of each task, the first.
        limit: only so many rows of each task, the first.
        max_new_tokens: answers are cut after so many tokens, where the task says nothing else.
        temperature: divides the logits that answers are drawn from; 0 always takes the most likely token.
        seed: one seed gives the same answers again.
        dtype: precision of matrix products; auto is bfloat16 where the processor has it.

    Raises:
        InputError: the tasks, their rows or an option cannot be used.
    """
    for option, count in (("templates", templates), ("limit", limit)):
        if count is not None and count < 1:
            raise InputError(f"--{option} must be at least 1, not {count}.")
    require_folder(out)
    given = read_tasks(tasks, data)
    left = clusters_named(held_out, given)
    precision = str(compute_dtype(dtype)).removeprefix("torch.")
    settings = Settings(tasks, form, option_score, templates, limit, max_new_tokens, temperature, seed, precision)
    work = [Asked(t, _first(examples_of(t, limit=limit), templates)) for t in given]
    for task in given:
        settings.sampling(task)
        if task.metric != "options":
            metric_named(task.metric)
    found = {name: answered(load_model(folder), work, settings) for name, folder in models.items()}
    result = summary(work, found, left, settings)
    Console().print(as_table(result))
    tell(result["warnings"])
    write_rows(Path(out) / "predictions.jsonl", _predictions(work, found))
    return write(result, out)


def answered(policy: Policy, work: Sequence[Asked], settings: Settings) -> list[Answered]:
    """A model's answers to every task."""
    if settings.form == "chat" and policy.tokenizer.chat_template is None:
        raise InputError(f"{policy.name} has no chat template; ask it with --form plain.")
    return [(chosen if w.task.metric == "options" else written)(policy, w, settings) for w in work]


def written(policy: Policy, work: Asked, settings: Settings) -> Answered:
    """Answers that the model writes, scored by the task's metric."""
    sampling, metric = settings.sampling(work.task), metric_named(work.task.metric)
    prompts = []
    for example, t in work.questions:
        prompt = Prompt(asked(example.prompts[t], settings.form))
        tokens = encode_prompt(policy.tokenizer, prompt.prompt)
        _require_room(policy, len(tokens) + sampling.max_new_tokens, work.task, example)
        prompts.append(EncodedPrompt(prompt, tokens, example.row - 1))
    samples = draw(policy, prompts, 1, sampling, compute_dtype(settings.dtype, policy.device))
    texts = [s.text.strip() for s in samples]
    scores = [metric(text, example.references) for text, (example, _) in zip(texts, work.questions, strict=True)]
    return Answered(texts, scores, sum(s.completion.stop == "end" for s in samples) / len(samples))


def chosen(policy: Policy, work: Asked, settings: Settings) -> Answered:
    """The option of each question that the model finds most likely; every question is one tree, an option a branch."""
    priors = _priors(policy, work, settings) if settings.option_score == "pmi" else None
    trees = [_tree(policy, e.prompts[t], e, work.task, settings) for e, t in work.questions]
    answers = []
    for (example, t), (logps, tokens) in zip(work.questions, _scored(policy, trees, settings), strict=True):
        prior = priors(example, t) if priors else None
        scores = ranked(logps, tokens, prior, settings.option_score)
        answers.append(example.options[scores.index(max(scores))])
    right = [float(a in example.references) for a, (example, _) in zip(answers, work.questions, strict=True)]
    return Answered(answers, right)


def _priors(policy: Policy, work: Asked, settings: Settings) -> Callable[[Example, int], list[float]]:
    """log pi of the options after an instruction without its row, each instruction and set of options asked once."""
    asked_once = {(e.options, t): e for e, t in work.questions}
    texts = [blank(template) for template in work.task.prompts]
    trees = [_tree(policy, texts[t], e, work.task, settings) for (_, t), e in asked_once.items()]
    scores = [logps for logps, _ in _scored(policy, trees, settings)]
    found = dict(zip(asked_once, scores, strict=True))
    return lambda example, t: found[example.options, t]


def _scored(policy: Policy, trees: list[Tree], settings: Settings) -> list[tuple[list[float], list[int]]]:
    return score_trees(policy, trees, compute_dtype(settings.dtype, policy.device))


def _tree(policy: Policy, prompt: str, example: Example, task: Task, settings: Settings) -> Tree:
    """The prompt with every option as a branch."""
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


def summary(
    work: Sequence[Asked], found: Mapping[str, list[Answered]], held_out: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Everything measured, cluster by cluster."""
    clusters: dict[str, list[dict[str, Any]]] = {}
    for i, w in enumerate(work):
        templates = len(w.examples[0].prompts)
        scores = {model: answers[i].by_row(templates) for model, answers in found.items()}
        ended = None if w.task.metric == "options" else {m: answers[i].ended for m, answers in found.items()}
        chance = sum(1 / len(e.options) for e in w.examples) / len(w.examples) if ended is None else None
        row = task_row(w.task.name, w.task.metric, templates, scores, chance, ended)
        clusters.setdefault(w.task.cluster, []).append(row)
    return {
        "kind": "tasks",
        "settings": dataclasses.asdict(settings),
        "models": list(found),
        "clusters": [cluster_row(name, name in held_out, rows) for name, rows in clusters.items()],
        "warnings": [*_warnings(work, found, held_out)],
    }


def _warnings(work: Sequence[Asked], found: Mapping[str, list[Answered]], held_out: Sequence[str]) -> list[str]:
    lines = []
    for i, w in enumerate(work):
        if len(w.examples) < FEW:
            lines.append(
                f"{w.task.label} has {len(w.examples)} rows: its intervals are rough, ask about {FEW} or more."
            )
        if held_out and w.task.cluster not in held_out and (shared := overlapping(w.task)):
            lines.append(
                f"{w.task.label}: {shared} of the rows asked about are trained on too; set split and train_split."
            )
        for model, answers in found.items():
            if (ended := answers[i].ended) is not None and ended < 0.5:
                lines.append(
                    f"{w.task.label}: {1 - ended:.0%} of what {model} wrote was cut, which its score suffers from."
                )
    return lines


def _predictions(work: Sequence[Asked], found: Mapping[str, list[Answered]]) -> list[dict[str, Any]]:
    """Every question, its right answers, and each model's answer and score."""
    return [
        {
            "cluster": w.task.cluster,
            "task": w.task.name,
            "row": example.row,
            "template": t + 1,
            "prompt": example.prompts[t],
            "right": list(example.references),
            "answers": {model: answers[i].answers[q] for model, answers in found.items()},
            "scores": {model: answers[i].scores[q] for model, answers in found.items()},
        }
        for i, w in enumerate(work)
        for q, (example, t) in enumerate(w.questions)
    ]


def _first(examples: list[Example], templates: int | None) -> list[Example]:
    return [dataclasses.replace(e, prompts=e.prompts[:templates]) for e in examples]


def as_table(result: dict[str, Any]) -> Table:
    """The result for the terminal."""
    models = result["models"]
    grid = Table("cluster, task", "metric", "rows", "chance", *models, *(f"{m} - {models[0]}" for m in models[1:]))
    for cluster in result["clusters"]:
        mark = " (held out)" if cluster["held_out"] else ""
        n = str(sum(t["n"] for t in cluster["tasks"]))
        grid.add_row(cluster["name"] + mark, "mean", n, "", *_cells(cluster["mean"], cluster["gains"]), style="bold")
        for t in cluster["tasks"]:
            chance = "" if t["chance"] is None else f"{t['chance']:.2f}"
            grid.add_row(f"  {t['name']}", t["metric"], str(t["n"]), chance, *_cells(t["scores"], t["gains"]))
        grid.add_section()
    return grid


def _cells(scores: dict[str, Any], gains: dict[str, Any]) -> list[str]:
    def shown(interval: dict[str, float], sign: str) -> str:
        return f"{interval['estimate']:{sign}.2f} [{interval['low']:{sign}.2f}, {interval['high']:{sign}.2f}]"

    return [shown(s, "") for s in scores.values()] + [shown(g, "+") for g in gains.values()]

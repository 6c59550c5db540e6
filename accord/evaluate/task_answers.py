"""How a model answers the questions of a task.

It writes an answer, or a chain of thought from which the answer is extracted, or it chooses the most likely option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from accord import engine
from accord.errors import InputError, located
from accord.evaluate.task_scores import metric_named, option_scores, spoken, voted
from accord.records import EncodedPrompt, Prompt, Ranking
from accord.results.tasks import TaskSettings

if TYPE_CHECKING:
    from accord.arrays import Tokens
    from accord.data.examples import Example
    from accord.data.formats import Exemplars, Form, Format
    from accord.data.tasks import Task
    from accord.engine import Policy, Sampling, Tree


@dataclass(frozen=True)
class Question:
    """A row under one of its task's instructions: the prompt, the prompt without the row, its exemplars' rows."""

    example: Example
    template: int
    prompt: str
    without_row: str
    exemplars: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """A task with its questions: every row under every instruction, row by row."""

    task: Task
    format: Format
    asked: list[Question]

    @property
    def templates(self) -> int:
        """Number of instructions per row."""
        return len(self.format.instructions(self.asked[0].example))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.asked) // self.templates

    def where(self, example: Example) -> str:
        """A row's place, for messages."""
        return f"{self.task.data}, row {example.row}, for the task {self.task.label}"

    @property
    def remedy(self) -> str:
        """What to do if a question is too long, for messages."""
        return "; ask with fewer --shots" if self.format.shots else ""

    @property
    def chance(self) -> float | None:
        """The score of a random choice: given by the task, or else one over a row's options; None where unknown."""
        if self.task.chance is not None or not self.asked[0].example.options:
            return self.task.chance
        return sum(1 / len(one.example.options) for one in self.asked) / len(self.asked)


def questions_of(task: Task, format: Format, exemplars: Exemplars, limit: int | None = None) -> Questions:
    """The questions of a task's rows, at most `limit` of them, in a format.

    Raises InputError where the task does not support the format; a chain of thought without exemplars needs no
    rationale.
    """
    from accord.data.examples import examples_of
    from accord.data.formats import question

    key = format.missing_key(task)
    if key and (format.shots or key == "prefix"):
        what = "--instructions prefix needs" if key == "prefix" else "exemplars with a chain of thought need"
        raise InputError(f"the task {task.label} has no {key!r} in the tasks file, which {what}.")
    asked = []
    for example in examples_of(task, limit=limit):
        shown = exemplars.of(task, example, format)
        for template in range(len(format.instructions(example))):
            prompt, without_row = (question(task, example, template, format, shown, blank=b) for b in (False, True))
            asked.append(Question(example, template, prompt, without_row, tuple(e.row for e in shown)))
    return Questions(task, format, asked)


@dataclass(frozen=True)
class Answered:
    """A model's answer to each question of a task (None if none could be extracted), and its scores.

    For written answers also the share that ended by themselves, the share of chains of thought with an extractable
    answer, and all chains of each question.
    """

    answers: list[str | None]
    scores: list[float]
    ended: float | None = None
    readable: float | None = None
    written: list[list[str]] | None = None

    def by_row(self, templates: int) -> list[float]:
        """Each row's mean score over its instructions."""
        groups = (self.scores[i : i + templates] for i in range(0, len(self.scores), templates))
        return [sum(group) / templates for group in groups]


def answer(policy: Policy, questions: Sequence[Questions], settings: TaskSettings) -> list[Answered]:
    """A model's answers to every task."""
    require_form(policy, settings.form)
    return [
        (reason if q.format.cot else choose if q.task.metric == "options" else write)(policy, q, settings)
        for q in questions
    ]


def require_form(policy: Policy, form: Form) -> None:
    """Raise InputError where a model cannot be asked in this form."""
    if form == "chat" and policy.tokenizer.chat_template is None:
        raise InputError(f"{policy.name} has no chat template; ask it with --form plain.")


def write(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """Answers that the model writes, scored by the task's metric."""
    metric = metric_named(questions.task.metric)
    texts, ended = _written(policy, questions, settings)
    scores = [metric(text, one.example.references) for text, one in zip(texts, questions.asked, strict=True)]
    return Answered([*texts], scores, ended)


def reason(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """The majority answer of each question's chains of thought, scored by the task's metric."""
    from accord.data.formats import extract_answer

    task, n = questions.task, settings.samples
    metric = metric_named(task.metric)
    texts, ended = _written(policy, questions, settings)
    written = [texts[i : i + n] for i in range(0, len(texts), n)]
    votes: list[tuple[str | None, float]] = []
    read = 0
    for one, chains in zip(questions.asked, written, strict=True):
        extracted = [extract_answer(chain, task.wording.answer_phrase) for chain in chains]
        answers = [None if text is None else spoken(task.metric, text, one.example.options) for text in extracted]
        read += sum(answer is not None for answer in answers)
        votes.append(voted(answers, metric, one.example.references))
    return Answered([a for a, _ in votes], [score for _, score in votes], ended, read / len(texts), written)


def _written(policy: Policy, questions: Questions, settings: TaskSettings) -> tuple[list[str], float]:
    """The model's texts, `settings.samples` per question, and the share of them that ended by themselves."""
    prompts = [(one.prompt, questions.where(one.example)) for one in questions.asked]
    sampling = sampling_for(questions, settings)
    return written(policy, prompts, settings.form, sampling, settings.samples, questions.remedy)


def written(
    policy: Policy, prompts: Sequence[tuple[str, str]], form: Form, sampling: Sampling, n: int = 1, remedy: str = ""
) -> tuple[list[str], float]:
    """A model's texts, n per prompt, cut at the stop texts, and the share of them that ended by themselves.

    Each prompt comes with its place for messages, which end with `remedy` where there is no room for an answer.
    """
    from accord.data.chat import encode_prompt
    from accord.data.formats import to_prompt
    from accord.evaluate.answers import sampled

    encoded = []
    for row, (text, where) in enumerate(prompts):
        prompt = Prompt(to_prompt(text, form))
        tokens = encode_prompt(policy.tokenizer, prompt.prompt)
        _require_room(policy, len(tokens) + sampling.max_new_tokens, where, remedy)
        encoded.append(EncodedPrompt(prompt, tokens, row))
    samples = sampled(policy, encoded, n, sampling)
    texts = [before(sampling.stop, s.text).strip() for s in samples]
    return texts, sum(s.completion.stop == "end" for s in samples) / len(samples)


def before(stop: Sequence[str], text: str) -> str:
    """The text up to the first stop text."""
    return min((text.partition(end)[0] for end in stop), key=len, default=text)


def sampling_for(questions: Questions, settings: TaskSettings) -> Sampling:
    """How a task's answers are sampled: after exemplars, answers stop at the separator between exemplars.

    A task's own answer length may be too short for a chain of thought, which gets at least the command's.
    """
    separator = questions.task.wording.separator
    stop = (separator.strip() or separator,) if questions.format.shots else ()
    own, common = questions.task.max_new_tokens, settings.max_new_tokens
    tokens = max(own or common, common) if questions.format.cot else own or common
    return engine.sampling.Sampling(tokens, settings.temperature, seed=settings.seed, stop=stop)


def choose(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """The model's most likely option for each question; each question is one tree with a branch per option."""
    from accord.evaluate.answers import branch_log_probs

    trees = [_tree(policy, one, questions) for one in questions.asked]
    priors = _priors(policy, questions, trees) if settings.option_score == "pmi" else None
    answers: list[str | None] = []
    for i, (one, tree, logps) in enumerate(zip(questions.asked, trees, branch_log_probs(policy, trees), strict=True)):
        prior = priors[i] if priors else None
        scores = option_scores(logps, [len(b.tokens) for b in tree.branches], prior, settings.option_score)
        answers.append(one.example.options[scores.index(max(scores))])
    right = [float(a in one.example.references) for a, one in zip(answers, questions.asked, strict=True)]
    return Answered(answers, right)


def _priors(policy: Policy, questions: Questions, trees: Sequence[Tree]) -> list[list[float]]:
    """log pi of each question's options after its prompt without the row; each distinct case is computed once.

    The options have the same tokens as after the prompt. A prompt that does not contain the row has priors of 0.
    """
    from accord.evaluate.answers import branch_log_probs

    keys = [(one.without_row, tree.branches) for one, tree in zip(questions.asked, trees, strict=True)]
    once = {
        key: replace(tree, prompt=_prompt_tokens(policy, one.without_row, questions.format.form))
        for key, one, tree in zip(keys, questions.asked, trees, strict=True)
        if one.prompt != one.without_row
    }
    scores = dict(zip(once, branch_log_probs(policy, list(once.values())), strict=True))
    return [scores.get(key, [0.0] * len(tree.branches)) for key, tree in zip(keys, trees, strict=True)]


def _tree(policy: Policy, one: Question, questions: Questions) -> Tree:
    where, row = questions.where(one.example), one.example.row
    return option_tree(policy, one.prompt, one.example.options, questions.format.form, where, row, questions.remedy)


def option_tree(
    policy: Policy, prompt: str, options: Sequence[str], form: Form, where: str, row: int, remedy: str = ""
) -> Tree:
    """A question as a tree with one branch per option; `row` is its number, from 1.

    Raises InputError, starting with `where`, if two options are the same tokens, or one is too long for the model.
    """
    from accord.data.encoding import to_tree
    from accord.data.formats import dialogue

    rows = [dialogue(prompt, option, form) for option in options]
    ranking = Ranking(rows[0].prompt, tuple(row.completion for row in rows), tuple(range(len(rows))))
    with located(f"{where}: "):
        tree = to_tree(policy.tokenizer, ranking, row - 1)
        tree = replace(tree, prompt=_prompt_tokens(policy, prompt, form))
        if len({branch.tokens for branch in tree.branches}) < len(rows):
            raise InputError(f"{policy.name} reads two of the options as the same tokens.")
    _require_room(policy, len(tree.prompt) + max(len(b.tokens) for b in tree.branches), where, remedy)
    return tree


def _prompt_tokens(policy: Policy, prompt: str, form: Form) -> Tokens:
    """The tokens of a prompt before an option; for an empty text the token that a text begins after.

    That is the beginning-of-text token, or for tokenizers without one the end-of-text token.
    """
    from accord.data.chat import encode_prompt
    from accord.data.formats import to_prompt

    tokens = encode_prompt(policy.tokenizer, to_prompt(prompt, form))
    return tokens or (policy.tokenizer.eos_token_id,)


def _require_room(policy: Policy, tokens: int, where: str, remedy: str) -> None:
    if policy.context is not None and tokens > policy.context:
        raise InputError(
            f"{where}: prompt and answer of {tokens} tokens do not fit into the context of {policy.name}, "
            f"{policy.context}{remedy}."
        )

"""How a model answers the questions of a task.

It writes the answer, or a chain of thought that the answer is read out of; or the most likely option is its choice.
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
    """A row under one of its task's instructions: the prompt, also without the row, and the rows of its exemplars."""

    example: Example
    template: int
    prompt: str
    without_row: str
    exemplars: tuple[int, ...] = ()


@dataclass(frozen=True)
class Questions:
    """A task with the rows that it is asked about, every row under every instruction, row after row."""

    task: Task
    format: Format
    asked: list[Question]

    @property
    def templates(self) -> int:
        """The instructions that every row is asked under."""
        return len(self.format.instructions(self.asked[0].example))

    @property
    def rows(self) -> int:
        """How many rows are asked about."""
        return len(self.asked) // self.templates

    def where(self, example: Example) -> str:
        """Where messages say that a row is."""
        return f"{self.task.data}, row {example.row}, for the task {self.task.label}"

    @property
    def remedy(self) -> str:
        """What helps where a question is too long."""
        return "; ask with fewer --shots" if self.format.shots else ""

    @property
    def chance(self) -> float | None:
        """What guessing scores, as the task says, or else one in a row's options; None where nobody says it."""
        if self.task.chance is not None or not self.asked[0].example.options:
            return self.task.chance
        return sum(1 / len(one.example.options) for one in self.asked) / len(self.asked)


def questions_of(task: Task, format: Format, exemplars: Exemplars, limit: int | None = None) -> Questions:
    """The questions of a task's rows, at most `limit` of them, in a format.

    Raises InputError where the task cannot be asked in it: without exemplars a chain of thought needs no rationale.
    """
    from accord.data.examples import examples_of
    from accord.data.formats import question

    key = format.lacking(task)
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
    """A model's answer to each question of a task, None where none could be read, and its scores.

    Of what it wrote: the share that ended by itself, the share of chains of thought that an answer was read out of, and
    all chains of each question.
    """

    answers: list[str | None]
    scores: list[float]
    ended: float | None = None
    readable: float | None = None
    written: list[list[str]] | None = None

    def by_row(self, templates: int) -> list[float]:
        """Each row's mean over its instructions."""
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
    """Raise InputError where a model cannot be asked in a form."""
    if form == "chat" and policy.tokenizer.chat_template is None:
        raise InputError(f"{policy.name} has no chat template; ask it with --form plain.")


def write(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """Answers that the model writes, scored by the task's metric."""
    metric = metric_named(questions.task.metric)
    texts, ended = _written(policy, questions, settings)
    scores = [metric(text, one.example.references) for text, one in zip(texts, questions.asked, strict=True)]
    return Answered([*texts], scores, ended)


def reason(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """Answers that most of a question's chains of thought end with, scored by the task's metric."""
    from accord.data.formats import answer_in

    task, n = questions.task, settings.samples
    metric = metric_named(task.metric)
    texts, ended = _written(policy, questions, settings)
    written = [texts[i : i + n] for i in range(0, len(texts), n)]
    votes: list[tuple[str | None, float]] = []
    read = 0
    for one, chains in zip(questions.asked, written, strict=True):
        found = [answer_in(chain, task.wording.answer_phrase) for chain in chains]
        said = [None if text is None else spoken(task.metric, text, one.example.options) for text in found]
        read += sum(answer is not None for answer in said)
        votes.append(voted(said, metric, one.example.references))
    return Answered([a for a, _ in votes], [score for _, score in votes], ended, read / len(texts), written)


def _written(policy: Policy, questions: Questions, settings: TaskSettings) -> tuple[list[str], float]:
    """What the model writes, so many texts to each question, and the share of them that ended by itself."""
    prompts = [(one.prompt, questions.where(one.example)) for one in questions.asked]
    sampling = sampling_for(questions, settings)
    return written(policy, prompts, settings.form, sampling, settings.samples, questions.remedy)


def written(
    policy: Policy, prompts: Sequence[tuple[str, str]], form: Form, sampling: Sampling, n: int = 1, remedy: str = ""
) -> tuple[list[str], float]:
    """What a model writes, n texts to each prompt, and the share of them that ended by itself.

    Prompts come with where messages say that they are, which end with `remedy` where there is no room for an answer. A
    text ends before what is to stop it.
    """
    from accord.data.chat import encode_prompt
    from accord.data.formats import asked
    from accord.evaluate.answers import sampled

    encoded = []
    for row, (text, where) in enumerate(prompts):
        prompt = Prompt(asked(text, form))
        tokens = encode_prompt(policy.tokenizer, prompt.prompt)
        _require_room(policy, len(tokens) + sampling.max_new_tokens, where, remedy)
        encoded.append(EncodedPrompt(prompt, tokens, row))
    samples = sampled(policy, encoded, n, sampling)
    texts = [before(sampling.stop, s.text).strip() for s in samples]
    return texts, sum(s.completion.stop == "end" for s in samples) / len(samples)


def before(stop: Sequence[str], text: str) -> str:
    """The text up to the first of the texts that end it."""
    return min((text.partition(end)[0] for end in stop), key=len, default=text)


def sampling_for(questions: Questions, settings: TaskSettings) -> Sampling:
    """How the answers to a task are drawn: after exemplars they end where these would, too.

    The tokens that a task has for an answer may be too few for a chain of thought, which has the command's then.
    """
    separator = questions.task.wording.separator
    stop = (separator.strip() or separator,) if questions.format.shots else ()
    own, common = questions.task.max_new_tokens, settings.max_new_tokens
    tokens = max(own or common, common) if questions.format.cot else own or common
    return engine.sampling.Sampling(tokens, settings.temperature, seed=settings.seed, stop=stop)


def choose(policy: Policy, questions: Questions, settings: TaskSettings) -> Answered:
    """The option of each question that the model finds most likely; every question is one tree, an option a branch."""
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
    """log pi of each question's options after its prompt without the row, each prompt and set of options asked once.

    The options are the same tokens as after the prompt. A prompt that holds nothing of the row has nothing to be
    compared with: its priors are 0.
    """
    from accord.evaluate.answers import branch_log_probs

    keys = [(one.without_row, tree.branches) for one, tree in zip(questions.asked, trees, strict=True)]
    once = {
        key: replace(tree, prompt=_prompt_tokens(policy, one.without_row, questions.format.form))
        for key, one, tree in zip(keys, questions.asked, trees, strict=True)
        if one.prompt != one.without_row
    }
    found = dict(zip(once, branch_log_probs(policy, list(once.values())), strict=True))
    return [found.get(key, [0.0] * len(tree.branches)) for key, tree in zip(keys, trees, strict=True)]


def _tree(policy: Policy, one: Question, questions: Questions) -> Tree:
    where, row = questions.where(one.example), one.example.row
    return option_tree(policy, one.prompt, one.example.options, questions.format.form, where, row, questions.remedy)


def option_tree(
    policy: Policy, prompt: str, options: Sequence[str], form: Form, where: str, row: int, remedy: str = ""
) -> Tree:
    """A question with a branch for each of the options; `row` is its number, from 1.

    Raises InputError, which begins with `where`, if two of them are the same tokens, or one is too long for the model.
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
    """What a model reads before an option; of an empty text the token that a text begins after.

    That is the beginning of text, or where a tokenizer has none the end of the text before.
    """
    from accord.data.chat import encode_prompt
    from accord.data.formats import asked

    tokens = encode_prompt(policy.tokenizer, asked(prompt, form))
    return tokens or (policy.tokenizer.eos_token_id,)


def _require_room(policy: Policy, tokens: int, where: str, remedy: str) -> None:
    if policy.context is not None and tokens > policy.context:
        raise InputError(
            f"{where}: prompt and answer of {tokens} tokens do not fit into the context of {policy.name}, "
            f"{policy.context}{remedy}."
        )

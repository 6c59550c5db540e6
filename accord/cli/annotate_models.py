"""Models in an annotation project: those that order items by uncertainty, simulated annotators, conversation models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from statistics import mean
from typing import TYPE_CHECKING, Any

from accord.console import status
from accord.dates import fixed
from accord.errors import InputError
from accord.evaluate.options import AnswerOptions

if TYPE_CHECKING:
    from accord.annotate.project import Progress, Project
    from accord.annotate.tasks.converse import Speaker
    from accord.records import Comparison

PATIENCE = 300.0
"""Seconds that a person waits for all answers of a turn of a conversation."""


@dataclass(kw_only=True)
class SpeakerOptions:
    """The model that people converse with."""

    server: str | None = None
    """For converse, the base URL of an OpenAI-compatible server that has the model."""
    model: str | None = None
    """For converse, a folder, a Hugging Face Hub name, or smollm2; with --server, the model's name there."""
    key: str | None = None
    """The environment variable that holds the server's key; OPENAI_API_KEY for api.openai.com, and none for others."""
    insecure: bool = False
    """Allow sending the key over plain http to another machine."""
    temperature: float = 1.0
    """Sampling temperature of the model; 0 always takes the most likely token."""
    max_new_tokens: int = 256
    """Longest answer of the model, in tokens."""
    seed: int = 0
    """Seed of the order of items and answers in a new project, and of the model's sampling."""


@dataclass(kw_only=True)
class OrderOptions:
    """The order in which items are given out."""

    uncertainty: str | list[str] | None = None
    """For compare and rank, a reward or preference model: items it is least sure of tend to come first; with several
    (an ensemble), items they disagree on. Without it, the order stays as it is."""
    focus: float = 2.0
    """The strength of --uncertainty: items are drawn in proportion to their uncertainty to this power."""

    def __post_init__(self) -> None:
        if not 0 <= self.focus <= 10:
            raise InputError(f"--focus must be between 0 and 10, not {self.focus:g}.")


def weigh(project: Project, task: str, settings: OrderOptions) -> None:
    """Weight the items not yet given out by how unsure the models in `settings`, if any, are of their pairs."""
    if settings.uncertainty is None:
        return
    from accord import feedback

    models = [settings.uncertainty] if isinstance(settings.uncertainty, str) else settings.uncertainty
    pairs = _pairs("--uncertainty", task, project.waiting(task))
    judges = [feedback.judge.BothOrders(feedback.named.judge_named(name)) for name in models]
    unsure: dict[str, list[float]] = {}
    values = feedback.uncertainty.uncertainty(judges, [pair for _, _, pair in pairs])
    for (key, _, _), value in zip(pairs, values, strict=True):
        unsure.setdefault(key, []).append(value)
    if not any(map(any, unsure.values())):
        why = "is sure of every item that is left" if unsure else "would weigh items, and all were asked about already"
        status(f"annotate: {', '.join(models)} {why}, so the order stays as it is")
        return
    count = project.weigh({key: mean(values) ** settings.focus for key, values in unsure.items()}, "uncertainty")
    status(f"annotate: {count:,} items are drawn by how unsure {', '.join(models)} is of them")


def _pairs(option: str, task: str, contents: Mapping[str, Any]) -> list[tuple[str, tuple[int, int], Comparison]]:
    """Every pair of answers of every item: the item's key, the two indices, and the comparison."""
    if task not in ("compare", "rank"):
        raise InputError(f"{option} is for the tasks compare and rank; {task} compares nothing.")
    from accord.data.conventions import read_completion
    from accord.data.messages import read_prompt
    from accord.records import Comparison

    return [
        (key, (i, j), Comparison(prompt, answers[i], answers[j]))
        for key, content in contents.items()
        for prompt in (read_prompt(content["prompt"], "prompt"),)
        for answers in ([read_completion(answer, "answers") for answer in content["answers"]],)
        for i, j in combinations(range(len(answers)), 2)
    ]


@dataclass(kw_only=True)
class SimulatedOptions:
    """Simulated people, who answer instead of real ones."""

    simulated: str | None = None
    """For compare and rank, let this judge answer instead of people: a small world (cafe), or any judge of `accord
    label`."""
    agreement: float | list[float] | None = None
    """How often simulated people agree with the world's gold reward: one number, or one for each (default: always)."""
    people: int | None = None
    """How many people there are; links are created for those still missing."""

    def __post_init__(self) -> None:
        if self.people is not None and self.people < 1:
            raise InputError(f"--people must be at least 1, not {self.people}.")
        if self.agreement is None:
            return
        if self.simulated is None:
            raise InputError("--agreement is for simulated people: give --simulated too, such as --simulated cafe.")
        given = self.agreement if isinstance(self.agreement, list) else [self.agreement]
        if len(given) > 1 and self.people not in (None, len(given)):
            raise InputError(f"--agreement is of {len(given)} people, and --people says {self.people}: leave one out.")

    @property
    def agreements(self) -> list[float | None]:
        """The agreement of each simulated person."""
        if isinstance(self.agreement, list) and len(self.agreement) > 1:
            return [*self.agreement]
        return [*(self.agreement if isinstance(self.agreement, list) else [self.agreement])] * (self.people or 1)


def simulated_judges(settings: SimulatedOptions, task: str, seed: int) -> list[Any]:
    """The judge behind each simulated person. Raises InputError for another task, or an unknown judge."""
    _pairs("--simulated", task, {})
    from accord import feedback

    judge = str(settings.simulated)
    never_errs = feedback.named.judge_named(judge) if None in settings.agreements else None
    return [
        never_errs if agreement is None else feedback.named.labeler_named(judge, agreement, seed + number)
        for number, agreement in enumerate(settings.agreements)
    ]


def simulate(project: Project, task: str, judges: Sequence[Any], on_progress: Callable[[Progress], bool]) -> None:
    """Answer as simulated people, in turns, until no item is left or `on_progress` is true.

    They get items and answer them in the way of people at the pages; time on task is 0. Items on which a judge has no
    verdict are skipped.
    """
    from accord.annotate.simulated import answer_unattended, simulated_names

    by_item: dict[str, list[tuple[tuple[int, int], Comparison]]] = defaultdict(list)
    for key, two, pair in _pairs("--simulated", task, project.contents(task)):
        by_item[key].append((two, pair))
    names = simulated_names(project, len(judges))
    answer_unattended(
        project,
        {name: _answering(task, judge, by_item) for name, judge in zip(names, judges, strict=True)},
        lambda: on_progress(project.progress()),
    )


def _answering(task: str, judge: Any, by_item: Mapping[str, list[tuple[tuple[int, int], Comparison]]]) -> Any:
    """A function that answers an item by a judge, asked once per item; a noisy labeler is asked about all at once."""
    from accord import feedback

    both = feedback.judge.BothOrders(judge)
    known: dict[Comparison, float | None] = {}
    if isinstance(judge, feedback.people.Simulated):
        every = [pair for pairs in by_item.values() for _, pair in pairs]
        known = {pair: verdict.first_wins for pair, verdict in zip(every, both(every), strict=True)}

    def answer(key: str) -> dict[str, Any] | None:
        asked = [pair for _, pair in by_item[key] if pair not in known]
        known.update({pair: verdict.first_wins for pair, verdict in zip(asked, both(asked), strict=True)})
        return _answer(task, {two: known[pair] for two, pair in by_item[key]})

    return answer


def _answer(task: str, verdicts: Mapping[tuple[int, int], float | None]) -> dict[str, Any] | None:
    """The answer that follows from verdicts on all pairs of an item; None where a verdict is missing.

    Answers are ranked by how many others they beat, ties half.
    """
    wins: dict[int, float] = defaultdict(float)
    for (first, second), chance in verdicts.items():
        if chance is None:
            return None
        won = 0.5 + 0.5 * ((chance > 0.5) - (chance < 0.5))
        wins[first] += won
        wins[second] += 1 - won
    if not wins:
        return None
    standings = sorted(set(wins.values()), reverse=True)
    ranks = [standings.index(wins[i]) for i in sorted(wins)]
    if task == "rank":
        return {"ranks": ranks, "none_will_do": False, "comment": ""}
    better = None if ranks[0] == ranks[1] else ranks.index(0)
    sure = abs((verdicts[0, 1] or 0.0) - 0.5) >= 0.25
    strength = "tie" if better is None else "much" if sure else "slightly"
    return {"better": better, "strength": strength, "comment": ""}


def speaker(settings: SpeakerOptions) -> Speaker | None:
    """The conversation model, on a server or loaded here; None where none is named."""
    if settings.server is None and settings.model is None:
        return None
    import threading
    from time import monotonic

    from accord.engine.sampling import Sampling
    from accord.records import Prompt

    def sampling(drawn: int) -> Sampling:
        return Sampling(settings.max_new_tokens, settings.temperature, seed=settings.seed + drawn)

    if settings.server is not None:
        from accord.chat.served import ServedSpeaker
        from accord.chat.speaker import Question
        from accord.prompting.server import Server

        server = Server(settings.server, settings.key, settings.insecure)
        served = ServedSpeaker(server, server.model_named(settings.model))

        def ask(messages: list[dict[str, Any]], n: int, drawn: int) -> list[str]:
            question, end = Question(_chat(messages), (), settings.max_new_tokens, 0), monotonic() + PATIENCE
            saying = (served.say(question, sampling(drawn + i), end - monotonic()) for i in range(n))
            texts = [each.heard().text for each in saying]
            if settings.temperature and len(set(texts)) == 1 < n:
                status(
                    f"annotate: {settings.server} gave the same answer {n} times, so there is nothing to choose from: "
                    "make it sample. `transformers serve` does where the model's generation_config.json has do_sample."
                )
            return texts

        return ask
    from accord import engine
    from accord.evaluate.answers import encoded, sampled

    policy = engine.load.load_model(settings.model or "")
    options = AnswerOptions(max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
    alone = threading.Lock()

    def draw(messages: list[dict[str, Any]], n: int, drawn: int) -> list[str]:
        prompt = Prompt(_chat(messages))
        with alone, fixed(date.today()):  # not the day on which the server began
            samples = sampled(policy, encoded(policy, [prompt], options), n, sampling(drawn))
        return [sample.text for sample in samples]

    return draw


def _chat(messages: list[dict[str, Any]]) -> Any:
    from accord.records import Message

    return tuple(Message(one["role"], one["content"]) for one in messages)

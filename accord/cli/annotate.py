"""`accord annotate`: the pages where people answer, who they are, and what they answered."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from accord.console import show, status
from accord.errors import InputError
from accord.evaluate.options import AnswerOptions, takes
from accord.files import require_folder

if TYPE_CHECKING:
    from accord.annotate.project import Progress, Project
    from accord.annotate.tasks.converse import Speaker

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(kw_only=True)
class SpeakerOptions:
    """The model of live conversations."""

    server: str | None = None
    """For converse, the base URL of an OpenAI-compatible server that has the model."""
    model: str | None = None
    """For converse, a folder, a Hugging Face Hub name, or smollm2; with a server what the server calls it."""
    key: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key, where it wants one."""
    temperature: float = 1.0
    """Divides the model's logits; 0 always takes the most likely token."""
    max_new_tokens: int = 256
    """The model's answers are cut after so many tokens."""
    seed: int = 0
    """Of the order of items and answers in a new project, and of the model's answers."""


@dataclass(kw_only=True)
class ServeOptions(SpeakerOptions):
    """What is asked of whom, and where the pages are."""

    people: int | None = None
    """How many people there should be; links are made for those who are missing."""
    overlap: int | None = None
    """How many people answer each item; 1 for a new project, and it can be raised later."""
    guidelines: str | None = None
    """A Markdown file that everybody can read beside the work."""
    gold: str | None = None
    """Rows with the right answers, which everybody is asked."""
    scales: str | list[str] | None = None
    """For rate, scales as name:low-high, such as helpful:1-5 overall:1-100."""
    answers: int | None = None
    """For converse, how many answers every turn shows: 2, 3 or 4."""
    items: int | None = None
    """For plain, few-shot and converse, which start from nothing: how many."""
    reserve_minutes: float | None = None
    """How long an item is kept for who was shown it; 20 for a new project."""
    host: str = "127.0.0.1"
    """The address to listen at; one that others can reach needs a proxy with TLS before it."""
    port: int = 8080
    """The port to listen at; 0 for any that is free."""
    until: int | None = None
    """End by itself when there are so many answers."""

    def __post_init__(self) -> None:
        if self.people is not None and self.people < 1:
            raise InputError(f"--people must be at least 1, not {self.people}.")


@takes(ServeOptions)
def serve(
    database: str,
    data: str | list[str] | None = None,
    *,
    task: Literal["compare", "rank", "rate", "write", "plain", "few-shot", "use-case", "edit", "converse"] = "compare",
    out: str | None = None,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Serve the pages where people answer, until Ctrl-C; the links to them are printed once.

    The same command goes on where it was: items that are there already are not added again. As a stage of a recipe it
    waits for the answers that the next stages learn from.

    Args:
        database: a file of SQLite, made where there is none, or a postgresql:// URL: one database, one project.
        data: what is asked about: what `accord sample` writes, or any rows that accord reads.
        task: what is asked: which of two is better, all in order, numbers on scales, a text, a mended answer, a talk.
        out: the JSONL file to write what was answered to at the end, as `annotate export` does.
        columns: names of the rows' columns, as prompt=question,chosen=best.
        options: the fields of `ServeOptions`.

    Raises:
        InputError: the database cannot be used, a row cannot be asked about, or the options do not fit each other.
    """
    asked = ServeOptions(**options)
    if out is not None:
        require_folder(Path(out).parent)
    project = _opened(
        database, overlap=asked.overlap, reserve_minutes=asked.reserve_minutes,
        guidelines=_guidelines(asked.guidelines), seed=asked.seed,
    )  # fmt: skip
    from accord.annotate.serve import listen
    from accord.annotate.serve import serve as serve_pages

    source = data if data is not None else asked.items
    _add(project, source, asked.gold, task, columns, scales=asked.scales, answers=asked.answers)
    speaker = _speaker(asked)
    at = listen(asked.host, asked.port)
    host = f"[{asked.host}]" if ":" in asked.host else asked.host
    _say_links(project, f"http://{host}:{at.getsockname()[1]}", project.add_people(asked.people or 0))
    if asked.host not in LOCAL:
        status(
            f"annotate: {asked.host} can be reached from other machines, and links and answers travel as plain text: "
            "put a proxy with TLS (Caddy, nginx) before it, which passes the Host header on and sets X-Forwarded-Proto."
        )
    with _Watch(asked.until) as watch:
        serve_pages(project, at, speaker=speaker, on_progress=watch)
    done = project.progress()
    status(f"annotate: ended with {done.answers:,} of {done.asked:,} answers in {project.database.name}")
    if out is not None:
        _write(project, out, task, gold=False)
    project.database.close()


def people(
    database: str, *, add: str | list[str] | None = None, renew: str | None = None, revoke: str | None = None,
    withdraw: str | None = None, url: str = "http://127.0.0.1:8080",
) -> None:  # fmt: skip
    """Make and end people's links, and list who there is.

    Args:
        database: the project's file of SQLite, or its postgresql:// URL.
        add: pseudonyms of people to make links for; they are in the rows that are exported.
        renew: make somebody a new link; the one before ends.
        revoke: end somebody's link; their answers stay.
        withdraw: end somebody's link and erase their answers for good; others are asked in their place.
        url: the address of the pages, which links begin with.

    Raises:
        InputError: there is no such project or person, or a name is taken.
    """
    project = _opened(database, is_new=False)
    links = project.add_people([add] if isinstance(add, str) else add) if add else {}
    if renew is not None:
        links[renew] = project.renew(renew)
    if revoke is not None:
        project.revoke(revoke)
    if withdraw is not None:
        status(f"annotate: erased {project.withdraw(withdraw)} answers of {withdraw}")
    for name, token in links.items():
        print(f"{name}: {url.rstrip('/')}/join/{quote(token)}")
    if not links:
        for name, state, count in project.people():
            print(f"{name}: {count} answers{state}")


def show_status(database: str) -> None:
    """Show how far each task is, how far people agree, their speed and bias of order, and what they disagree on most.

    Args:
        database: the project's file of SQLite, or its postgresql:// URL.

    Raises:
        InputError: there is no such project.
    """
    project = _opened(database, is_new=False)
    from accord.annotate.statistics import status as status_of

    tasks = status_of(project)
    if not tasks:
        status("annotate: there are no items yet")
    for task in tasks:
        show(*task.tables())


def export(
    database: str, out: str, *, task: str | None = None, gold: bool = False,
    format: Literal["accord", "argilla", "label-studio"] = "accord",
) -> Path:  # fmt: skip
    """Write what people answered so far as rows that accord reads; also while they go on.

    Args:
        database: the project's file of SQLite, or its postgresql:// URL.
        out: the file to write: JSONL, or .json for argilla and label-studio.
        task: the task whose answers are written, where the project has several.
        gold: write the answers to gold questions too.
        format: rows for accord, records for Argilla 2, or tasks for Label Studio; accord reads all three.

    Raises:
        InputError: there is no such project, no answer yet, or the format does not fit the task or the file's name.
    """
    require_folder(Path(out).parent)
    _write(_opened(database, is_new=False), out, task, gold=gold, format=format)
    return Path(out)


def _write(
    project: Project, out: str, task: str | None, *, gold: bool,
    format: Literal["accord", "argilla", "label-studio"] = "accord",
) -> None:  # fmt: skip
    exported = project.export(out, task=task, gold=gold, form=format)
    status(f"annotate: {len(exported.rows):,} {'rows' if format == 'accord' else 'answers'} in {out}")
    for note in exported.notes:
        status(f"annotate: {note}")


def _opened(database: str, *, is_new: bool = True, **settings: Any) -> Project:
    """The project. Raises InputError where the extra is missing, or there must be one and is none."""
    missing = [name for name in ("fastapi", "uvicorn", "sqlmodel", "alembic", "markdown_it", "nh3") if not _has(name)]
    if missing:
        raise InputError(f"`accord annotate` needs the annotate extra, of which {', '.join(missing)} is not installed.")
    if not is_new and "://" not in database and not Path(database).is_file():
        raise InputError(f"there is no database {database}; `accord annotate serve` makes one.")
    from accord.annotate.project import Project

    return Project.open(database, **settings)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _guidelines(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--guidelines {path} cannot be read as a text ({error}).") from None


def _add(
    project: Project, data: Any, gold: str | None, task: str, columns: Mapping[str, str] | None, **settings: Any
) -> None:
    for source, is_gold in ((data, False), (gold, True)):
        if source is None:
            continue
        added = project.add(source, task, gold=is_gold, columns=columns, **settings)
        known = f", {added.known:,} were there already" if added.known else ""
        status(f"annotate: {added.new:,} new {'gold questions' if is_gold else 'items'}{known}")
        for line in added.left_out:
            status(f"annotate: {line}")
    if not project.progress().items:
        raise InputError("there is nothing to ask about yet: name a file of rows by --data, or how many by --items.")


def _say_links(project: Project, base: str, links: Mapping[str, str]) -> None:
    """Print the owner's link, new each time, and those of people who are new: of others only hashes are kept."""
    print(f"owner: {base}/owner/join/{project.new_owner()}")
    for name, token in links.items():
        print(f"{name}: {base}/join/{token}")
    given = [name for name, _, _ in project.people() if name not in links]
    if given:
        status(f"annotate: {', '.join(given)} have their links; `accord annotate people --renew NAME` makes another")
    if not given and not links:
        status("annotate: nobody can answer yet: --people says how many links to make")
    print(f"The pages: {base} (Ctrl-C ends)", flush=True)


class _Watch:
    """The bar of answers in a terminal, lines elsewhere; is true when there are enough."""

    def __init__(self, until: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.until, self.last = until, -1
        console = Console(stderr=True)
        columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("answers", total=None, pace="")

    def __enter__(self) -> _Watch:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, done: Progress) -> bool:
        pace = f"{done.last_hour:,} in the last hour, {done.left:,} left"
        self.bar.update(self.task, completed=done.answers, total=done.asked, pace=pace)
        if self.bar.disable and done.answers >= self.last + max(1, done.asked // 20):
            status(f"annotate: {done.answers:,} of {done.asked:,} answers, {pace}")
            self.last = done.answers
        return self.until is not None and done.answers >= self.until


def _speaker(asked: SpeakerOptions) -> Speaker | None:
    """A model of a server's, or one at hand; None where none is named."""
    if asked.server is None and asked.model is None:
        return None
    import threading

    from accord.engine.sampling import Sampling
    from accord.records import Prompt

    def sampling(drawn: int) -> Sampling:
        return Sampling(asked.max_new_tokens, asked.temperature, seed=asked.seed + drawn)

    if asked.server is not None:
        from accord.chat.served import Server
        from accord.chat.speaker import Question

        served = Server(asked.server, asked.key).speaker(asked.model)

        def ask(messages: list[dict[str, Any]], n: int, drawn: int) -> list[str]:
            said = [
                served.say(Question(_chat(messages), (), asked.max_new_tokens, 0), sampling(drawn + i))
                for i in range(n)
            ]
            texts = ["".join(saying) for saying in said]
            if asked.temperature and len(set(texts)) == 1:
                status(
                    f"annotate: {asked.server} gave the same answer {n} times, so that there is nothing to choose: see "
                    "that it samples. `transformers serve` does where the model's generation_config.json has do_sample."
                )
            return texts

        return ask
    from accord import engine
    from accord.evaluate.answers import encoded, sampled

    policy = engine.load.load_model(asked.model or "")
    options = AnswerOptions(max_new_tokens=asked.max_new_tokens, temperature=asked.temperature)
    alone = threading.Lock()

    def draw(messages: list[dict[str, Any]], n: int, drawn: int) -> list[str]:
        prompt = Prompt(_chat(messages))
        with alone:
            samples = sampled(policy, encoded(policy, [prompt], options), n, sampling(drawn))
        return [sample.text for sample in samples]

    return draw


def _chat(messages: list[dict[str, Any]]) -> Any:
    from accord.records import Message

    return tuple(Message(one["role"], one["content"]) for one in messages)

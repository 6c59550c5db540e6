"""`accord annotate serve`: the pages where people answer, or simulated people instead of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any, Literal

from accord.cli.annotate import opened, require_cost, require_extra, write_answers
from accord.cli.annotate_models import (
    OrderOptions,
    SimulatedOptions,
    SpeakerOptions,
    simulate,
    simulated_judges,
    speaker,
    weigh,
)
from accord.console import status
from accord.errors import InputError
from accord.evaluate.options import checked_by, takes
from accord.outputs import require_file
from accord.parsing import read_content

if TYPE_CHECKING:
    from accord.annotate.project import Progress, Project

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(kw_only=True)
class ServeOptions(SpeakerOptions, SimulatedOptions, OrderOptions):
    """The items and how people answer them, and the address of the pages."""

    overlap: int | None = None
    """How many people answer each item (default: 1 for a new project); it can be raised later."""
    guidelines: str | None = None
    """A Markdown file of guidelines that everybody can read while answering."""
    gold: str | None = None
    """Rows with known right answers (gold questions), which everybody gets."""
    scales: str | list[str] | None = None
    """For rate, scales as name:low-high, such as helpful:1-5 overall:1-100."""
    answers: int | None = None
    """For converse, how many answers each turn shows: 2, 3 or 4."""
    items: int | None = None
    """For plain, few-shot and converse, which need no data: the number of items."""
    reserve_minutes: float | None = None
    """How long an item is reserved for whoever was shown it (default: 20 for a new project)."""
    host: str = "127.0.0.1"
    """Address to listen on; one that other machines can reach needs a proxy with TLS in front of it."""
    port: int = 8080
    """Port to listen on; 0 picks a free one."""
    until: int | None = None
    """Stop after this many answers."""
    hourly_cost: float | None = None
    """Cost of an hour of people's time, to report what the answers cost."""

    def __post_init__(self) -> None:
        SimulatedOptions.__post_init__(self)
        OrderOptions.__post_init__(self)
        if not 0 <= self.port < 2**16:
            raise InputError(f"--port must be from 0 to 65,535, not {self.port}.")
        if self.until is not None and self.until < 1:
            raise InputError(f"--until must be at least 1, not {self.until}.")
        require_cost(self.hourly_cost)


def _check(data: str | Sequence[str] | None, items: int | None) -> None:
    if data is not None and items is not None:
        raise InputError("--items is for tasks without data, and --data names some: leave one of them out.")


@takes(ServeOptions)
@checked_by(_check)
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

    The same command continues: items that are already in the database are not added again. As a stage of a recipe it
    waits for the answers that later stages are trained on.

    Args:
        database: the project's database: an SQLite file, created if missing, or a postgresql:// URL.
        data: the items: rows that `accord sample` writes, or any rows that accord reads.
        task: what people do: choose the better of two, rank, rate on scales, write (plain, few-shot,
            use-case, write), edit an answer, or converse.
        out: the JSONL file to write the answers to at the end, as `annotate export` does; evaluation.json in the same
            folder says how far people agree and how long they took.
        columns: the data's own names for accord's columns: prompt=question,chosen=best.
        options: the fields of `ServeOptions`.

    Raises:
        InputError: the database cannot be used, a row cannot be asked about, or the options do not fit each other.
    """
    settings = ServeOptions(**options)
    _check(data, settings.items)
    if out is not None:
        require_file(out, database, data, options)
        _require_place(Path(out).parent)
    judges = [] if settings.simulated is None else simulated_judges(settings, task, settings.seed)
    at = None if judges else _listen(settings.host, settings.port)
    from accord.annotate.simulated import require_unmixed

    with _whole(database):
        project = opened(
            database, overlap=settings.overlap, reserve_minutes=settings.reserve_minutes,
            guidelines=_guidelines(settings.guidelines), seed=settings.seed,
        )  # fmt: skip
        project.database.require_writable()
        require_unmixed(project, simulated=bool(judges))
        source = data if data is not None else settings.items
        _add(project, source, settings.gold, task, columns, scales=settings.scales, answers=settings.answers)
    weigh(project, task, settings)
    with _Watch(settings.until) as watch:
        if at is None:
            simulate(project, task, judges, watch)
        else:
            _serve_pages(project, settings, watch, at)
    done = project.progress()
    status(f"annotate: ended with {done.answers:,} of {done.asked:,} answers in {project.database.name}")
    if out is not None:
        write_answers(project, out, task)
    _show_result(project, task, settings.hourly_cost, out)
    project.database.close()


@contextmanager
def _whole(database: str) -> Iterator[None]:
    """Delete a new database file where the block that fills it fails."""
    is_new = "://" not in database and not Path(database).exists()
    try:
        yield
    except BaseException:
        for end in ("", "-wal", "-shm", "-journal") if is_new else ():
            Path(f"{database}{end}").unlink(missing_ok=True)
        raise


def _show_result(project: Project, task: str, hourly_cost: float | None, out: str | None) -> None:
    """Print how far people agree and how long they took, and write it to the folder of the rows."""
    from accord.annotate.statistics import status as status_of

    every = [result for result in status_of(project, hourly_cost) if result.answers]
    for result in every:
        if result.task == task and out is not None:
            result.save(Path(out).parent)
    for result in every:
        result.announce()


def _require_place(folder: Path) -> None:
    """Raise InputError where the folder holds the result of another evaluation."""
    from accord import results

    if (folder / results.FILE).exists() and not isinstance(results.load(folder), results.PeopleResult):
        raise InputError(f"{folder / results.FILE} is another evaluation's result: give another --out.")
    require_file(folder / results.FILE)


def _listen(host: str, port: int) -> socket:
    """The pages' socket, before anything is put in the database."""
    require_extra()
    from accord.annotate.serve import listen

    return listen(host, port)


def _serve_pages(project: Project, settings: ServeOptions, watch: _Watch, at: socket) -> None:
    from accord.annotate.serve import serve

    model = speaker(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    _say_links(project, f"http://{host}:{at.getsockname()[1]}", project.add_people(settings.people or 0))
    if settings.host not in LOCAL:
        status(
            f"annotate: {settings.host} can be reached from other machines, and links and answers travel as plain "
            "text: put a proxy with TLS (Caddy, nginx) before it, which passes the Host header on and sets "
            "X-Forwarded-Proto."
        )
    serve(project, at, speaker=model, on_progress=watch)


def _guidelines(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return read_content(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error.reason
        raise InputError(f"--guidelines {path} cannot be read as a text ({why}).") from None


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
    """Print the owner's link, a new one each time, and those of new people; of older links only hashes are kept."""
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
    """A progress bar of answers in a terminal, lines elsewhere; calling it returns whether there are enough."""

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

"""Projects in temporary files with a clock that tests turn, servers in a thread, and a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from accord.annotate import Project, listen, serve
from accord.annotate.database import Annotator

PAIRS = [{"id": f"p{i}", "prompt": f"Question {i}?", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
CHROMIUM = shutil.which("chromium")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


class Clock:
    """The time, in seconds; it passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def made(path: Path, database: str | None = None, **settings: Any) -> Project:
    """A project with a clock of its own, in a file of that folder where no other database is named."""
    project = Project.open(database or path / "labels.db", **settings)
    project.clock = Clock()
    return project


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a project can be made: a file, or a server of PostgreSQL that lives for the test."""
    if request.param == "sqlite":
        yield str(tmp_path / "labels.db")
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    initdb = shutil.which("initdb") or (str(found[-1] / "initdb") if found else "")
    if not initdb:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    bin_, folder, port = Path(initdb).resolve().parent, tmp_path / "postgres", free_port()
    folder.mkdir()
    unprivileged: list[str] = []
    if os.geteuid() == 0:  # which PostgreSQL refuses
        shutil.chown(folder, "nobody")
        for above in folder.parents:
            if above.is_relative_to("/tmp") and above != Path("/tmp"):
                above.chmod(0o755)
        unprivileged = ["runuser", "-u", "nobody", "--"]
    data = folder / "data"
    subprocess.run([*unprivileged, str(bin_ / "initdb"), "-D", data, "-U", "postgres", "-A", "trust"], check=True)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*unprivileged, str(bin_ / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-o", options, "-l", str(folder / "log"), "start"], check=True)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True)


def person(project: Project, name: str) -> Annotator:
    with project.database.reading() as session:
        return session.exec(select(Annotator).where(Annotator.name == name)).one()


@dataclass
class Server:
    """Where a project is served, and the links' tokens by name."""

    project: Project
    base: str
    links: dict[str, str]

    def join(self, name: str = "ann") -> str:
        return f"{self.base}/join/{self.links[name]}"


@contextmanager
def serving(project: Project, names: list[str], speaker: Any = None) -> Iterator[Server]:
    """The project's pages on a free port while the context lasts."""
    at = listen("127.0.0.1", 0)
    base = f"http://127.0.0.1:{at.getsockname()[1]}"
    ended = threading.Event()
    links = project.add_people(names)
    options = {"speaker": speaker, "on_progress": lambda _: ended.is_set(), "every": 0.05}
    thread = threading.Thread(target=serve, args=(project, at), kwargs=options, daemon=True)
    thread.start()
    try:
        yield Server(project, base, links)
    finally:
        ended.set()
        thread.join(timeout=15)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Serve items of a task: `server(data, task, speaker=..., **settings)`."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(data: Any, task: str, speaker: Any = None, **settings: Any) -> Server:
            project = Project.open(
                Path(tempfile.mkdtemp(dir=tmp_path)) / "labels.db", overlap=2, guidelines="Be **kind**."
            )
            project.add(data, task, **settings)
            return stack.enter_context(serving(project, ["ann", "bob"], speaker))

        yield start


@pytest.fixture(scope="module")  # playwright's event loop runs in this thread as long, and no other can beside it
def chromium() -> Iterator[Any]:
    """A real browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    arguments = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments.split())
        yield browser
        browser.close()

"""The web server of the pages: one process, bound to this machine by default, with clean shutdown."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from accord.annotate.owner import OwnerPages
from accord.annotate.pages import HERE, Pages, add_faults, add_joining
from accord.annotate.project import Progress, Project
from accord.annotate.tasks.converse import Speaker
from accord.annotate.work import add_work
from accord.errors import InputError


def make_app(project: Project, speaker: Speaker | None = None) -> FastAPI:
    """The application: annotators' pages, and the owner's at /owner."""
    pages = Pages(project, speaker)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.pages = pages
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    add_faults(app, pages)
    add_joining(app, pages)
    add_work(app, pages)
    OwnerPages(app, pages)
    return app


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError where the address is in use or not on this machine."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
    except (OSError, OverflowError) as error:
        raise InputError(f"nothing can listen at {host}, port {port} ({error}); name another by --port.") from None
    return opened


def serve(
    project: Project,
    at: socket.socket,
    *,
    speaker: Speaker | None = None,
    on_progress: Callable[[Progress], bool] = lambda _: False,
    every: float = 2.0,
) -> None:
    """Serve a project's pages until Ctrl-C; running requests are finished first.

    Args:
        project: the project.
        at: the socket, from `listen(host, port)`.
        speaker: a model for live conversations.
        on_progress: called repeatedly with the progress; returning true ends the server.
        every: seconds between calls.
    """
    # No log of requests: links have tokens in them. No lifespan, whose traceback a second Ctrl-C would print.
    config = uvicorn.Config(
        make_app(project, speaker), log_level="warning", access_log=False, server_header=False, ws="none",
        lifespan="off", timeout_graceful_shutdown=10, h11_max_incomplete_event_size=65536,
    )  # fmt: skip
    server = uvicorn.Server(config)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            if on_progress(project.progress()):
                server.should_exit = True

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        server.run(sockets=[at])
    except KeyboardInterrupt:
        pass  # the server has ended by then
    finally:
        ended.set()
        watching.join(timeout=5)

"""Common parts of all pages: sessions, templates, forms and errors; joining by a link, and keyboard shortcuts."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlmodel import select
from starlette.exceptions import HTTPException

from accord.annotate.assign import Refused
from accord.annotate.database import Annotator, NotStored
from accord.annotate.guard import Denied, Headers, Limit, form_token, read_form
from accord.annotate.people import hashed
from accord.annotate.project import Project
from accord.annotate.tasks import TASKS
from accord.annotate.tasks.base import Action, Incomplete, Task
from accord.annotate.tasks.converse import Speaker
from accord.annotate.text import plain, rendered, turns, words

HERE = Path(__file__).parent
COMMON = (
    Action("skip", "Skip", "s"),
    Action("unsafe", "Unsafe", "x"),
    Action("unclear", "Unclear", "q"),
    Action("undo", "Undo my last answer", "u"),
    Action("comment", "Comment", "c"),
    Action("guidelines", "Guidelines", "g"),
)
"""Actions available on every page."""
MOST_REQUESTS = 20
"""Maximum annotators waiting for a model at once: half of the request threads, so that other requests are served."""


class ModelRequests:
    """The slots whose model request is running: at most `MOST_REQUESTS`, each once."""

    def __init__(self) -> None:
        self._slots: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def of(self, slot: int) -> Iterator[None]:
        """Context of a slot's model request. Raises Incomplete where it is running already, or too many others are."""
        with self._lock:
            if slot in self._slots:
                raise Incomplete("The model is answering you already: wait, and open this page again.")
            if len(self._slots) >= MOST_REQUESTS:
                raise Incomplete("The model talks with many people at this moment: wait a little, and send it again.")
            self._slots.add(slot)
        try:
            yield
        finally:
            with self._lock:
                self._slots.remove(slot)


class Pages:
    """Shared state of all routes: the project, templates, rate limits, and sessions."""

    def __init__(self, project: Project, speaker: Speaker | None = None) -> None:
        self.project, self.speaker = project, speaker
        self.model_requests = ModelRequests()
        self.requests = Limit(rate=20, burst=120)
        self.bad_links = Limit(rate=1 / 6, burst=20)
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            auto_reload=False,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters.update(rendered=rendered, plain=plain, turns=turns, words=words)

    def page(self, name: str, request: Request, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page. Its forms carry the session's token."""
        token = form_token(request.cookies.get("owner" if request.url.path.startswith("/owner") else "annotator", ""))
        stored = request.query_params.get("stored", "")  # the slot whose draft browsers may now delete
        values = {"person": None, "form_token": token, "stored": stored if stored.isdecimal() else "", **values}
        html = self.templates.get_template(f"{name}.html").render(values)
        return HTMLResponse(html.encode("utf-8", "replace"), status)

    def known(self, request: Request, token: str) -> Annotator | None:
        """The annotator whose link has this token; addresses that try many are refused."""
        address = request.client.host if request.client else ""
        if not self.bad_links.take(address, 0.0):
            raise Denied(429, "Too many links that lead nowhere came from here: wait a few minutes.")
        with self.project.database.reading() as session:
            person = session.exec(select(Annotator).where(Annotator.token_hash == hashed(token))).first()
        if person is None or person.revoked_at is not None:
            self.bad_links.take(address)
            return None
        return person

    def person(self, request: Request) -> Annotator:
        """The signed-in annotator. Raises Denied where nobody is signed in, or requests come too often."""
        token = request.cookies.get("annotator", "")
        person = self.known(request, token) if token else None
        if person is None:
            raise Denied(401, "Please open your personal link: without it nobody knows who is here.")
        if not self.requests.take(person.id):
            raise Denied(429, "That was very fast: wait a moment, and try again. Nothing was stored.")
        return person


def _signed_in(request: Request) -> Annotator:
    pages: Pages = request.app.state.pages
    return pages.person(request)


Person = Annotated[Annotator, Depends(_signed_in)]
"""The signed-in annotator."""


def key_map(task: Task | None, person: Annotator) -> list[tuple[Action, str]]:
    """The actions of a task's page, or of all pages, each with this annotator's key."""
    kinds = TASKS.values() if task is None else [task]
    actions = {action.name: action for kind in kinds for action in (*kind.actions, *COMMON)}
    return [(action, person.keys.get(action.name, action.key)) for action in actions.values()]


def changed_keys(form: Mapping[str, str], person: Annotator) -> dict[str, str]:
    """The keys that a form sets. Raises Incomplete where one is not allowed."""
    keys = {action.name: form.get(action.name, key).strip().lower() for action, key in key_map(None, person)}
    for action, _ in key_map(None, person):
        if not re.fullmatch("[a-z0-9]", keys[action.name]):
            raise Incomplete(f"The key for “{action.label}” must be one letter from a to z, or a digit.")
    for task in TASKS.values():
        taken: dict[str, str] = dict.fromkeys("123456789" if task.uses_digits else "", "the answers' numbers")
        for action in (*task.actions, *COMMON):
            if keys[action.name] in taken:
                raise Incomplete(
                    f"“{keys[action.name]}” cannot be both for “{action.label}” and for {taken[keys[action.name]]}."
                )
            taken[keys[action.name]] = f"“{action.label}”"
    return keys


def add_faults(app: FastAPI, pages: Pages) -> None:
    """Error pages; they show what was sent, so that no text is lost."""

    def fault(request: Request, status: int, why: str) -> HTMLResponse:
        sent = getattr(request.state, "form", {})
        texts = [value for value in sent.values() if len(value) > 20]
        return pages.page("fault", request, status=status, why=why, texts=texts)

    @app.exception_handler(Denied)
    def denied(request: Request, error: Denied) -> Response:
        return fault(request, error.status, str(error))

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> Response:
        return fault(request, 409, str(error))

    @app.exception_handler(NotStored)
    def full(request: Request, error: NotStored) -> Response:
        why = f"{error.why} Your answer was not stored: this page keeps it. Try again soon."
        return fault(request, error.status, why)

    @app.exception_handler(HTTPException)
    def missing(request: Request, error: HTTPException) -> Response:
        return fault(request, error.status_code, "There is no such page.")

    @app.exception_handler(RequestValidationError)
    def misnamed(request: Request, error: RequestValidationError) -> Response:
        return fault(request, 422, "There is no such page.")

    def failed(request: Request) -> Response:
        return fault(request, 500, "A fault here, which whoever runs these pages is told of. Nothing may be stored.")

    app.add_middleware(Headers, fault=failed)


def add_joining(app: FastAPI, pages: Pages) -> None:
    """Personal links, and the page of keyboard shortcuts."""

    @app.get("/")
    def front() -> Response:
        return RedirectResponse("/work", 303)

    @app.get("/join/{token}")
    def join(request: Request, token: str) -> Response:
        person = pages.known(request, token)
        if person is None:
            raise Denied(404, "This link leads nowhere: it was mistyped, or it has ended. Ask who gave it to you.")
        with pages.project.database.reading() as session:
            guideline = pages.project.guideline(session)
        # A page and no redirect: a cookie that is SameSite=Strict is not sent on the way on from another site.
        token_of_forms = form_token(token)
        page = pages.page("join", request, person=person, guideline=guideline, form_token=token_of_forms)
        sign_in(page, request, "annotator", token)
        return page

    @app.get("/keys")
    def keys(request: Request, person: Person) -> Response:
        return pages.page("keys", request, person=person, keys=key_map(None, person), message="")

    @app.post("/keys")
    def change_keys(request: Request, person: Person, form: Form) -> Response:
        try:
            wanted = changed_keys(form, person)
        except Incomplete as error:
            tried = [(action, form.get(action.name, key)) for action, key in key_map(None, person)]
            return pages.page("keys", request, status=422, person=person, keys=tried, message=str(error))
        with pages.project.database.writing() as session:
            session.get_one(Annotator, person.id).keys = wanted
        return RedirectResponse("/work", 303)


def sign_in(page: Response, request: Request, name: str, token: str) -> None:
    """Set a session's cookie."""
    is_secure = request.url.scheme == "https"
    page.set_cookie(name, token, max_age=180 * 86400, httponly=True, samesite="strict", secure=is_secure, path="/")


async def _form(request: Request) -> dict[str, str]:
    name = "owner" if request.url.path.startswith("/owner") else "annotator"
    request.state.form = await read_form(request, request.cookies.get(name, ""))
    return request.state.form


Form = Annotated[dict[str, str], Depends(_form)]
"""The fields of a form sent by one of our pages."""

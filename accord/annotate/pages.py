"""The annotators' pages: joining, the next item, answers and drafts, keys."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy import func
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, select
from starlette.exceptions import HTTPException

from accord.annotate import assign
from accord.annotate.assign import Refused
from accord.annotate.database import Annotator, Guideline, Item, NotStored, Slot, not_stored
from accord.annotate.guard import Denied, Headers, Limit, form_token, read_form
from accord.annotate.project import Project, hashed
from accord.annotate.tasks import TASKS
from accord.annotate.tasks.base import Action, Incomplete, Task
from accord.annotate.tasks.converse import Speaker, speak
from accord.annotate.text import plain, rendered, turns, words
from accord.errors import InputError

HERE = Path(__file__).parent
COMMON = (
    Action("skip", "Skip", "s"),
    Action("unsafe", "Unsafe", "x"),
    Action("unclear", "Unclear", "q"),
    Action("undo", "Undo my last answer", "u"),
    Action("comment", "Comment", "c"),
    Action("guidelines", "Guidelines", "g"),
)
"""The actions of every page."""


class Pages:
    """What all routes share: the project, templates, limits, and who asks."""

    def __init__(self, project: Project, speaker: Speaker | None = None) -> None:
        self.project, self.speaker = project, speaker
        self.requests = Limit(rate=20, burst=120)
        self.bad_links = Limit(rate=1 / 6, burst=20)
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters.update(rendered=rendered, plain=plain, turns=turns, words=words)

    def page(self, name: str, request: Request, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page. Its forms have the token of the session that asks."""
        token = form_token(request.cookies.get("owner" if request.url.path.startswith("/owner") else "annotator", ""))
        values = {"person": None, "form_token": token, **values}
        html = self.templates.get_template(f"{name}.html").render(values)
        return HTMLResponse(html.encode("utf-8", "replace"), status)

    def known(self, request: Request, token: str) -> Annotator | None:
        """Whose link has this token; addresses that try many are refused."""
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
        """Who asks. Raises Denied where nobody is signed in, or somebody asks too often."""
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
"""Who asks."""


def key_map(task: Task | None, person: Annotator) -> list[tuple[Action, str]]:
    """The actions of a task's page, or of all pages, each with its key as this person has it."""
    kinds = TASKS.values() if task is None else [task]
    actions = {action.name: action for kind in kinds for action in (*kind.actions, *COMMON)}
    return [(action, person.keys.get(action.name, action.key)) for action in actions.values()]


def changed_keys(form: Mapping[str, str], person: Annotator) -> dict[str, str]:
    """The keys that a form asks for. Raises Incomplete where one cannot be had."""
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


def make_app(project: Project, speaker: Speaker | None = None) -> FastAPI:
    """The application: an annotator's pages, and the owner's at /owner."""
    from accord.annotate.owner import add_owner_pages

    pages = Pages(project, speaker)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.pages = pages
    app.add_middleware(Headers)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    add_faults(app, pages)
    add_joining(app, pages)
    add_work(app, pages)
    add_owner_pages(app, pages)
    return app


def add_faults(app: FastAPI, pages: Pages) -> None:
    """The pages of what went wrong; they show what was sent, so that nobody loses a text."""

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
        return fault(request, error.status, f"{error} Your answer was not stored: this page keeps it. Try again soon.")

    @app.exception_handler(OperationalError)
    def away(request: Request, error: OperationalError) -> Response:
        return full(request, not_stored(error))

    @app.exception_handler(HTTPException)
    def missing(request: Request, error: HTTPException) -> Response:
        return fault(request, error.status_code, "There is no such page.")


def add_joining(app: FastAPI, pages: Pages) -> None:
    """Personal links, and the keys of whoever has one."""
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
    """Set the cookie of a session."""
    is_secure = request.url.scheme == "https"
    page.set_cookie(name, token, max_age=180 * 86400, httponly=True, samesite="strict", secure=is_secure, path="/")


async def _form(request: Request) -> dict[str, str]:
    name = "owner" if request.url.path.startswith("/owner") else "annotator"
    request.state.form = await read_form(request, request.cookies.get(name, ""))
    return request.state.form


Form = Annotated[dict[str, str], Depends(_form)]
"""The fields of a form that a page of ours sent."""


def add_work(app: FastAPI, pages: Pages) -> None:
    """The item somebody has, its answer, its draft."""
    project = pages.project

    @app.get("/work")
    def work(request: Request, person: Person) -> Response:
        slot = assign.next_slot(project, person)
        if slot is not None:
            return work_page(pages, request, person, slot.id or 0)
        with project.database.reading() as session:
            return pages.page("done", request, person=person, answered=_answered(session, person))

    @app.get("/work/{slot}")
    def again(request: Request, person: Person, slot: int) -> Response:
        return work_page(pages, request, person, slot)

    @app.post("/work/{slot}")
    def answer(request: Request, person: Person, slot: int, form: Form) -> Response:
        if form.get("choice") == "skip":
            assign.skip(project, person, slot)
            return RedirectResponse("/work", 303)
        try:
            with project.database.reading() as session:
                held, item = _held(session, person, slot)
            task = TASKS[item.task]
            sent = {**form, "turns": (held.draft or {}).get("turns", [])} if task.name == "converse" else form
            said = task.read(sent, task.content.model_validate(item.content), held.shown)  # type: ignore[arg-type]
        except Incomplete as error:
            return work_page(pages, request, person, slot, form, str(error))
        assign.store(project, person, slot, said.model_dump(mode="json"), _seconds(form))
        return RedirectResponse(f"/work?stored={slot}", 303)

    @app.post("/work/{slot}/draft")
    def draft(person: Person, slot: int, form: Form) -> Response:
        assign.keep_draft(project, person, slot, form)
        return Response(status_code=204)

    @app.post("/work/{slot}/turn")
    def turn(request: Request, person: Person, slot: int, form: Form) -> Response:
        try:
            converse(pages, person, slot, form)
        except (Incomplete, InputError) as error:
            return work_page(pages, request, person, slot, form, str(error))
        return RedirectResponse(f"/work/{slot}?stored={slot}", 303)

    @app.post("/undo")
    def undo(person: Person, form: Form) -> Response:
        slot = assign.undo(project, person)
        return RedirectResponse("/work" if slot is None else f"/work/{slot}", 303)


def _held(session: Session, person: Annotator, slot_id: int) -> tuple[Slot, Item]:
    slot = assign.held(session, person, slot_id)
    return slot, session.get_one(Item, slot.item_id)


def _answered(session: Session, person: Annotator) -> int:
    counted = select(func.count(col(Slot.id))).where(Slot.annotator_id == person.id, col(Slot.done).is_(True))
    return session.exec(counted).one()


def _seconds(form: Mapping[str, str]) -> float:
    """The time on task that the page measured, at most a day."""
    try:
        return min(max(float(form.get("seconds", "0")), 0.0), 86400.0)
    except ValueError:
        return 0.0


def work_page(
    pages: Pages,
    request: Request,
    person: Annotator,
    slot_id: int,
    form: Mapping[str, str] | None = None,
    message: str = "",
) -> HTMLResponse:
    """The page of an item that somebody has: as they left it, or with the form that lacks something."""
    with pages.project.database.reading() as session:
        slot, item = _held(session, person, slot_id)
        guideline = session.get(Guideline, slot.guideline_id) if slot.guideline_id else None
        answered = _answered(session, person)
        before = assign.current(session, slot) if slot.done else None
    task = TASKS[item.task]
    content = task.content.model_validate(item.content)
    kept: dict[str, Any] = dict(slot.draft or {})
    if before is not None and before.content is not None:
        kept = task.fill(before.content, slot.shown)
    return pages.page(
        "work",
        request,
        status=422 if message else 200,
        person=person,
        slot=slot,
        task=task,
        content=content,
        form={**kept, **(form or {})},
        message=message,
        guideline=guideline,
        answered=answered,
        keys={action.name: (action, key) for action, key in key_map(task, person)},
        stored=request.query_params.get("stored", ""),
        **task.view(content, slot.shown),
    )


def converse(pages: Pages, person: Annotator, slot_id: int, form: Mapping[str, str]) -> None:
    """Say something to the model, choose one of its answers, or go back a turn. Raises Incomplete, InputError."""
    with pages.project.database.reading() as session:
        slot, item = _held(session, person, slot_id)
    content = TASKS["converse"].content.model_validate(item.content)
    turns: list[dict[str, Any]] = list((slot.draft or {}).get("turns", []))
    open_turn = bool(turns) and turns[-1]["chosen"] is None
    said, chosen = form.get("said", "").strip(), form.get("chosen", "")
    if "back" in form:
        after = turns[:-1]
    elif open_turn:
        if not chosen.isdecimal() or not int(chosen) < len(turns[-1]["answers"]):
            raise Incomplete("Choose the answer to go on from.")
        after = [*turns[:-1], {**turns[-1], "chosen": int(chosen)}]
    elif not said:
        raise Incomplete("There is no message yet: write one.")
    elif pages.speaker is None:
        raise Incomplete("No model is at hand at this moment: whoever runs these pages must name one.")
    else:
        digest = hashlib.sha256(f"{pages.project.settings.seed}:{slot_id}:{len(turns)}:{said}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big") >> 1
        after = [*turns, speak(pages.speaker, content, turns, said, seed)]  # type: ignore[arg-type]
    with pages.project.database.writing() as session:
        slot = assign.held(session, person, slot_id)
        if list((slot.draft or {}).get("turns", [])) == turns:  # else another window was faster
            back_to = turns[-1]["said"] if "back" in form and turns else ""
            slot.draft = {**(slot.draft or {}), "turns": after, "said": back_to, "seconds": form.get("seconds", "0")}
            slot.expires_at = pages.project.clock() + pages.project.settings.reserve_seconds

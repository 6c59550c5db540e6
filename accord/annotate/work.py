"""The page of an item: its draft, its answer, and the turns of a conversation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import func
from sqlmodel import Session, col, select

from accord.annotate import assign
from accord.annotate.database import Annotator, Guideline, Item, Slot
from accord.annotate.guard import Number
from accord.annotate.pages import Form, Pages, Person, key_map
from accord.annotate.tasks import TASKS
from accord.annotate.tasks.base import Incomplete
from accord.annotate.tasks.converse import speak
from accord.errors import InputError


def add_work(app: FastAPI, pages: Pages) -> None:
    """Routes of an annotator's item, its answer and its draft."""
    project = pages.project

    @app.get("/work")
    def work(request: Request, person: Person) -> Response:
        slot = assign.next_slot(project, person)
        if slot is not None:
            return work_page(pages, request, person, slot.id or 0)
        with project.database.reading() as session:
            return pages.page(
                "done",
                request,
                person=person,
                answered=_answered(session, person),
            )

    @app.get("/work/{slot}")
    def again(request: Request, person: Person, slot: Number) -> Response:
        return work_page(pages, request, person, slot)

    @app.post("/work/{slot}")
    def answer(request: Request, person: Person, slot: Number, form: Form) -> Response:
        if form.get("choice") == "skip":
            if assign.skip(project, person, slot):
                return RedirectResponse("/work", 303)
            answered = "You have answered this item: correct your answer here."
            return work_page(pages, request, person, slot, form, answered)
        try:
            with project.database.reading() as session:
                held, item = _held(session, person, slot)
            task = TASKS[item.task]
            sent = {**form, "turns": (held.draft or {}).get("turns", [])} if task.name == "converse" else form
            content = task.read(sent, task.content.model_validate(item.content), held.shown)  # type: ignore[arg-type]
        except Incomplete as error:
            return work_page(pages, request, person, slot, form, str(error))
        assign.store(project, person, slot, content.model_dump(mode="json"), _seconds(form))
        return RedirectResponse(f"/work?stored={slot}", 303)

    @app.post("/work/{slot}/draft")
    def draft(person: Person, slot: Number, form: Form) -> Response:
        assign.keep_draft(project, person, slot, form)
        return Response(status_code=204)

    @app.post("/work/{slot}/turn")
    def turn(request: Request, person: Person, slot: Number, form: Form) -> Response:
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
    """The time on task measured by the page, at most a day."""
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
    """The page of an annotator's item, with the draft, or with a form that is incomplete."""
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
        **task.view(content, slot.shown),
    )


def converse(pages: Pages, person: Annotator, slot_id: int, form: Mapping[str, str]) -> None:
    """Send a message to the model, choose one of its answers, or go back a turn. Raises Incomplete, InputError."""
    with pages.project.database.reading() as session:
        slot, item = _held(session, person, slot_id)
    content = TASKS["converse"].content.model_validate(item.content)
    turns: list[dict[str, Any]] = list((slot.draft or {}).get("turns", []))
    open_turn = bool(turns) and turns[-1]["chosen"] is None
    message, chosen = form.get("said", "").strip(), form.get("chosen", "")
    if "back" in form:
        after = turns[:-1]
    elif open_turn:
        if chosen not in (places := [str(index) for index in range(len(turns[-1]["answers"]))]):
            raise Incomplete("Choose the answer to go on from.")
        after = [*turns[:-1], {**turns[-1], "chosen": places.index(chosen)}]
    elif not message:
        raise Incomplete("There is no message yet: write one.")
    elif pages.speaker is None:
        raise Incomplete("There is no model to talk with yet: whoever runs these pages must name one.")
    else:
        digest = hashlib.sha256(f"{pages.project.settings.seed}:{slot_id}:{len(turns)}:{message}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big") >> 1
        with pages.model_requests.of(slot_id):
            after = [*turns, speak(pages.speaker, content, turns, message, seed)]  # type: ignore[arg-type]
    with pages.project.database.writing() as session:
        slot = assign.held(session, person, slot_id)
        if list((slot.draft or {}).get("turns", [])) == turns:  # else another window was faster
            back_to = turns[-1]["said"] if "back" in form and turns else ""
            slot.draft = {**(slot.draft or {}), "turns": after, "said": back_to, "seconds": form.get("seconds", "0")}
            slot.expires_at = pages.project.clock() + pages.project.settings.reserve_seconds

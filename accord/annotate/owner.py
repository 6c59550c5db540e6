"""The owner's pages: how far the work is, and who does it."""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Integer, case, func
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Item, Skip, Slot
from accord.annotate.guard import Denied
from accord.annotate.pages import Form, Pages, sign_in
from accord.annotate.project import hashed
from accord.errors import InputError


def add_owner_pages(app: FastAPI, pages: Pages) -> None:
    """Progress at /owner; links are made and ended there. The owner's link is of another kind than the annotators'."""
    project = pages.project

    def is_owner(request: Request, token: str) -> bool:
        address = request.client.host if request.client else ""
        if not pages.bad_links.take(address, 0.0):
            raise Denied(429, "Too many links that lead nowhere came from here: wait a few minutes.")
        known = bool(token) and hmac.compare_digest(hashed(token), project.settings.owner_hash)
        if not known:
            pages.bad_links.take(address)
        return known

    def owner(request: Request) -> None:
        if not is_owner(request, request.cookies.get("owner", "")):
            raise Denied(401, "Please open the owner's link, which `accord annotate serve` prints.")

    Owned = Depends(owner)

    def overview(request: Request, *, status: int = 200, message: str = "", links: Any = ()) -> Response:
        with project.database.reading() as session:
            people, items = people_of(session), items_of(session)
        return pages.page(
            "owner",
            request,
            status=status,
            progress=project.progress(),
            overlap=project.settings.overlap,
            people=people,
            items=items,
            message=message,
            links=links,
        )

    @app.get("/owner/join/{token}")
    def join(request: Request, token: str) -> Response:
        if not is_owner(request, token):
            raise Denied(404, "This link leads nowhere: `accord annotate serve` prints a new one each time it starts.")
        page = pages.page("owner-join", request)
        sign_in(page, request, "owner", token)
        return page

    @app.get("/owner", dependencies=[Owned])
    def see(request: Request) -> Response:
        return overview(request)

    @app.post("/owner/people", dependencies=[Owned])
    def change(request: Request, form: Form) -> Response:
        name, made = form.get("name", "").strip(), dict[str, str]()
        try:
            if "add" in form:
                made = project.add_people([name])
            elif "renew" in form:
                made = {name: project.renew(name)}
            elif "revoke" in form:
                project.revoke(name)
        except InputError as error:
            return overview(request, status=422, message=str(error))
        if not made:
            return RedirectResponse("/owner", 303)
        base = str(request.base_url)
        return overview(request, links=[(name, f"{base}join/{token}") for name, token in made.items()])


def people_of(session: Session) -> list[dict[str, Any]]:
    """Everybody, with how many answers count and how long they took."""
    counted = (
        select(
            Annotator,
            func.count(col(Answer.id)),
            func.coalesce(func.sum(Answer.seconds), 0.0),
        )
        .join(
            Answer,
            (col(Answer.annotator_id) == Annotator.id)
            & col(Answer.replaced_by).is_(None)
            & col(Answer.content).is_not(None),
            isouter=True,
        )
        .group_by(col(Annotator.id))
        .order_by(col(Annotator.id))
    )
    skips = dict(
        session.exec(select(Skip.annotator_id, func.count(col(Skip.id))).group_by(col(Skip.annotator_id))).all()
    )
    return [
        {"person": person, "answers": answers, "seconds": seconds, "skips": skips.get(person.id or 0, 0)}
        for person, answers, seconds in session.exec(counted).all()
    ]


def items_of(session: Session) -> list[dict[str, Any]]:
    """How many items have how many answers, by task; and those that somebody flagged or skipped."""
    done = func.sum(case((col(Slot.done), 1), else_=0)).cast(Integer)
    each = (
        select(Item.task, col(Item.gold).is_not(None).label("is_gold"), done.label("done"))
        .join(Slot, col(Slot.item_id) == Item.id, isouter=True)
        .group_by(col(Item.id), col(Item.task))
        .subquery()
    )
    columns = each.c
    counted = select(columns.task, columns.is_gold, columns.done, func.count()).group_by(
        columns.task, columns.is_gold, columns.done
    )
    ordered = counted.order_by(columns.task, columns.is_gold, columns.done)
    return [
        {"task": task, "is_gold": is_gold, "done": answers or 0, "items": items}
        for task, is_gold, answers, items in session.exec(ordered).all()
    ]

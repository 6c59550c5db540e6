"""The owner's pages: how far the work is, and who does it."""

from __future__ import annotations

import hmac
import json
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Integer, case, func
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Item, Skip, Slot
from accord.annotate.guard import Denied
from accord.annotate.pages import Form, Pages, sign_in
from accord.annotate.project import hashed
from accord.annotate.statistics import HEADS
from accord.annotate.statistics import status as status_of
from accord.annotate.tasks import TASKS
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
    known: dict[str, Any] = {}  # the statistics, and the answers that they are of

    def overview(request: Request, *, status: int = 200, message: str = "", links: Any = ()) -> Response:
        with project.database.reading() as session:
            people, items = people_of(session), items_of(session)
            latest = session.exec(select(func.max(Answer.id), func.count(Answer.content))).one()  # type: ignore[arg-type]
        if known.get("latest") != (key := (tuple(latest), [(row["task"], row["done"], row["items"]) for row in items])):
            known.update(latest=key, tasks=status_of(project))
        return pages.page(
            "owner",
            request,
            status=status,
            progress=project.progress(),
            overlap=project.settings.overlap,
            people=people,
            items=items,
            tasks=known["tasks"],
            heads=HEADS,
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

    @app.get("/owner/item/{number}", dependencies=[Owned])
    def see_item(request: Request, number: int) -> Response:
        with project.database.reading() as session:
            item = session.get(Item, number) if number < 2**31 else None
            if item is None:
                raise Denied(404, "There is no such item.")
            said = session.exec(
                select(Annotator.name, Answer.content)
                .join(Answer, col(Answer.annotator_id) == Annotator.id)
                .join(Slot, col(Slot.id) == Answer.slot_id)
                .where(Slot.item_id == number, col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None))
                .order_by(col(Answer.id))
            ).all()
        answers = TASKS[item.task].shown(item.content) or [
            item.content[k] for k in ("completion",) if k in item.content
        ]
        told = [(name, told_of(item.task, content or {}), (content or {}).get("comment", "")) for name, content in said]
        return pages.page("owner-item", request, item=item, answers=answers, said=told)

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


def told_of(task: str, content: dict[str, Any]) -> str:
    """An answer in words, its item's answers by letters in the item's order."""
    if "flag" in content:
        return f"flagged as {content['flag']}"
    if task == "compare":
        better = content["better"]
        return content["strength"] if better is None else f"{'AB'[better]} is {content['strength']} better"
    if task == "rank":
        ranks = [
            (rank, letter) for letter, rank in zip("ABCDEFGHI", content["ranks"], strict=False) if rank is not None
        ]
        tiers = [" = ".join(x for r, x in ranks if r == rank) for rank in sorted({r for r, _ in ranks})]
        return " > ".join(tiers) + ("; none will do" if content["none_will_do"] else "")
    said = {name: value for name, value in content.items() if name != "comment"}
    return json.dumps(said, ensure_ascii=False)


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

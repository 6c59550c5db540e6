"""The owner's pages: progress, and annotators."""

from __future__ import annotations

import hmac
import json
import threading
import time
from concurrent.futures import Future, wait
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Integer, case, func
from sqlmodel import Session, col, select

from accord.annotate.database import Annotator, Answer, Item, Skip, Slot
from accord.annotate.guard import Denied, Number
from accord.annotate.pages import Form, Pages, sign_in
from accord.annotate.people import hashed
from accord.annotate.project import Project
from accord.annotate.simulated import is_simulated
from accord.annotate.statistics import status as status_of
from accord.annotate.tasks import TASKS
from accord.errors import InputError
from accord.results.people import PeopleResult

MOMENT = 0.1
"""Seconds that a page waits for newer statistics."""

REST = 4.0
"""Statistics are not recomputed for this multiple of the time they took."""


class Newest:
    """The latest statistics of a project; newer ones are computed in a thread on request."""

    def __init__(self, project: Project) -> None:
        self.project, self.lock = project, threading.Lock()
        self.tasks: list[PeopleResult] | None = None
        self.of: Any = None
        self.latest: Future[None] | None = None
        self.next = 0.0

    def get(self, of: Any) -> tuple[list[PeopleResult], bool]:
        """The statistics, and whether they are of the state `of`. Waits for the first ones, briefly for later ones."""
        with self.lock:
            latest = self.latest
            if latest is None or (latest.done() and (self.of != of or latest.exception())):
                self.of, self.latest = of, (latest := Future())
                threading.Thread(target=self._compute, args=(latest,), daemon=True).start()
        wait([latest], None if self.tasks is None else MOMENT)
        if self.tasks is None:
            latest.result()  # raises the error
        return self.tasks or [], self.of == of and latest.done()

    def _compute(self, done: Future[None]) -> None:
        time.sleep(max(0.0, self.next - time.monotonic()))
        begun = time.monotonic()
        try:
            self.tasks = status_of(self.project)
        except Exception as error:
            done.set_exception(error)
        self.next = time.monotonic() + REST * (time.monotonic() - begun)
        if not done.done():
            done.set_result(None)


class OwnerPages:
    """Progress at /owner, where links are also created and revoked. The owner has a link of their own."""

    def __init__(self, app: FastAPI, pages: Pages) -> None:
        self.pages, self.project = pages, pages.project
        self.newest = Newest(pages.project)
        owned = [Depends(self.require)]
        app.get("/owner/join/{token}")(self.join)
        app.get("/owner", dependencies=owned)(self.see)
        app.get("/owner/item/{number}", dependencies=owned)(self.see_item)
        app.post("/owner/people", dependencies=owned)(self.change)

    def is_owner(self, request: Request, token: str) -> bool:
        """Whether the token is the owner's. Raises Denied after too many wrong ones."""
        address = request.client.host if request.client else ""
        if not self.pages.bad_links.take(address, 0.0):
            raise Denied(429, "Too many links that lead nowhere came from here: wait a few minutes.")
        known = bool(token) and hmac.compare_digest(hashed(token), self.project.settings.owner_hash)
        if not known:
            self.pages.bad_links.take(address)
        return known

    def require(self, request: Request) -> None:
        """Raises Denied unless the owner asks."""
        if not self.is_owner(request, request.cookies.get("owner", "")):
            raise Denied(401, "Please open the owner's link, which `accord annotate serve` prints.")

    def join(self, request: Request, token: str) -> Response:
        """Sign the owner in."""
        if not self.is_owner(request, token):
            raise Denied(404, "This link leads nowhere: `accord annotate serve` prints a new one each time it starts.")
        page = self.pages.page("owner-join", request)
        sign_in(page, request, "owner", token)
        return page

    def see(self, request: Request) -> Response:
        """Progress."""
        return self.overview(request)

    def overview(self, request: Request, *, status: int = 200, message: str = "", links: Any = ()) -> Response:
        """Progress, and the result of the owner's last action."""
        with self.project.database.reading() as session:
            people, items = people_of(session), items_of(session)
            latest = session.exec(select(func.max(Answer.id), func.count(Answer.content))).one()  # type: ignore[arg-type]
        tasks, is_newest = self.newest.get((tuple(latest), [tuple(row.values()) for row in items]))
        return self.pages.page(
            "owner",
            request,
            status=status,
            progress=self.project.progress(),
            overlap=self.project.settings.overlap,
            people=people,
            items=items,
            tasks=tasks,
            is_newest=is_newest,
            curves=self.project.curves(),
            message=message,
            links=links,
        )

    def see_item(self, request: Request, number: Number) -> Response:
        """An item with all its answers."""
        with self.project.database.reading() as session:
            item = session.get(Item, number)
            if item is None:
                raise Denied(404, "There is no such item.")
            rows = session.exec(
                select(Annotator.name, Answer.content)
                .join(Answer, col(Answer.annotator_id) == Annotator.id)
                .join(Slot, col(Slot.id) == Answer.slot_id)
                .where(Slot.item_id == number, col(Answer.replaced_by).is_(None), col(Answer.content).is_not(None))
                .order_by(col(Answer.id))
            ).all()
        answers = TASKS[item.task].shown(item.content) or [
            item.content[k] for k in ("completion",) if k in item.content
        ]
        verdicts = [
            (name, answer_in_words(item.task, content or {}), (content or {}).get("comment", ""))
            for name, content in rows
        ]
        return self.pages.page("owner-item", request, item=item, answers=answers, said=verdicts)

    def change(self, request: Request, form: Form) -> Response:
        """Create or revoke an annotator's link."""
        name, made = form.get("name", "").strip(), dict[str, str]()
        try:
            if "add" in form and is_simulated(name):
                raise InputError(f"{name} is a name reserved for simulated people: choose another.")
            if "add" in form:
                made = self.project.add_people([name])
            elif "renew" in form:
                made = {name: self.project.renew(name)}
            elif "revoke" in form:
                self.project.revoke(name)
        except InputError as error:
            return self.overview(request, status=422, message=str(error))
        if not made:
            return RedirectResponse("/owner", 303)
        base = str(request.base_url)
        return self.overview(request, links=[(name, f"{base}join/{token}") for name, token in made.items()])


def answer_in_words(task: str, content: dict[str, Any]) -> str:
    """An answer in words; the item's answers are named by letters, in its order."""
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
    fields = {name: value for name, value in content.items() if name != "comment"}
    return json.dumps(fields, ensure_ascii=False)


def people_of(session: Session) -> list[dict[str, Any]]:
    """All annotators with their number of answers and their time."""
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
    """The number of items by number of answers, by task; and items flagged or skipped."""
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

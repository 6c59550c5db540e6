"""Visits in a real browser: pages whose faults count, keys and clicks that wait, and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlmodel import col, select

from accord.annotate.database import Answer, Slot
from tests.annotate.conftest import DESKTOP, PHONE, Server

WATCH = """
window.faults = [];
window.ran = (what) => window.faults.push(`ran ${what}`);
addEventListener("securitypolicyviolation", (e) => window.faults.push(`${e.violatedDirective} ${e.blockedURI}`));
addEventListener("error", (e) => window.faults.push(String(e.message)));
"""

Start = Callable[..., Server]


@contextmanager
def visiting(chromium: Any, server: Server, name: str = "ann", viewport: dict[str, int] = DESKTOP) -> Iterator[Any]:
    """A page on which somebody has signed in and begun; no page of theirs may have had a fault."""
    phone = viewport is PHONE
    context = chromium.new_context(viewport=viewport, has_touch=phone, is_mobile=phone, locale="en-US")
    context.add_init_script(WATCH)
    page = context.new_page()
    page.set_default_timeout(10_000)
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.join(name))
    page.click("text=Begin")
    page.wait_for_load_state()
    yield page
    assert faults == [] and page.evaluate("window.faults") == []
    assert all(url.startswith(server.base) for url in asked)
    if phone:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def contents(server: Server) -> list[Any]:
    with server.project.database.reading() as session:
        return [a.content for a in session.exec(select(Answer).order_by(col(Answer.id))).all()]


def shown(server: Server, name: str = "A") -> list[int]:
    """In which order the answers of the item that was given last are shown."""
    with server.project.database.reading() as session:
        slots = select(Slot).where(col(Slot.annotator_id).is_not(None)).order_by(col(Slot.reserved_at).desc())
        return session.exec(slots).first().shown


def press(page: Any, *keys: str) -> None:
    """Keys that give an answer: the next page has come when this returns."""
    for key in keys[:-1]:
        page.keyboard.press(key)
    with page.expect_navigation():
        page.keyboard.press(keys[-1])


def click(page: Any, selector: str) -> None:
    with page.expect_navigation():
        page.click(selector)

"""Pages over HTTP: headers, links, forms of others, sizes, limits, faults, drafts, keys, the owner."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlmodel import col, select

from accord.annotate import Project
from accord.annotate.database import Answer
from accord.annotate.guard import Limit
from accord.annotate.serve import make_app
from tests.annotate.conftest import PAIRS, made


class Visitor:
    """A browser without scripts: it fills in the form of the page it is on."""

    def __init__(self, project: Project, speaker: Any = None) -> None:
        self.client = TestClient(make_app(project, speaker), base_url="http://test", follow_redirects=True)
        self.page = ""

    def get(self, path: str) -> int:
        answer = self.client.get(path)
        self.page = answer.text
        self.headers = answer.headers
        return answer.status_code

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> int:
        token = re.search(r'name="form_token" value="(\w+)"', self.page)
        data = {"form_token": token[1] if token else "", **fields}
        answer = self.client.post(path, data=data, headers=headers)
        self.page = answer.text
        return answer.status_code

    @property
    def slot(self) -> int:
        found = re.search(r'data-slot="(\d+)"', self.page)
        assert found is not None, self.page
        return int(found[1])


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made_ = made(tmp_path, overlap=2, guidelines="Be **kind**.")
    made_.add(PAIRS)
    yield made_
    made_.database.close()


@pytest.fixture
def ann(project: Project) -> Visitor:
    """Somebody who has joined and begun."""
    visitor = Visitor(project)
    token = project.add_people(["ann"])["ann"]
    assert visitor.get(f"/join/{token}") == 200 and "Welcome, ann" in visitor.page
    assert "Be <strong>kind</strong>." in visitor.page
    assert visitor.get("/work") == 200
    return visitor


def answers(project: Project) -> list[Answer]:
    with project.database.reading() as session:
        return list(session.exec(select(Answer).order_by(col(Answer.id))).all())


def test_every_page_has_the_headers(ann: Visitor) -> None:
    for path in ("/work", "/nowhere", "/static/style.css", "/owner", "/join/x", "/keys"):
        ann.get(path)
        assert ann.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert ann.headers["x-content-type-options"] == "nosniff"
        assert ann.headers["referrer-policy"] == "same-origin"
        assert ann.headers["cache-control"] == ("no-cache" if "static" in path else "no-store")
        assert "<script>" not in ann.page and " style=" not in ann.page and " onclick" not in ann.page


def test_a_session_is_a_cookie_that_scripts_and_other_sites_do_not_get(project: Project) -> None:
    token = project.add_people(["ann"])["ann"]
    for scheme in ("http", "https"):
        answer = TestClient(make_app(project), base_url=f"{scheme}://test").get(f"/join/{token}")
        flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=strict", "path=/"} <= flags
        assert ("secure" in flags) == (scheme == "https")


def test_an_answer_by_plain_forms(ann: Visitor, project: Project) -> None:
    assert ann.post(f"/work/{ann.slot}", choice="tie", comment="so", seconds="0") == 200
    (answer,) = answers(project)
    assert answer.content == {"better": None, "strength": "tie", "comment": "so"}
    assert "<b>1</b> answered" in ann.page and f'data-stored="{answer.slot_id}"' in ann.page
    assert ann.post(f"/work/{ann.slot}") == 422 and "Choose one of the buttons" in ann.page
    assert ann.post(f"/work/{ann.slot}", flag="unsafe") == 200
    assert answers(project)[1].content == {"flag": "unsafe", "comment": ""}
    ann.post("/undo")
    assert ann.slot == answers(project)[1].slot_id and answers(project)[2].content is None
    assert ann.get(f"/work/{answer.slot_id}") == 200  # an answered item can be looked at, and corrected
    assert re.search(r'value="tie" class="chosen"', ann.page) and ">\nso</textarea>" in ann.page


def test_an_answered_item_is_not_skipped_in_silence(ann: Visitor, project: Project) -> None:
    slot, page = ann.slot, ann.page
    ann.post(f"/work/{slot}", choice="tie")
    ann.page = page  # the browser's back button
    assert ann.post(f"/work/{slot}", choice="skip") == 422
    assert "You have answered this item: correct your answer here." in ann.page and ann.slot == slot
    assert [answer.content for answer in answers(project)] == [{"better": None, "strength": "tie", "comment": ""}]


def test_links_that_ended_or_never_were(ann: Visitor, project: Project) -> None:
    assert Visitor(project).get("/work") == 401
    assert Visitor(project).get("/join/" + "x" * 43) == 404
    slot = ann.slot
    project.revoke("ann")
    assert ann.post(f"/work/{slot}", choice="tie") == 401 and answers(project) == []
    token = project.renew("ann")
    assert ann.get(f"/join/{token}") == 200 and ann.get("/work") == 200


def test_whoever_tries_links_is_stopped(project: Project) -> None:
    visitor = Visitor(project)
    token = project.add_people(["ann"])["ann"]
    assert [visitor.get(f"/join/{i}") for i in range(22)] == [404] * 20 + [429] * 2
    assert visitor.get(f"/join/{token}") == 429  # no oracle for what was tried before


def test_forms_of_other_sites_and_sessions_are_refused(ann: Visitor, project: Project) -> None:
    slot, page = ann.slot, ann.page
    for headers in ({"Origin": "http://evil"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        ann.page = page
        assert ann.post(f"/work/{slot}", headers, choice="tie") == 403
    ann.page = ""
    assert ann.post(f"/work/{slot}", choice="tie") == 403  # no token
    assert ann.client.post(f"/work/{slot}", json={"choice": "tie"}).status_code == 415
    assert ann.client.get(f"/work/{slot}?choice=tie").status_code == 200
    assert answers(project) == []
    ann.page = page
    assert ann.post(f"/work/{slot}", {"Origin": "http://test", "Sec-Fetch-Site": "same-origin"}, choice="tie") == 200


def test_a_form_over_a_million_bytes_is_refused(ann: Visitor, project: Project) -> None:
    slot = ann.slot
    assert ann.post(f"/work/{slot}", choice="tie", comment="x" * 999_000) == 200
    ann.get("/work")
    assert ann.post(f"/work/{ann.slot}", choice="tie", comment="x" * 1_000_001) == 413
    assert len(answers(project)) == 1


def test_too_many_requests_wait(ann: Visitor) -> None:
    assert 429 in [ann.get("/keys") for _ in range(200)]
    limit = Limit(rate=0.0, burst=3)
    assert [limit.take("a") for _ in range(5)] == [True] * 3 + [False] * 2 and limit.take("b")


def test_others_items_are_not_to_be_had(ann: Visitor, project: Project) -> None:
    bob = Visitor(project)
    bob.get(f"/join/{project.add_people(['bob'])['bob']}")
    bob.get("/work")
    assert bob.slot != ann.slot
    assert bob.get(f"/work/{ann.slot}") == 409 and bob.get("/work/999") == 409 and bob.get("/work/x") == 422


def test_an_answer_that_came_too_late_is_shown_again(ann: Visitor, project: Project) -> None:
    bob = Visitor(project)
    bob.get(f"/join/{project.add_people(['bob'])['bob']}")
    slot, page = ann.slot, ann.page
    project.clock.now += 3600
    bob.get("/work")
    assert bob.slot == slot
    ann.page = page
    assert ann.post(f"/work/{slot}", choice="tie", comment="a long comment <b>with</b> much thought") == 409
    assert "a long comment &lt;b&gt;with&lt;/b&gt; much thought" in ann.page and "Nothing was stored" in ann.page


def test_a_full_disk_and_a_busy_database_store_nothing(ann: Visitor, project: Project, tmp_path: Path) -> None:
    """SQLite's own errors: of a database that may not grow, and of a lock that another process holds."""
    slot, page, engine = ann.slot, ann.page, project.database.engine
    comment = "what I thought " * 2000

    def is_full(connection: Any) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # no less than it has

    def is_hasty(connection: Any) -> None:
        connection.connection.execute("PRAGMA busy_timeout=50")

    event.listen(engine, "begin", is_full)
    assert ann.post(f"/work/{slot}", choice="tie", comment=comment) == 507
    assert "was not stored" in ann.page and comment.strip() in ann.page and answers(project) == []
    event.remove(engine, "begin", is_full)
    engine.dispose()
    event.listen(engine, "begin", is_hasty, insert=True)
    ann.page = page
    with closing(sqlite3.connect(tmp_path / "labels.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ann.post(f"/work/{slot}", choice="tie", comment=comment) == 503
        assert "was not stored" in ann.page and comment.strip() in ann.page and answers(project) == []
    ann.page = page
    assert ann.post(f"/work/{slot}", choice="tie", comment=comment) == 200 and len(answers(project)) == 1


def test_a_draft_is_kept_and_keeps_the_item(ann: Visitor, project: Project) -> None:
    slot = ann.slot
    project.clock.now += 19 * 60
    assert ann.client.post(
        f"/work/{slot}/draft", data={"form_token": _token(ann), "comment": "half a th", "seconds": "12.5"}
    ).status_code == 204  # fmt: skip
    project.clock.now += 19 * 60
    ann.get("/work")
    assert ann.slot == slot and ">\nhalf a th</textarea>" in ann.page and 'name="seconds" value="12.5"' in ann.page


def _token(visitor: Visitor) -> str:
    found = re.search(r'name="form_token" value="(\w+)"', visitor.page)
    assert found is not None
    return found[1]


def test_keys_are_changed_for_one_person(ann: Visitor) -> None:
    ann.get("/keys")
    assert ann.post("/keys", tie="1") == 422 and "cannot be both" in ann.page
    assert ann.post("/keys", tie="t") == 200
    assert re.search(r'value="tie"[^>]*data-key="t"', ann.page)


def test_a_conversation_by_plain_forms(tmp_path: Path) -> None:
    project = made(tmp_path)
    project.add(1, "converse", answers=2)
    heard = []

    def speaker(messages: list[dict[str, Any]], n: int, seed: int) -> list[str]:
        heard.append([m["content"] for m in messages])
        return [f"{messages[-1]['content']} {i}" for i in range(n)]

    ann = Visitor(project, speaker)
    ann.get(f"/join/{project.add_people(['ann'])['ann']}")
    ann.get("/work")
    turn = f"/work/{ann.slot}/turn"
    assert ann.post(turn, said=" ") == 422 and "There is no message yet" in ann.page
    assert ann.post(turn, said="one") == 200 and "Which answer should go on?" in ann.page
    assert ann.post(turn, said="two") == 422 and "Choose the answer" in ann.page
    assert ann.post(turn, chosen="1") == 200
    assert ann.post(turn, said="two") == 200 and ann.post(turn, back="1") == 200 and ">\ntwo</textarea>" in ann.page
    assert ann.post(turn, said="three") == 200 and ann.post(turn, chosen="0") == 200
    assert ann.post(f"/work/{ann.slot}", choice="finish") == 200 and "All done" in ann.page
    (answer,) = answers(project)
    assert answer.content is not None
    first, second = answer.content["turns"]
    assert [m[0] for m in heard] == ["one"] * 3 and heard[2] == ["one", first["answers"][1], "three"]
    assert sorted(first["answers"]) == ["one 0", "one 1"] and (first["chosen"], second["chosen"]) == (1, 0)


def test_the_owners_page_is_apart(ann: Visitor, project: Project) -> None:
    assert ann.get("/owner") == 401
    token = project.new_owner()
    assert ann.get(f"/join/{token}") == 404 and ann.get(f"/owner/join/{token}") == 200
    assert ann.get("/owner") == 200 and "of 12" in re.sub("<[^>]+>", "", ann.page)
    assert ann.post("/owner/people", add="", name="simulated-1") == 422 and "reserved for simulated people" in ann.page
    ann.get("/owner")
    assert ann.post("/owner/people", add="", name="bob") == 200
    link = re.search(r"http://test(/join/[\w-]{43})<", ann.page)
    assert link is not None
    bob = Visitor(project)
    assert bob.get(link[1]) == 200 and bob.get("/work") == 200 and bob.get("/owner") == 401
    assert ann.post("/owner/people", revoke="", name="bob") == 200 and bob.get("/work") == 401
    ann.get("/work")
    assert ann.post("/owner/people", revoke="", name="ann") == 403  # the token of another kind of session
    project.new_owner()
    assert ann.get("/owner") == 401


def test_many_at_once_over_http(tmp_path: Path) -> None:
    project = made(tmp_path, overlap=2)
    project.add([{**row, "id": f"{i}{row['id']}"} for i in range(3) for row in PAIRS])
    app = make_app(project)
    statuses: list[int] = []

    def work(token: str) -> None:
        visitor = Visitor.__new__(Visitor)
        visitor.client, visitor.page = TestClient(app, base_url="http://test"), ""
        visitor.get(f"/join/{token}")
        while visitor.get("/work") == 200 and "data-slot" in visitor.page:
            statuses.append(visitor.post(f"/work/{visitor.slot}", choice="tie"))

    threads = [threading.Thread(target=work, args=(t,)) for t in project.add_people(6).values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 36 and len(answers(project)) == 36 and project.progress().left == 0

"""What axe-core finds on every kind of page, by the rules of WCAG 2.2, A and AA: nothing.

Skipped where there is no chromium. axe is run by the browser's debugger, which the pages' policy does not bind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accord.annotate import Project, assign
from accord.annotate.database import Item
from accord.annotate.tasks import TASKS
from tests.annotate.conftest import DESKTOP, PHONE, Server, person, serving

LONG = "x" * 300
PROSE = f"""# A heading

Some **bold**, *slanted* and ~~struck~~ words, `code`, and [a link](https://example.org).

> quoted

1. one
2. two

```
{LONG}
```

| a | b |
|---|---|
| {"wide " * 60} | 2 |
"""
CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Hi\n{LONG}"},
        {"role": "assistant", "content": PROSE}, {"role": "user", "content": "And then?"}]  # fmt: skip
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"], "resultTypes": ["violations"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A project of all tasks; texts of every kind that Markdown has."""
    project = Project.open(tmp_path_factory.mktemp("axe") / "labels.db", overlap=4, guidelines=PROSE)
    pairs = [{"id": f"p{i}", "prompt": CHAT, "chosen": PROSE, "rejected": f"{i}"} for i in range(20)]
    one = {"prompt": CHAT, "completion": PROSE}
    project.add(pairs, "compare")
    project.add([{"id": "g", "prompt": "Which?", "chosen": "yes", "rejected": "no"}], "compare", gold=True)
    project.add([{"id": "rank", "prompt": CHAT, "completions": [PROSE, "b", "c"], "ranks": [0, 1, 2]}], "rank")
    project.add([{"id": "rate", **one}], "rate", scales=["helpful:1-5", "overall:1-100"])
    for task in ("write", "edit"):
        project.add([{"id": task, **one}], task)
    project.add([{"use_case": "Letters to a landlord"}], "use-case")
    for task in ("plain", "few-shot", "converse"):
        project.add(1, task)
    project.add_people(["eve", "fay"])
    for name in ("eve", "fay"):
        me = person(project, name)
        while (slot := assign.next_slot(project, me)) is not None:
            with project.database.reading() as session:
                task = session.get_one(Item, slot.item_id).task
            if task == "compare":
                said = {"better": (slot.id or 0) % 3 % 2, "strength": "much", "comment": "why\u202e" * 30}
                assign.store(project, me, slot.id or 0, said, 3.0)
            else:
                assign.skip(project, me, slot.id or 0)

    def speaker(messages: list[dict[str, Any]], n: int, seed: int) -> list[str]:
        return [f"{PROSE}{i}" for i in range(n)]

    with serving(project, ["ann", "bob", "cyd", "dan"], speaker) as started:
        yield started


class Look:
    """Runs axe on the page as it stands, light and dark, and keeps what it found by the kind of page."""

    def __init__(self, page: Any, schemes: tuple[str, ...]) -> None:
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
        self.page, self.axe, self.schemes = page, axe.Axe(), schemes
        self.seen: list[str] = []
        self.found: list[tuple[str, str, str, list[str]]] = []

    def __call__(self, kind: str) -> None:
        self.seen.append(kind)
        for scheme in self.schemes:
            self.page.emulate_media(color_scheme=scheme)
            for fault in self.axe.run(self.page, options=RULES).response["violations"]:
                nodes = [str(node["html"])[:200] for node in fault["nodes"]]
                self.found.append((f"{kind}, {scheme}", fault["id"], fault["impact"], nodes))


def go(page: Any, selector: str) -> None:
    with page.expect_navigation():
        page.click(selector)


def people_pages(page: Any, served: Server, name: str, look: Look) -> None:
    """All that an annotator sees, from the link to the end."""
    page.goto(f"{served.base}/work")
    look("401")
    page.goto(served.join(name)[:-3])
    look("404")
    page.goto(served.join(name))
    look("joining")
    go(page, "text=Begin")
    while page.locator("form[data-task]").count():
        task = page.get_attribute("form[data-task]", "data-task")
        if task not in look.seen:
            look(task)
            task_pages(page, task, look)
        go(page, "text=Skip")
    look("done")
    page.goto(f"{served.base}/keys")
    look("keys")
    page.fill("#key-skip", "-")
    go(page, "text=Keep these keys")
    look("keys refused")


def task_pages(page: Any, task: str, look: Look) -> None:
    """What a task's page becomes as it is worked with; it ends on an item that can be skipped."""
    if task == "compare":
        go(page, "text=A is much better")
        go(page, "text=Undo my last answer")
        page.click("summary")
        look("correction with guidelines")
        go(page, "text=B is much better")
    elif task == "rank":
        page.select_option("#rank-1", "1")
        look("ranked")
    elif task == "rate":
        page.check("[name=scale-0][value='3']")
        go(page, "text=Done")
        look("rated in part")
    elif task == "few-shot":
        page.click("text=More pairs")
        look("few-shot, more pairs")
    elif task == "converse":
        page.fill("#said", "hello")
        go(page, "text=Send")
        look("answers to choose from")
        go(page, "text=Go on with A")
        look("a conversation")


def owner_pages(page: Any, served: Server, look: Look) -> None:
    """All that the owner sees, statistics included."""
    page.goto(f"{served.base}/owner/join/{served.project.new_owner()}")
    look("the owner's joining")
    go(page, "text=To the progress")
    look("owner")
    page.fill("#name", "bob")
    go(page, "text=Make a link")
    look("owner, a name is taken")
    go(page, "text=New link >> nth=-1")
    look("owner, a link")
    for item in range(1, 31):
        if (page.goto(f"{served.base}/owner/item/{item}") or pytest.fail()).status == 404:
            break
        if item > 19:
            look(f"owner's item {item}")


def test_pages(chromium: Any, served: Server) -> None:
    import time
    for view in (PHONE, DESKTOP):
        phone = view is PHONE
        context = chromium.new_context(viewport=view, has_touch=phone, is_mobile=phone)
        page = context.new_page()
        page.set_default_timeout(10_000)
        look = Look(page, ("light", "dark"))
        t = time.time()
        people_pages(page, served, "ann" if phone else "bob", look)
        print(time.time() - t, len(look.seen))
        owner_pages(page, served, look)
        print(time.time() - t, len(look.seen), look.seen)
        assert set(TASKS) <= set(look.seen)
        import collections
        by = collections.defaultdict(list)
        for kind, id, impact, nodes in look.found:
            for n in nodes: by[id, impact, n].append(kind)
        for k, v in by.items(): print(k, v)
        context.close()

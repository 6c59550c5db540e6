"""What axe-core finds on every kind of page, by the rules of WCAG 2.2, A and AA: nothing.

Skipped where there is no chromium. axe is run by the browser's debugger, which the pages' policy does not bind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from accord.annotate import Project, assign
from accord.annotate.database import Item
from accord.annotate.tasks import TASKS
from tests.annotate.conftest import DESKTOP, PHONE, Server, person, serving
from tests.annotate.test_curve import foretold

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
FEW = ("compare", "rank", "rate", "edit", "converse")
"""Tasks whose pages are looked at each time; those of texts are much alike."""

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Server]:
    """A project of all tasks, with statistics of one, and texts of every kind that Markdown has."""
    project = Project.open(tmp_path / "labels.db", overlap=2, guidelines=PROSE)
    pairs = [{"id": f"p{i}", "prompt": CHAT, "chosen": PROSE, "rejected": f"{i}"} for i in range(21)]
    project.add(pairs[:20], "compare")
    project.add_people(["eve", "fay"])
    for me in (person(project, "eve"), person(project, "fay")):
        while (slot := assign.next_slot(project, me)) is not None:
            said = {"better": slot.item_id % 3 % 2, "strength": "much", "comment": "why " * 30}
            assign.store(project, me, slot.id or 0, said, 3.0)
    one = {"prompt": "Hi", "completion": PROSE}
    project.add(pairs[20:], "compare")
    project.add([{"id": "g", "prompt": "Which?", "chosen": "yes", "rejected": "no"}], "compare", gold=True)
    project.add([{"id": "rank", "prompt": "Hi", "completions": [PROSE, "b", "c"], "ranks": [0, 1, 2]}], "rank")
    project.add([{"id": "rate", **one}], "rate", scales=["helpful:1-5", "overall:1-100"])
    for task in ("write", "edit"):
        project.add([{"id": task, **one}], task)
    project.add([{"use_case": "Letters to a landlord"}], "use-case")
    for task in ("plain", "few-shot", "converse"):
        project.add(1, task)

    project.keep_curve("compare", foretold())

    def speaker(messages: list[dict[str, Any]], n: int, seed: int) -> list[str]:
        return [f"{PROSE}{i}" for i in range(n)]

    with serving(project, ["ann"], speaker) as started:
        yield started


class Look:
    """Runs axe on the page as it stands, and keeps what it found; what is like another page only if `closely`."""

    def __init__(self, page: Any, closely: bool) -> None:
        axe = pytest.importorskip("axe_playwright_python.base", reason="axe-playwright-python is not installed")
        self.page, self.script, self.closely = page, axe.AXE_SCRIPT, closely
        self.seen: list[str] = []
        self.found: list[str] = []

    def again(self, kind: str) -> None:
        """A page that is much like one that was seen."""
        if self.closely:
            self(kind)

    def __call__(self, kind: str) -> None:
        self.seen.append(kind)
        self.page.evaluate(self.script)
        faults = self.page.evaluate("(rules) => axe.run({runOnly: rules}).then((all) => all.violations)", WCAG)
        self.found += [f"{kind}: {fault['id']}: {node['html']}" for fault in faults for node in fault["nodes"]]


def go(page: Any, selector: str) -> None:
    with page.expect_navigation():
        page.click(selector)


def people_pages(page: Any, served: Server, look: Look) -> None:
    """All that an annotator sees, from the link to the end."""
    page.goto(f"{served.base}/work")
    look.again("401")
    page.goto(served.join()[:-3])
    look("404")
    page.goto(served.join())
    look("joining")
    go(page, "text=Begin")
    while page.locator("form[data-task]").count():
        task = page.get_attribute("form[data-task]", "data-task")
        if task not in look.seen and (look.closely or task in FEW):
            look(task)
            task_pages(page, task, look)  # an answer may have brought the next item
        else:
            go(page, "text=Skip")
    look("done")
    page.goto(f"{served.base}/keys")
    look("keys")
    page.fill("#key-skip", "-")
    go(page, "text=Keep these keys")
    look.again("keys refused")


def task_pages(page: Any, task: str, look: Look) -> None:
    """What a task's page becomes as it is worked with; it ends on an item that can be skipped."""
    if task == "compare":
        go(page, "text=A is much better")
        go(page, "text=Undo my last answer")
        page.click("summary")
        look("correction")
        go(page, "text=B is much better")
    elif task == "rank":
        page.select_option("#rank-1", "1")
        look.again("ranked")
    elif task == "rate":
        page.check("[name=scale-0][value='3']")
        go(page, "text=Done")
        look.again("rated in part")
    elif task == "few-shot":
        page.click("text=More pairs")
        look.again("few-shot, more pairs")
    elif task == "converse":
        page.fill("#said", "hello")
        go(page, "text=Send")
        look.again("answers to choose from")
        go(page, "text=Go on with A")
        look.again("a conversation")


def owner_pages(page: Any, served: Server, look: Look) -> None:
    """All that the owner sees, statistics included."""
    page.goto(f"{served.base}/owner/join/{served.project.new_owner()}")
    look.again("the owner's joining")
    go(page, "text=To the progress")
    look("owner")
    page.fill("#name", "bob")
    go(page, "text=Make a link")
    look.again("owner, a name is taken")
    go(page, "text=New link >> nth=-1")
    look.again("owner, a link")
    with served.project.database.reading() as session:
        items = {item.task: item.id for item in session.exec(select(Item)).all()}
    for task in ("compare", "rank", "rate") if look.closely else ("compare",):
        page.goto(f"{served.base}/owner/item/{items[task]}")
        look(f"owner's item, {task}")


@pytest.mark.parametrize(
    ("view", "scheme"),
    [(PHONE, "light"), *(pytest.param(*both, marks=pytest.mark.slow) for both in (
        (PHONE, "dark"), (DESKTOP, "light"), (DESKTOP, "dark")))],
    ids=lambda value: value if isinstance(value, str) else str(value["width"]),
)  # fmt: skip
def test_axe_finds_nothing(chromium: Any, served: Server, view: dict[str, int], scheme: str) -> None:
    phone = view is PHONE
    context = chromium.new_context(
        viewport=view, has_touch=phone, is_mobile=phone, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.set_default_timeout(10_000)
    look = Look(page, closely=view is DESKTOP or scheme == "dark")
    people_pages(page, served, look)
    owner_pages(page, served, look)
    assert look.found == []
    assert {"correction", "done", "keys", "joining", "404", "owner", *(TASKS if look.closely else FEW)} <= {*look.seen}
    page.goto(f"{served.base}/keys")
    page.evaluate(
        "color => { document.querySelector('h1').style.color = color; }", "silver" if scheme == "light" else "dimgray"
    )  # of which axe must tell
    look("spoiled")
    assert [found.split(": ")[1] for found in look.found] == ["color-contrast"]
    context.close()

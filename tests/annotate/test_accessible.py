"""Every kind of page under axe-core, at the width of a phone and of a desktop, light and dark: no serious fault.

The rules are those of WCAG 2.0 to 2.2, levels A and AA. Skipped where there is no chromium.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from tests.annotate.conftest import PAIRS
from tests.annotate.test_browser import DESKTOP, PHONE, RANKED, Start, visiting
from tests.annotate.test_curve import foretold

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
TEXT = "Some **words** and `code`:\n\n```py\nx = 1\n```\n\n- one\n- two\n\n> said\n\n| a | b |\n|---|---|\n| 1 | 2 |"
ANSWERS = [{"prompt": TEXT, "completion": f"{TEXT}\n\n{i}"} for i in range(2)]
TASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "compare": ([{**PAIRS[0], "prompt": TEXT, "chosen": TEXT}, *PAIRS[1:]], {}),
    "rank": ([*RANKED, {**RANKED[0], "id": "s", "prompt": TEXT}], {}),
    "rate": (ANSWERS, {"scales": ["helpful:1-5", "overall:1-100"]}),
    "write": (ANSWERS, {}),
    "plain": (2, {}),
    "few-shot": (2, {}),
    "use-case": ([{"use_case": "a choir"}], {}),
    "edit": (ANSWERS, {}),
    "converse": (2, {"answers": 2}),
}


def faults(page: Any, *schemes: str) -> list[str]:
    """What axe-core finds serious or critical on the page as it is, light and dark unless said otherwise."""
    found = []
    for scheme in schemes or ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate(AXE)
        result = page.evaluate("rules => axe.run(document, {runOnly: {type: 'tag', values: rules}})", RULES)
        for fault in result["violations"]:
            if fault["impact"] in ("serious", "critical"):
                where = [node["target"] for node in fault["nodes"]][:3]
                found.append(f"{page.url} {scheme}: {fault['help']} {where}")
    page.emulate_media(color_scheme="light")
    return found


def speaker(messages: list[dict[str, Any]], n: int, seed: int) -> list[str]:
    return [f"{TEXT} {i}" for i in range(n)]


def test_a_phone_and_what_would_be_found(chromium: Any, server: Start) -> None:
    """Two answers compared; the same with a picture that says nothing to who does not see it."""
    served = server(TASKS["compare"][0], "compare")
    with visiting(chromium, served, viewport=PHONE) as page:
        assert faults(page, "light") == []
        page.evaluate("document.querySelector('main').append(document.createElement('img'))")
        (found,) = faults(page, "light")
        assert "Images must have alternative text" in found


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_tasks(chromium: Any, server: Start, task: str) -> None:
    data, settings = TASKS[task]
    served = server(data, task, speaker if task == "converse" else None, **settings)
    found = []
    for name, viewport in (("ann", PHONE), ("bob", DESKTOP)):
        with visiting(chromium, served, name, viewport) as page:
            found += faults(page)
            if task == "converse":
                page.fill("#said", "hello")
                page.click("text=Send")
                page.wait_for_selector(".answer")
                found += faults(page)
            for details in page.locator("details:visible").all():
                details.locator("summary").first.click()
            found += faults(page)
    assert found == []


@pytest.mark.slow
def test_the_other_pages(chromium: Any, server: Start) -> None:
    served = server(PAIRS, "compare")
    served.project.keep_curve("compare", foretold())
    found = []
    for viewport in (PHONE, DESKTOP):
        context = chromium.new_context(viewport=viewport)
        page = context.new_page()
        for path in ("/work", "/owner", "/nowhere", f"/join/{'x' * 43}", f"/join/{served.links['ann']}"):
            page.goto(f"{served.base}{path}")
            found += faults(page)
        page.click("text=Begin")
        for path in ("/keys", "/guidelines"):
            page.goto(f"{served.base}{path}")
            found += faults(page)
        page.goto(f"{served.base}/work")
        while page.locator("form[data-slot]").count():
            with page.expect_navigation():
                page.click("text=A is much better")
        found += faults(page)
        page.goto(f"{served.base}/owner/join/{served.project.new_owner()}")
        found += faults(page)
        for path in ("/owner", "/owner/item/1"):
            page.goto(f"{served.base}{path}")
            found += faults(page)
        context.close()
    assert found == []

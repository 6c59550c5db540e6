"""Every kind of task in a real browser: by mouse, by keys, on a phone; drafts, time, and hostile texts.

Skipped where there is no chromium. The judge of hostile texts is the browser: no script of theirs runs, nothing is
asked of another host, no violation of the Content-Security-Policy is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlmodel import col, select

from accord.annotate.database import Answer, Slot
from tests.annotate.conftest import DESKTOP, PAIRS, PHONE, Server

RANKED = [{"id": "r", "prompt": "Name a river.", "completions": ["Loire", "Rhine", "Paris"], "ranks": [0, 1, 2]}]
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


def test_two_answers_are_compared(chromium: Any, server: Start) -> None:
    served = server(PAIRS, "compare")
    with visiting(chromium, served) as page:
        order = shown(served)
        words = [page.inner_text(f"#answer-{letter} + .prose") for letter in "AB"]
        assert [word.split()[0] for word in words] == [["good", "bad"][index] for index in order]
        page.wait_for_timeout(300)
        press(page, "1")
        assert contents(served)[0] == {"better": order[0], "strength": "much", "comment": ""}
        order = shown(served)
        page.keyboard.press("c")
        page.keyboard.type("1 s x: keys that are typed are letters")
        page.keyboard.press("Escape")
        click(page, "text=B is slightly better")
        typed = "1 s x: keys that are typed are letters"
        assert contents(served)[1] == {"better": order[1], "strength": "slightly", "comment": typed}
        press(page, "u")
        assert contents(served)[2] is None and page.input_value("#comment") == typed
        press(page, "6")
        assert contents(served)[3] == {"better": None, "strength": "both bad", "comment": typed}
        press(page, "x")
        assert contents(served)[4] == {"flag": "unsafe", "comment": ""}
        press(page, "s")
        for modified in ("Control+1", "Alt+1", "Shift+s"):
            page.keyboard.press(modified)
        assert len(contents(served)) == 5
    with served.project.database.reading() as session:
        seconds = session.exec(select(Answer.seconds).order_by(col(Answer.id))).first()
    assert 0.2 < seconds < 10
    with visiting(chromium, served, "bob", PHONE) as page:
        boxes = [page.locator(".answer").nth(i).bounding_box() for i in range(2)]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]  # under each other
        page.tap("text=A is much better")
        page.wait_for_selector("text=1 answered")
    rows = served.project.export(served.project.database.name + ".jsonl").rows
    assert [row["annotator"] for row in rows] == ["ann", "ann", "bob"]


@pytest.mark.slow
def test_answers_are_ranked(chromium: Any, server: Start) -> None:
    served = server([*RANKED, {**RANKED[0], "id": "s", "prompt": "Name another."}], "rank")
    with visiting(chromium, served) as page:
        order = shown(served)
        press(page, "2", "t", "3", "d")  # B and C share the first place, A is not ranked
        expected: list[int | None] = [None] * 3
        expected[order[1]] = expected[order[2]] = 0
        assert contents(served)[0]["ranks"] == expected
        order = shown(served)
        chip, tier = page.locator(".chip[data-place='0']"), page.locator(".tier[data-rank='1']")
        chip.scroll_into_view_if_needed()
        start, end = chip.bounding_box(), tier.bounding_box()
        page.mouse.move(start["x"] + 10, start["y"] + 10)
        page.mouse.down()
        page.mouse.move(end["x"] + 30, end["y"] + 20, steps=4)
        page.mouse.up()
        page.select_option("#rank-2", "3")
        assert page.input_value("#rank-0") == "1"
        click(page, "text=Done")
        expected = [None] * 3
        expected[order[0]], expected[order[2]] = 0, 1
        assert contents(served)[1]["ranks"] == expected
        press(page, "u")
        assert page.input_value("#rank-0") == "1" and page.input_value("#rank-2") == "2"
        press(page, "n")
        assert contents(served)[3]["none_will_do"] is True
    with visiting(chromium, served, "bob", PHONE) as page:
        page.select_option("#rank-0", "1")
        page.tap("text=Done")
        page.wait_for_selector("text=1 answered")


@pytest.mark.slow
def test_an_answer_is_rated(chromium: Any, server: Start) -> None:
    rows = [{"prompt": f"q{i}", "completion": "a"} for i in range(3)]
    served = server(rows, "rate", scales=["helpful:1-5", "honest:1-5", "overall:1-100"])
    with visiting(chromium, served) as page:
        for key in "427":
            page.keyboard.press(key)
        page.keyboard.type("1")  # the focus is in the number now
        page.keyboard.press("Escape")
        press(page, "d")
        assert contents(served)[0]["ratings"] == {"helpful": 4, "honest": 2, "overall": 71}
        click(page, "text=Done")
        assert "Choose a number from 1 to 5 for “helpful”" in page.inner_text("[role=alert]")
        page.check("[name=scale-0][value='5']")
        page.check("[name=scale-1][value='1']")
        page.focus("[type=range]")
        page.keyboard.press("End")
        click(page, "text=Done")
        assert contents(served)[1]["ratings"] == {"helpful": 5, "honest": 1, "overall": 100}
        press(page, "u")
        assert page.is_checked("[name=scale-0][value='5']") and page.input_value("#scale-2") == "100"
    with visiting(chromium, served, "bob", PHONE) as page:
        page.tap("[name=scale-0][value='3']")
        page.tap("[name=scale-1][value='3']")
        page.fill("#scale-2", "50")
        page.tap("text=Done")
        page.wait_for_selector("text=1 answered")


@pytest.mark.slow
def test_a_demonstration_is_written(chromium: Any, server: Start) -> None:
    served = server([{"prompt": f"q{i}", "completion": "I *think* so.\nYes."} for i in range(3)], "write")
    with visiting(chromium, served) as page:
        page.click("text=Begin with this")
        page.keyboard.press("End")
        page.keyboard.press("Control+End")
        page.keyboard.type(" Done & dusted")
        page.keyboard.press("Escape")
        press(page, "d")
        assert contents(served)[0]["text"] == "I *think* so.\nYes. Done & dusted"
        page.fill("#text", "mine")
        click(page, "text=Done")
        press(page, "u")
        assert page.input_value("#text") == "mine"
    with visiting(chromium, served, "bob", PHONE) as page:
        page.fill("#text", "from a phone")
        page.tap("text=Done")
        page.wait_for_selector("text=1 answered")


@pytest.mark.slow
def test_prompts_are_written(chromium: Any, server: Start) -> None:
    for task, data in (("plain", 2), ("use-case", [{"use_case": "a choir"}]), ("few-shot", 2)):
        served = server(data, task)
        with visiting(chromium, served, viewport=PHONE if task == "plain" else DESKTOP) as page:
            for box in page.locator("main textarea:visible").all()[:5]:
                box.fill("text")
            page.keyboard.press("Escape")
            press(page, "d")
            assert len(contents(served)) == 1 and "comment" in contents(served)[0]
            press(page, "u")
            assert page.locator("main textarea:visible").first.input_value() == "text"


@pytest.mark.slow
def test_an_answer_is_mended(chromium: Any, server: Start) -> None:
    served = server([{"prompt": f"q{i}", "completion": "The Rhine."} for i in range(4)], "edit")
    with visiting(chromium, served) as page:
        page.fill("#critique", "not in France alone")
        page.fill("#edit", "The Loire.")
        page.keyboard.press("Escape")
        press(page, "d")
        assert contents(served)[0] == {"critique": "not in France alone", "edit": "The Loire.", "comment": ""}
        click(page, "text=Done")
        assert "The answer is as it was" in page.inner_text("[role=alert]")
        click(page, "button:has-text('Nothing to mend')")
        press(page, "u")
        press(page, "n")
        assert [c and c["edit"] for c in contents(served)[1:]] == [None, None, None]
    with visiting(chromium, served, "bob", PHONE) as page:
        page.fill("#edit", "The Seine.")
        page.tap("text=Done")
        page.wait_for_selector("text=1 answered")


@pytest.mark.slow
def test_a_model_is_talked_with(chromium: Any, server: Start) -> None:
    def speaker(messages: list[dict[str, Any]], n: int, seed: int) -> list[str]:
        return [f"**{messages[-1]['content']}** {i}" for i in range(n)]

    served = server(2, "converse", speaker, answers=4)
    with visiting(chromium, served) as page:
        page.fill("#said", "hello")
        click(page, "text=Send")
        assert page.locator(".answer strong").count() == 4
        press(page, "3")
        page.fill("#said", "more")
        click(page, "text=Send")
        click(page, "text=Go back a turn")
        assert page.input_value("#said") == "more"
        click(page, "text=Send")
        click(page, "text=Go on with A")
        page.keyboard.press("Escape")
        press(page, "e")
        turns = contents(served)[0]["turns"]
        assert [(turn["said"], turn["chosen"]) for turn in turns] == [("hello", 2), ("more", 0)]
        press(page, "u")
        assert page.locator(".turn.theirs").count() == 2
    with visiting(chromium, served, "bob", PHONE) as page:
        page.fill("#said", "hi")
        page.tap("text=Send")
        page.tap("text=Go on with B")
        page.tap("text=End the conversation")
        page.wait_for_selector("text=1 answered")


def test_what_is_typed_is_not_lost(chromium: Any, server: Start) -> None:
    """Kept on the server as it is typed; in the browser where the server is away; again after a fault."""
    served = server([{"prompt": f"q{i}"} for i in range(3)], "write")
    with visiting(chromium, served) as page:
        page.fill("#text", "half a thought")
        page.wait_for_selector("text=Kept.")
        page.reload()
        assert page.input_value("#text") == "half a thought"
        assert page.evaluate("sessionStorage.length") == 0
        page.route("**/draft", lambda route: route.abort())
        page.fill("#text", "a whole thought")
        page.wait_for_selector("text=kept in this browser")
        page.reload()
        assert page.input_value("#text") == "a whole thought"
        page.route("**/work/*", lambda route: route.fulfill(status=503, body="busy"))
        click(page, "text=Done")
        page.unroute("**/work/*")
        page.goto(f"{served.base}/work")
        assert page.input_value("#text") == "a whole thought" and contents(served) == []
        click(page, "text=Done")
        assert contents(served)[0]["text"] == "a whole thought" and page.input_value("#text") == ""
        assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.slow
def test_keys_of_other_layouts(chromium: Any, server: Start) -> None:
    """A Russian layout has no s, a French one no 1 without shift: their places on the keyboard serve."""
    served = server(PAIRS, "compare")
    with visiting(chromium, served) as page:
        pressed = "([key, code]) => document.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))"
        page.evaluate(pressed.replace("document.", "document.body."), ["&", "Digit1"])
        page.wait_for_selector("text=1 answered")
        slot = page.get_attribute("form[data-slot]", "data-slot")
        page.evaluate(pressed.replace("document.", "document.body."), ["ы", "KeyS"])
        page.wait_for_selector(f"form[data-slot]:not([data-slot='{slot}'])")
        assert len(contents(served)) == 1


HOSTILE = """<script>ran('script')</script><svg onload="ran('svg')"><img src=x onerror="ran('img')">
<style>body{display:none}</style><link rel=stylesheet href=http://evil.test/x.css><base href=http://evil.test/>
<iframe srcdoc="<script>parent.ran('frame')</script>"></iframe>
<form action=http://evil.test><button id=evil>Go</button></form>
<div style="position:fixed;inset:0" onmouseover="ran('over')">cover</div></textarea></article></main><h1>escaped</h1>
[link](javascript:ran('link')) [data](data:text/html,<script>ran()</script>) ![image](http://evil.test/pixel.png)
<http://evil.test/auto> [x]: http://evil.test "onload=ran('t')"
\x1b[31mred\x1b]0;title\x07 \u202egnp.exe\u2066 &#x202e;
{{ 7 * 7 }} {% raw %} ${ran('t')} `</code><script>ran('code')</script>`
""" + "```\n</code></pre><script>ran('fence')</script>\n```\n"  # fmt: skip


@pytest.mark.parametrize(
    "asked",
    [{"compare", "rate", "converse"}, pytest.param({"rank", "write", "edit", "use-case"}, marks=pytest.mark.slow)],
    ids=len,
)
def test_hostile_texts_do_nothing(chromium: Any, server: Start, asked: set[str]) -> None:
    chat = [{"role": "system", "content": HOSTILE}, {"role": "user", "content": HOSTILE}]
    row = {"id": HOSTILE[:60], "prompt": chat}
    pair = {**row, "chosen": HOSTILE, "rejected": HOSTILE + "b"}
    one = {**row, "completion": HOSTILE}

    def speaker(messages: list[dict[str, Any]], n: int, seed: int) -> list[str]:
        return [HOSTILE + str(i) for i in range(n)]

    first, *others = [some for some in (
        ("compare", [pair], {}), ("rank", [{**row, "id": "rank", "completions": [HOSTILE, "b"], "ranks": [0, 1]}], {}),
        ("rate", [{**one, "id": "rate"}], {"scales": [f"{HOSTILE[:40].replace(':', ' ')}:1-5"]}),
        ("write", [{**one, "id": "write"}], {}), ("edit", [{**one, "id": "edit"}], {}),
        ("use-case", [{"use_case": HOSTILE}], {}), ("converse", [{**row, "id": "converse"}], {}),
    ) if some[0] in asked]  # fmt: skip
    served = server(first[1], first[0], speaker, **first[2])
    for task, data, more in others:
        served.project.add(data, task, **more)
    tasks = []
    with visiting(chromium, served) as page:
        while page.locator("form[data-task]").count():
            tasks.append(page.get_attribute("form[data-task]", "data-task"))
            if tasks[-1] == "converse":
                page.fill("#said", HOSTILE)
                click(page, "text=Send")
            page.fill("#comment", HOSTILE)
            page.wait_for_selector("text=Kept.")
            page.reload()
            assert page.input_value("#comment").strip() == HOSTILE.strip()
            assert page.evaluate("getComputedStyle(document.body).display") == "block"
            assert page.locator("h1").count() == 1 and page.locator("#evil, iframe, svg, img, base").count() == 0
            links = page.eval_on_selector_all("main a[href]", "all => all.map((a) => [a.protocol, a.rel])")
            assert all(link == ["http:", "noopener noreferrer nofollow"] for link in links)
            assert not {"\u202e", "\u2066", "\x1b"} & set(page.inner_text("main"))
            page.mouse.move(300, 300)
            assert page.evaluate("window.faults") == []
            press(page, "s")
    assert sorted(tasks) == sorted(asked)

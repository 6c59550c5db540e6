"""Every kind of task in a real browser, by mouse, by keys, on a phone; skipped where there is no chromium."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import col, select

from accord.annotate.database import Answer
from tests.annotate.browsing import Start, click, contents, press, shown, visiting
from tests.annotate.conftest import DESKTOP, PAIRS, PHONE

RANKED = [{"id": "r", "prompt": "Name a river.", "completions": ["Loire", "Rhine", "Paris"], "ranks": [0, 1, 2]}]


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
        assert "The answer is unchanged" in page.inner_text("[role=alert]")
        click(page, "button:has-text('Nothing to fix')")
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

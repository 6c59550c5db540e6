"""In a real browser: what is typed is not lost, keys of other layouts, and hostile texts, which do nothing.

The judge of hostile texts is the browser: no script of theirs runs, nothing is asked of another host, no violation of
the Content-Security-Policy is reported.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.annotate.browsing import Start, click, contents, press, visiting
from tests.annotate.conftest import PAIRS


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

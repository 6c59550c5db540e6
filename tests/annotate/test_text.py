"""Texts as HTML: Markdown that can do nothing, whatever a model writes."""

from __future__ import annotations

import pytest

from accord.annotate.text import plain, rendered, turns, words

LINK = 'target="_blank" rel="noopener noreferrer nofollow"'


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**b** `c`\nnext", "<p><strong>b</strong> <code>c</code><br>\nnext</p>\n"),
        ("<script>alert(1)</script>", "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>\n"),
        ("<svg onload=alert(1)>", "<p>&lt;svg onload=alert(1)&gt;</p>\n"),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>\n"),
        ("[x](&#106;avascript:alert(1))", "<p>[x](javascript:alert(1))</p>\n"),
        ("[x](data:text/html,hi)", "<p>[x](data:text/html,hi)</p>\n"),
        ("![x](http://spy/1.png)", f'<p>!<a href="http://spy/1.png" {LINK}>x</a></p>\n'),
        ('[x](http://a/"onmouseover=alert(1))', f'<p><a href="http://a/%22onmouseover=alert(1)" {LINK}>x</a></p>\n'),
        ("a\u202eb\x1b[31m&#x202e;", "<p>a⟨U+202E⟩b⟨U+001B⟩[31m⟨U+202E⟩</p>\n"),
        ("```python\n\tx = <b>\n```", '<pre tabindex="0"><code>    x = &lt;b&gt;\n</code></pre>\n'),
        ("half \ud83d", "<p>half \ufffd</p>\n"),
    ],
)  # fmt: skip
def test_markdown(text: str, html: str) -> None:
    assert rendered(text) == html


def test_tool_calls_are_shown() -> None:
    called = {"role": "assistant", "content": "I look.", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert words([called]) == 'I look.\n{"name": "f", "arguments": {}}'
    assert turns([called]) == [("assistant", words([called]))]


def test_plain_text_is_escaped_and_has_no_hidden_signs() -> None:
    assert plain("a <b>\r\n\tc\u200b") == "a &lt;b&gt;\n    c⟨U+200B⟩"

"""Text of models and people as safe HTML.

Markdown is rendered without raw HTML and images, links may only lead to http and https, and the result is sanitized by
nh3 with a short list of elements. Invisible and control characters are shown as signs, including those from Markdown
entities. The pages' Content-Security-Policy is the third line of defense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from accord.console import legible, without_halves
from accord.records import Message

_ELEMENTS = {
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "s",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")
)
_MARKDOWN.validateLink = lambda url: url.strip().lower().startswith(("http://", "https://"))  # type: ignore[method-assign]


def rendered(text: str) -> Markup:
    """Markdown as safe HTML."""
    html = _MARKDOWN.render(legible(_plain(text)))
    cleaned = nh3.clean(
        html,
        tags=_ELEMENTS,
        clean_content_tags=set(),
        attributes={"a": {"href", "target"}, "ol": {"start"}},
        # Elements that scroll horizontally must be reachable by keyboard.
        set_tag_attribute_values={"a": {"target": "_blank"}, "pre": {"tabindex": "0"}, "table": {"tabindex": "0"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(legible(cleaned))


def plain(text: str) -> Markup:
    """Text as it is; the style sheet keeps its lines."""
    return escape(legible(_plain(text)))


def _plain(text: str) -> str:
    """Line ends as \\n, tabs as spaces, lone surrogates replaced."""
    return without_halves(text.replace("\r\n", "\n").expandtabs(4))


def turns(text: str | Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """A JSON text as (role, words): a string is the user's, messages have their roles."""
    if isinstance(text, str):
        return [("user", text)]
    return [(str(one.get("role", "")), _words(one)) for one in text]


def words(text: str | Sequence[dict[str, Any]]) -> str:
    """An answer's text; a dialogue gets a heading for every turn."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return _words(text[0])
    return "\n\n".join(f"**{one.get('role')}**\n\n{_words(one)}" for one in text)


def _words(message: dict[str, Any]) -> str:
    """A message's content and tool calls."""
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else str(content)
    return Message("assistant", text, message).words

"""A page taken apart: its sections' text, its tables, its tags, for assertions that do not depend on the markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """`sections` maps a section's id to its text, `tables` is rows of cells' text, `tags` every (tag, attributes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.tables: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.answers: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag in VOID:
            return
        self._open.append((tag, dict(attributes)))
        if tag == "tr":
            self.tables.append([])
        if tag in ("td", "th"):
            self.tables[-1].append("")
        if tag == "p" and "text" in (dict(attributes).get("class") or "").split():
            self.answers.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag
        if tag in ("td", "th"):
            self.tables[-1][-1] = " ".join(self.tables[-1][-1].split())

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self._open]
        for tag, attributes in self._open:
            if tag == "section":
                name = attributes["id"] or ""
                self.sections[name] = self.sections.get(name, "") + data
            if tag == "p" and "text" in (attributes.get("class") or "").split():
                self.answers[-1] += data
        if "td" in tags or "th" in tags:
            self.tables[-1][-1] += data

"""What an index page shows of a release: the README, its relative links leading into the repository at its tag."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


def absolute(text: str, repository: str, tag: str) -> str:
    """Markdown whose relative links lead to files of the repository at a tag, images to the files themselves."""

    def link(match: re.Match[str]) -> str:
        kind = "raw" if match[1].startswith("!") else "blob"
        return f"{match[1]}{repository}/{kind}/{tag}/{match[2]}"

    return re.sub(r"(!?\[[^\]]*\]\()(?![a-z]+:|[#/])([^)\s]+)", link, text)


class Readme(MetadataHookInterface):
    """Fills in `readme`, from README.md and `project.urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        text = absolute(text, metadata["urls"]["Repository"], f"v{metadata['version']}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}

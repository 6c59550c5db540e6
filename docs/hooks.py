"""What the documentation site has beside the pages of docs/: pages of the repository, its examples, the reference.

The pages in docs/ link to files by their paths in the repository, so that they can be read there. Here such links
lead to pages of the site: the README is its front page, an example or a recipe a page that shows the file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages of the repository, and where the site has them."""
SOURCES = ("LICENSE", "examples", "recipes")
"""Files and folders that are shown as they are, beside those that a page links to."""
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
"""A link by path, with its anchor."""
MODULES = {
    "accord": ["accord.errors"],
    "train": ["accord.train.learner", "accord.train.loop", "accord.train.options", "accord.train.alarms"],
    "results": ["accord.results"],
    "worlds": [
        "accord.worlds.cafe",
        "accord.worlds.counter",
        "accord.worlds.facts",
        "accord.worlds.shelf",
        "accord.worlds.sums",
    ],
    "records": ["accord.records", "accord.arrays", "accord.files", "accord.outputs"],
}
"""The reference: what pages have that no stub lists."""
STUBS = sorted((ROOT / "accord").rglob("__init__.pyi"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ has not."""
    for path in PAGES:
        files.append(File.generated(config, place(path), content=(ROOT / path).read_text(encoding="utf-8")))
    whole = {found for name in SOURCES for found in (ROOT / name, *(ROOT / name).rglob("*"))}
    for path in sorted(whole | set(linked())):
        if "__pycache__" not in path.parts:
            files.append(File.generated(config, place(path.relative_to(ROOT).as_posix()), content=shown(path)))
    for name in sorted(MODULES.keys() | {stub.parent.name for stub in STUBS}):
        files.append(File.generated(config, f"api/{name}.md", content=reference(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links by path to the pages of the site. A bar in code in a table has no backslash here."""
    here = page.file.src_uri
    if here.startswith(("api/", "sources/")):
        return markdown
    origin = {site: path for path, site in PAGES.items()}.get(here, f"docs/{here}")

    def link(match: re.Match[str]) -> str:
        path, hash_, anchor = match[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        return f"]({posixpath.relpath(place(target), posixpath.dirname(here) or '.')}{hash_}{anchor})"

    def row(match: re.Match[str]) -> str:
        return re.sub(r"`[^`\n]*`", lambda code: code[0].replace("\\|", "|"), match[0])

    return re.sub(r"^\|.*", row, LINK.sub(link, markdown), flags=re.MULTILINE)


def linked() -> Iterator[Path]:
    """The files of the repository, beside those in docs/, that a page links to."""
    for page in [*(ROOT / path for path in PAGES), *(ROOT / "docs").glob("*.md")]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target.partition("#")[0]).resolve()
            if path.is_file() and ROOT / "docs" not in path.parents and path.relative_to(ROOT).as_posix() not in PAGES:
                yield path


def place(path: str) -> str:
    """Where the site has a file or a folder of the repository."""
    return PAGES.get(path) or (path[len("docs/") :] if path.startswith("docs/") else f"sources/{path}.md")


def shown(path: Path) -> str:
    """A page that shows a file, or lists a folder."""
    if path.is_file():
        language = {".py": "python", ".yaml": "yaml"}.get(path.suffix, "text")
        return f"# {path.name}\n\n````{language}\n{path.read_text(encoding='utf-8').rstrip()}\n````\n"
    inside = sorted(found for found in path.iterdir() if found.name != "__pycache__")
    return "\n".join([f"# {path.name}/", "", *(f"- [{p.name}]({path.name}/{p.name}.md)" for p in inside)])


def reference(name: str) -> str:
    """A page of the reference: what the stub of a package lists, in its order, and what `MODULES` says."""
    title = "accord" if name == "accord" else f"accord.{name}"
    found = [member for stub in STUBS if stub.parent.name == name for member in listed(stub)] + MODULES.get(name, [])
    return "\n\n".join([f"# {title}", *(f"::: {member}" for member in dict.fromkeys(found))])


def listed(stub: Path) -> Iterator[str]:
    """The full names of what a package offers: its modules, which open with their subject, and what others lend it."""
    package = ".".join(stub.parent.relative_to(ROOT).parts)
    for module, name in re.findall(r"^from \.([\w.]*) import (\w+)", stub.read_text(encoding="utf-8"), re.MULTILINE):
        yield f"{package}.{module}.{name}" if "." in module else f"{package}.{module or name}"

"""What the documents say is checked against the code: commands and their options, names, links, Python."""

from __future__ import annotations

import ast
import dataclasses
import html
import importlib
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from accord import methods
from accord.cli.call import accepted_options, target_of
from accord.cli.main import split_command
from accord.cli.table import COMMANDS, FAMILIES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")] + sorted(
    ROOT.glob("docs/*.md")
)
TEXTS = [*PAGES, *sorted(ROOT.glob("recipes/*.yaml")), *sorted(ROOT.glob("examples/*"))]
FREE = {"run": "a recipe's variables and stages", "demo": ""}
"""Commands whose options are another file's."""


def of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The code blocks of a page in these languages."""
    for language, code in re.findall(
        r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        if language in languages:
            yield code


def commands(text: str) -> Iterator[list[str]]:
    """The words of every call of accord that begins a line of code or a comment, or follows a variable, torchrun or a
    pipe."""
    joined = re.sub(r"\\\n\s*", " ", text)
    before = r"(?:[A-Z_]+=\S+ |torchrun .* -m |.* \| +)?(?:\.venv/bin/)?"
    for line in re.findall(rf"^\s*#?\s*{before}accord ([a-z].*)$", joined, re.MULTILINE):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        ends = [words.index(end) for end in ("&&", ";", "|", ">", "&") if end in words]
        yield words[: min(ends, default=len(words))]


def in_backticks(text: str) -> Iterator[list[str]]:
    """The words of every call of accord in backticks."""
    return (found.split() for found in re.findall(r"`accord ([a-z][^`]*)`", text))


def known(command: str) -> set[str]:
    options = accepted_options(target_of(command))
    return {"help", "config"} | {n.replace("_", "-") for n in options} | {f"no-{n.replace('_', '-')}" for n in options}


@pytest.mark.parametrize("page", TEXTS, ids=of)
def test_commands_and_their_options_exist(page: Path) -> None:
    if not page.is_file():
        return
    is_markdown = page.suffix == ".md"
    shown = "\n".join(blocks(page, "sh", "yaml", "python")) if is_markdown else page.read_text(encoding="utf-8")
    for words in [*commands(shown), *in_backticks(page.read_text(encoding="utf-8"))]:
        command, rest = split_command(words)
        if command in FAMILIES or command.isupper():
            continue
        command = command.rstrip(".,;:)")
        assert command in COMMANDS, f"accord {' '.join(words)}"
        flags = [re.split(r"[.=]", word[2:])[0].rstrip("],;") for word in rest if word.startswith("--")]
        if command not in FREE:
            of_method = known(rest[0]) if command == "sweep" and rest and rest[0] in COMMANDS else set()
            unknown = sorted(set(flags) - known(command) - of_method)
            assert not unknown, f"accord {' '.join(words)}: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_no_two_runs_of_a_page_are_written_to_one_folder(page: Path) -> None:
    """Whoever follows the page would be refused, since the folder holds another run."""
    runs: dict[str, list[str]] = {}
    for words in commands("\n".join(blocks(page, "sh"))):
        command, rest = split_command(words)
        if command in COMMANDS and "--out" in rest and hasattr(target_of(command), "fit"):
            run = [word for word in words if word != "--resume"]
            assert runs.setdefault(rest[rest.index("--out") + 1], run) == run


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_options_named_in_the_text_exist_somewhere(page: Path) -> None:
    every = {flag for command in COMMANDS for flag in known(command)}
    scripts = "".join(file.read_text(encoding="utf-8") for file in ROOT.glob("benchmarks/*.py"))
    pip = {"constraint", "editable", "no-deps", "extra"}
    for flag in re.findall(r"`--([a-z][a-z-]*)", page.read_text(encoding="utf-8")):
        assert flag in every | pip or f'"--{flag}"' in scripts, f"--{flag}"


def test_settings_in_tables_are_fields_of_methods() -> None:
    fields = {field.name for name in methods.__all__ for field in dataclasses.fields(getattr(methods, name))}
    tables = re.findall(
        r"^\| setting \|.*\n\|[-|]+\n((?:\|.*\n)+)", (ROOT / "docs/methods.md").read_text(), re.MULTILINE
    )
    named = [name for rows in tables for name in re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)]
    assert len(named) > 40 and set(named) <= fields


def written(value: object) -> set[str]:
    """The ways in which a default may stand in a table."""
    if isinstance(value, str):
        return {f"`{value}`".replace("\n", "\\n")}
    plain = {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))
    return {plain, f"{value:.0e}".replace("e-0", "e-")} if isinstance(value, float) else {plain}


def test_defaults_in_tables_are_those_of_the_code() -> None:
    """Of the sections about one method, which the page's first table links."""
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    sections = {anchor(part.partition("\n")[0]): part for part in re.split(r"^## ", page, flags=re.MULTILINE)}
    compared = 0
    for command, section in re.findall(r"^\| \[`([\w-]+)`\]\(#([\w-]+)\)", page, re.MULTILINE):
        defaults = {field.name: field.default for field in dataclasses.fields(target_of(command))}
        for names, shown in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.+?) \|", sections[section], re.MULTILINE):
            if names.strip("`") in COMMANDS:
                continue
            settings, values = re.findall(r"\w+", names), shown.split(", ")
            for name, value in zip(settings, values * len(settings) if len(values) == 1 else values, strict=False):
                assert value in written(defaults[name]), f"{command}: {name} is {defaults[name]}, not {value}"
                compared += 1
    assert compared > 40


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_names_in_backticks_resolve(page: Path) -> None:
    for name in re.findall(r"`(accord(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        assert resolves(name), name


def resolves(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {anchor(title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_python_parses_and_what_it_imports_of_accord_exists(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("accord"):
                for alias in node.names:
                    assert resolves(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "accord":
                assert resolves(f"accord.{node.attr}"), f"accord.{node.attr}"


def test_the_method_shown_is_the_example() -> None:
    example = (ROOT / "examples/new_method.py").read_text(encoding="utf-8")
    shown = example[example.index("@dataclass") : example.index("def main()")].strip()
    assert any(shown in code for code in blocks(ROOT / "docs/new-method.md", "python"))
    assert len(example.splitlines()) <= 60


def test_no_page_waits_for_its_figures() -> None:
    """A line that is one word in capitals stands for what was to be measured."""
    for page in sorted(ROOT.glob("docs/*.md")):
        assert re.findall(r"^[A-Z][A-Z-]{3,}$", page.read_text(encoding="utf-8"), re.MULTILINE) == [], page.name


def test_every_file_of_the_engine_is_in_its_table() -> None:
    table = (ROOT / "docs/engine.md").read_text(encoding="utf-8").split("## Files")[1].split("## Trees")[0]
    listed = sorted(re.findall(r"`([a-z_]+)`", table))
    assert listed == sorted(file.stem for file in (ROOT / "accord/engine").glob("*.py") if file.stem != "__init__")


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {page.name for page in ROOT.glob("docs/*.md")} <= set(listed) and len(listed) == len(set(listed))


def read(page: str) -> tuple[str, dict[str, int]]:
    """The letters of a page of HTML without spaces, and how many of each element it has."""
    elements = Counter(re.findall(r"<(li|tr|td|th|ul|ol|img|h\d|strong|em|code|blockquote)\b", page))
    text = re.sub(r'<a class="headerlink".*?</a>|<!--.*?-->|<[^>]+>', "", page, flags=re.DOTALL)
    return "".join(html.unescape(text).split()), elements


@pytest.mark.slow
def test_the_site_shows_what_the_repository_shows(tmp_path: Path) -> None:
    """mkdocs finds every link and anchor, and no page has another letter, cell or item than CommonMark makes of it.

    No page loads anything from elsewhere.
    """
    pytest.importorskip("material", reason="the docs extra is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {"README": "index", "CONTRIBUTING": "contributing", "benchmarks/README": "benchmarks"}
    commonmark = MarkdownIt("commonmark").enable("table")
    for page in PAGES:
        name = names.get(of(page).removesuffix(".md"), page.stem)
        shown = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        body = re.split(r"<article[^>]*>|</article>", shown)[1]
        assert read(body) == read(commonmark.render(page.read_text(encoding="utf-8"))), name
    for file in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=.?(?:https?:)?//[^>]*>", file.read_text())
        assert not loaded, f"{file}: {loaded}"
    assert "Parameters:" in (tmp_path / "api/objectives.html").read_text(encoding="utf-8")

"""What is published: distributions built of what is tracked, tried in an environment of their own; metadata."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from accord import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {n: e for n, e in PROJECT["optional-dependencies"].items() if n not in ("bench", "test", "docs", "dev")}
"""The extras that are features."""
NEEDED = [Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines]
DISTRIBUTIONS = {"yaml": "pyyaml", "mlflow": "mlflow-skinny", "markdown_it": "markdown-it-py"}
"""Of packages that are not called as what distributes them."""
UNSAID = {"tensorboard", "accelerate", "psycopg"}
"""Imported by others on our behalf: torch's writer, transformers' loader, SQLAlchemy's driver."""

QUICK = {"max_steps": 2, "batch_size": 2, "dtype": "float32"}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w.-]+)==([^;\s]+)", line) for line in lines]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    imported = set()
    for path in (ROOT / "accord").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                imported |= {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"accord"}
    declared = {canonicalize_name(requirement.name) for requirement in NEEDED}
    assert {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in imported} == declared - UNSAID


def test_bounds_are_those_that_were_tried() -> None:
    """The lowest versions are the bounds themselves, and what accord is developed with lies within them."""
    lowest, usual = pins("constraints-lowest.txt"), pins("constraints.txt")
    for requirement in NEEDED:
        name = canonicalize_name(requirement.name)
        bound = {s.version for s in requirement.specifier if s.operator == ">="}
        assert re.sub(r"(\.0)+$", "", lowest[name]) in {re.sub(r"(\.0)+$", "", b) for b in bound}, f"{name}: {bound}"
        assert requirement.specifier.contains(usual[name]), f"{name}: {usual[name]} is not {requirement.specifier}"


def test_a_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__ and citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"] == [{"name": "accord contributors"}]


def run(*words: object, cwd: Path) -> str:
    """What a command printed, without this checkout on its path."""
    free = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(w) for w in words], cwd=cwd, env=free, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout, so nothing says which files are tracked")
    return run("git", "ls-files", cwd=ROOT).splitlines()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, tracked: list[str]) -> Path:
    """The tracked files alone, as they are now."""
    folder = tmp_path_factory.mktemp("export")
    for name in tracked:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, export: Path) -> Path:
    """A folder with the sdist, and the wheel made of it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, export, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, built: Path) -> Path:
    """An environment in which accord is the wheel's, and all it depends on this environment's, by their path alone.

    A folder named in a .pth file is searched, but .pth files inside it are not read, so an editable accord here stays
    out of sight.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = folder / "lib" / version / "site-packages" / "borrowed.pth"
    wheel = next(built.glob("*.whl"))
    run(folder / "bin/python", "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=folder)
    borrowed.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def wheel_files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.slow
def test_an_sdist_holds_what_is_tracked(built: Path, tracked: list[str]) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as opened:
        held = {member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()}
    seen = {name for name in tracked if not name.startswith(".")}
    assert held - {"PKG-INFO", ".gitignore"} == seen


@pytest.mark.slow
def test_a_wheel_of_the_sdist_is_the_wheel_of_the_tree(built: Path, export: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, export, cwd=tmp_path)
    files = wheel_files(next(built.glob("*.whl")))
    assert files == wheel_files(next(tmp_path.glob("*.whl")))
    package = {name for name in files if ".dist-info/" not in name}
    recipes = {f"accord/recipes/{path.name}" for path in export.glob("recipes/*.yaml")}
    assert package == recipes | {p.relative_to(export).as_posix() for p in export.rglob("accord/**/*") if p.is_file()}


@pytest.mark.slow
def test_an_index_page_is_whole(built: Path) -> None:
    """Twine's checks pass, and every link of the description is absolute and leads to a file that is there."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir(), cwd=built)
    files = wheel_files(next(built.glob("*.whl")))
    metadata = message_from_bytes(next(content for name, content in files.items() if name.endswith("/METADATA")))
    text = str(metadata.get_payload(decode=True), "utf-8")  # type: ignore[call-overload]
    home, links = PROJECT["urls"]["Repository"], re.findall(r"\]\(([^)\s]+)\)", text)
    assert metadata["Author"] == "accord contributors" and "Author-email" not in metadata
    assert f"Repository, {home}" in metadata.get_all("Project-URL")
    ours = re.findall(rf"\]\({home}/(blob|raw)/v{__version__}/([^)#\s]+)", text)
    assert len(ours) > 25 and all("://" in link for link in links)
    for kind, path in ours:
        assert (ROOT / path).exists() and kind == ("raw" if path.endswith(".png") else "blob"), path


@pytest.mark.slow
def test_requirements_are_met_by_what_is_installed_here(installed: Path) -> None:
    """By the installed accord's own word, with pip's reading of it."""
    code = (
        "from importlib.metadata import requires, version\n"
        "from packaging.requirements import Requirement\n"
        "for r in map(Requirement, requires('accord')):\n"
        "    if not r.marker or r.marker.evaluate({'extra': ''}):\n"
        "        assert r.specifier.contains(version(r.name)), f'{r}: {version(r.name)}'\n"
    )
    run(installed / "bin/python", "-c", code, cwd=installed)


@pytest.mark.slow
def test_the_command_line_of_an_installed_accord(installed: Path, tmp_path: Path) -> None:
    """Help, a world, a few steps of training with its page, and stages of a recipe that came in the wheel."""
    accord = installed / "bin/accord"
    assert run(accord, "--version", cwd=tmp_path) == f"accord {__version__}\n"
    assert "accord demo" in run(accord, "--help", cwd=tmp_path) and "--beta" in run(
        accord, "dpo", "--help", cwd=tmp_path
    )
    recipe = {"name": "small", "description": "", "variables": {}, "stages": {
        "world": {"command": "world", "name": "cafe"},
        "sft": {"command": "sft", "model": "${world}/init", "data": "${world}/demonstrations.jsonl"} | QUICK,
    }}  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    run(accord, "run", "small.yaml", "--out", "out", cwd=tmp_path)
    page = (tmp_path / "out/sft/report.html").read_text(encoding="utf-8")
    style = (ROOT / "accord/report/templates/style.css").read_text(encoding="utf-8")
    assert style.strip()[:200] in page and (tmp_path / "out/sft/model/model.safetensors").stat().st_size > 1_000_000
    code = (
        "import accord, pathlib; from accord.cli.pipeline import packaged\n"
        "home = pathlib.Path(accord.__file__).parent; assert home.joinpath('py.typed').is_file()\n"
        "print(packaged('cafe')); print(home)"
    )
    shipped, home = map(Path, run(installed / "bin/python", "-c", code, cwd=tmp_path).split())
    assert home.is_relative_to(installed) and shipped == home / "recipes/cafe.yaml"
    assert shipped.read_bytes() == (ROOT / "recipes/cafe.yaml").read_bytes()

"""Templates and what they print with; the page as text that can be written."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import jinja2

from accord.errors import InputError
from accord.files import require_folder
from accord.report import answers, flow, overoptimization, text
from accord.report.folder import Json

_TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, **values: Any) -> str:
    """The page as HTML. Every text in it is escaped, and half characters (lone surrogates) are replaced."""
    page = _environment().get_template(template).render(**values)
    return page.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def page_file(out: str | Path, name: str) -> Path:
    """The file that a page goes to: `out` where that ends in .html, else the file `name` in the folder `out`.

    Raises:
        InputError: nothing can be written there.
    """
    path = Path(out)
    path = path if path.suffix == ".html" else path / name
    require_folder(path.parent)
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the page's file, such as {path / name}.")
    return path


def facts(values: Json) -> list[tuple[str, str]]:
    """Names and values to print; an object in an object becomes one line, a list of words a command line."""

    def line(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {text.setting(inner)}" for name, inner in value.items())
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return shlex.join(value)
        return text.setting(value)

    return [(str(key), line(value)) for key, value in values.items()]


def shared(recorded: list[Json]) -> Json:
    """What every environment that was recorded says alike."""
    known = [one for one in recorded if one]
    if not known:
        return {}
    return {key: value for key, value in known[0].items() if all(other.get(key) == value for other in known)}


def _environment() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (text.visible, text.plain, text.number, text.percent, text.duration, text.setting)
    templates.filters.update({function.__name__: function for function in shown})
    templates.filters.update(shaded=answers.shaded, signed=answers.signed)
    templates.globals.update(
        along_bar=_along_bar, box=(flow.WIDTH, flow.HEIGHT), bounds=answers.BOUNDS, forms=overoptimization.FORMS
    )
    return templates


def _along_bar(value: float, low: float, high: float) -> float:
    """Where `value` lies on an interval bar of 120 units that runs from `low` to `high`."""
    return round(5 + 110 * min(1.0, max(0.0, (value - low) / (high - low))), 1)

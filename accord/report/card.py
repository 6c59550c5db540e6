"""A model's card, README.md in its folder: what it was trained on, how, with what result, and how to use it.

The Hub shows it and reads the metadata between the dashed lines. As it is published, it names local files and folders
by their last parts only, and contains no user, password or key of a URL. Text from data, models and people is shown as
code, where Markdown and HTML have no effect.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scipy
import yaml

from accord import results
from accord.console import error_text, legible, status, without_secrets
from accord.files import write_text
from accord.report.captions import metric_for
from accord.report.folder import RunFiles, read_stage
from accord.report.html import Json
from accord.report.lineage import origin_of
from accord.report.series import Array, columns
from accord.results.base import called
from accord.results.intervals import Interval, wilson

SHORT_NAMES = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Models on the Hub for which accord has a short name."""

SOURCES = ("data", "pretraining_data", "eval_data", "watch_data")
LAST = 10
"""Minimum number of steps in the mean of a training measure; a tenth of the run where that is more."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATH = re.compile(r"(?:(?<![\w:/.~-])(?:~|\.\.)?/|(?<!\w)[A-Za-z]:[\\/])[^\s+*,()]+")

_READ = """\
import torch
from transformers import {kind}, AutoTokenizer

name = "OWNER/NAME"  # on the Hub, or this folder
tokenizer = AutoTokenizer.from_pretrained(name)
model = {kind}.from_pretrained(name{more})
"""
_CHAT = """\
chat = [{"role": "user", "content": "What is a preference?"}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
"""
_PLAIN = """\
prompt = tokenizer("What is a preference?", return_tensors="pt")
"""
_ANSWER = """\
with torch.no_grad():
    tokens = model.generate(**prompt, max_new_tokens=64)[0, prompt["input_ids"].shape[1] :]
answer = tokenizer.decode(tokens, skip_special_tokens=True)
"""
_LABELS = """\

def read(question, answer):
    {text}
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt"{more})).logits[0]

"""
_READ_CHAT = """\
chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)"""
_REWARD = """\
reward = float(read("What is a preference?", "A choice."))  # higher is better, beside others of the same question
"""
_PREFERENCE = """\
a, b = read("What is a preference?", "A choice."), read("What is a preference?", "A cat.")
log_odds = a[0] - b[0] + (a[1::2] * b[2::2] - a[2::2] * b[1::2]).sum()
probability = float(log_odds.sigmoid())  # that the first answer is the better one
"""


def write_card(folder: str | Path, *, method: str = "") -> list[Path]:
    """Write README.md into `model/` and `best/` of a run's folder, if missing there; returns the files written.

    A model with a damaged configuration gets none, and a line says so.

    `method` describes the training method: a formula and its source. The rest comes from the folder: settings, metrics,
    alarms, versions, and the kind of training items.

    Training measures are means over the last n steps, a tenth of the run or `LAST` steps, with Student's 95% interval
    over these steps, `mean -+ t s / sqrt(n)`, or Wilson's over their rows for shares. Measures of held-out rows, which
    have intervals of their own (columns NAME_low and NAME_high), are shown with those, as last measured.

    Raises InputError where a file of the run cannot be read.
    """
    run = Path(folder)
    kinds = ("config.json", "adapter_config.json")
    there = [run / name for name in ("model", "best") if any((run / name / kind).is_file() for kind in kinds)]
    cards = [model / "README.md" for model in there if not (model / "README.md").exists()]
    files = read_stage(run).run if cards else RunFiles()
    written = []
    for card in cards:
        try:
            text = _card(run, card.parent, files, method)
        except (OSError, ValueError, AttributeError, TypeError) as error:  # an old best/ may be damaged
            status(f"{card.parent} gets no card: its configuration is damaged ({error_text(error)}).")
            continue
        write_text(card, text)
        written.append(card)
    return written


def add_evaluation(model: str | Path, folder: str | Path) -> Path:
    """Append the tables of an evaluation, with their 95% intervals, to a model's card, once.

    Raises InputError where the folder holds no evaluation.
    """
    card = Path(model) / "README.md"
    result = results.load(folder)
    warnings = "".join(f"\n- {code(line)}" for line in result.warnings)
    text = "\n".join(public(line.rstrip()) for line in result.text().splitlines())
    section = f"\n## Evaluation: {result.kind}\n\n{fenced(text, 'text')}\n{warnings and warnings + chr(10)}"
    so_far = card.read_text(encoding="utf-8") if card.is_file() else ""
    if section not in so_far:
        write_text(card, so_far + section)
    return card


def _card(run: Path, model: Path, files: RunFiles, method: str) -> str:
    labels = _labels(model)
    what = {0: "A language model", 1: "A reward model"}.get(labels, "A preference model")
    command = str(files.settings.get("command") or "run")
    lines = [f"# {code(run.resolve().name)}", f"{what}, trained by `accord {command}`."]
    if model.name == "best" and files.best:
        lines.append(f"It is the model after step {files.best.get('step')}, the best one measured during training.")
    read = files.environment.get("read_as")
    sections = {
        "Data": [*_data(run, files.settings), *([f"- {read}"] if read else []), *_left_out(run)],
        "Method": [fenced(method.strip(), "text")] if method.strip() else [],
        "Settings": [fenced(_settings(files.settings), "yaml"), *_changes(files)],
        "Results": list(_results(files)),
        "Alarms": [_alarm(row) for row in files.alarms or []] or ["None."],
        "Use": [fenced(_use(model, labels).rstrip(), "python")],
        "Versions": [f"- {name} {version}" for name, version in _versions(files.environment).items()],
    }
    body = "\n\n".join(lines + [f"## {title}\n\n" + "\n".join(text) for title, text in sections.items() if text])
    return f"---\n{yaml.safe_dump(_metadata(run, files.settings, labels), sort_keys=False)}---\n\n{body}\n"


def _labels(model: Path) -> int:
    """The number of labels the model outputs; 0 for a language model."""
    if (model / "adapter_config.json").is_file():
        names = model / "labels.json"
        return len(json.loads(names.read_text(encoding="utf-8"))) if names.is_file() else 0
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return len(config.get("id2label") or "?") if "Classification" in str(config.get("architectures")) else 0


def _metadata(run: Path, settings: Json, labels: int) -> Json:
    """The metadata for the Hub. A base model and data sets are named only if they are names on the Hub."""
    metadata: Json = {"library_name": "transformers"}
    metadata["pipeline_tag"] = "text-classification" if labels else "text-generation"
    if base := _base_model(run, settings):
        metadata["base_model"] = base
    if sets := [name for option in SOURCES if (name := _on_hub(settings.get(option)))]:
        metadata["datasets"] = list(dict.fromkeys(sets))
    return metadata | {"tags": ["accord", str(settings.get("command") or "run")]}


def _base_model(run: Path, settings: Json) -> str | None:
    """The Hub's name of the base model, found by following the runs that this one began with."""
    seen: set[Path] = set()
    name = settings.get("model")
    while isinstance(name, str) and (origin := origin_of(name, run)) and origin not in seen:
        seen.add(origin)
        run, name = origin, read_stage(origin).run.settings.get("model")
    return _on_hub(SHORT_NAMES.get(str(name), name))


def _on_hub(value: Any) -> str | None:
    """The value's repository on the Hub, unless it is a local file or folder."""
    name = value.split(":")[0] if isinstance(value, str) else ""
    is_file = re.search(r"\.(jsonl?|csv|parquet|gz|gguf)$", name) or Path(name).exists()
    return name if _HUB_NAME.fullmatch(name) and not is_file else None


def _data(run: Path, settings: Json) -> Iterator[str]:
    for option in SOURCES:
        if settings.get(option) is not None:
            split = settings.get({"data": "split", "eval_data": "eval_split"}.get(option, ""))
            yield f"- {option}: {code(public(settings[option]))}" + (f", split {code(split)}" if split else "")


def _left_out(run: Path) -> Iterator[str]:
    file = run / "left_out.jsonl"
    if file.is_file() and (count := sum(1 for line in file.read_text(encoding="utf-8").split("\n") if line)):
        yield f"- rows left out because they could not be used: {count:,}"


def _settings(settings: Json) -> str:
    kept = {name: public(value) for name, value in settings.items() if name != "command" and value is not None}
    return yaml.safe_dump(kept, sort_keys=False, width=100).rstrip()


def _changes(files: RunFiles) -> Iterator[str]:
    for step, name, before, after in files.changes:
        yield f"\nAfter step {step} {code(name)} was changed from {code(public(before))} to {code(public(after))}."


def _results(files: RunFiles) -> Iterator[str]:
    """Measures with their 95% intervals, those of held-out rows first."""
    measured = columns(files.metrics)
    for name, series in measured.items():
        if series.interval is not None:
            low, high = series.interval[:, -1]
            value = float(series.values[-1])
            shown = value if math.isnan(low + high) else Interval(value, low, high)
            yield f"- {code(name)}: {shown:.4g}, after step {series.steps[-1]:.0f}"
    last = max(LAST, len(files.metrics) // 10)
    for name, series in measured.items():
        metric = metric_for(name, measured)
        if metric.is_main and series.interval is None:
            rows = int(files.settings.get("batch_size") or 1)
            yield f"- {code(name)}: {_mean(series.values[-last:], rows if metric.is_share else 0)}"
    if files.best:
        best = ", ".join(f"{code(name)} {value:.4g}" for name, value in files.best.items() if isinstance(value, float))
        yield f"- the best during training: step {files.best.get('step')}{best and ', ' + best}"
    if measured:
        yield (
            "\nIntervals are 95%. Where several steps are named, the value is the mean over them with Student's "
            "interval (Wilson's over their rows for a share). It describes the training data, not how the model does "
            "elsewhere."
        )


def _mean(values: Array, rows: int) -> str:
    """The mean over steps with its interval; for a share of `rows` rows per step, Wilson's."""
    steps, mean = len(values), float(values.mean())
    if rows:
        interval = wilson(mean * steps * rows, steps * rows)
    elif steps < 2:
        return f"{mean:.4g} at the last step"
    else:
        reach = float(scipy.special.stdtrit(steps - 1, 0.975) * values.std(ddof=1)) / math.sqrt(steps)
        interval = Interval(mean, mean - reach, mean + reach)
    return f"{interval:.4g}, the last {steps} step{'s' * (steps > 1)}"


def _alarm(row: Json) -> str:
    return f"- step {row.get('step')}, {code(row.get('alarm'))}: {code(public(row.get('saw')))}"


def _versions(environment: Json) -> Json:
    versions = environment.get("versions")
    return {"python": environment.get("python"), **(versions if isinstance(versions, dict) else {})}


def _use(model: Path, labels: int) -> str:
    """Python code that loads and runs the model with transformers only."""
    chats = (model / "chat_template.jinja").is_file()
    if not labels:
        return _READ.format(kind="AutoModelForCausalLM", more="") + (_CHAT if chats else _PLAIN) + _ANSWER
    text = _READ_CHAT if chats else "text = question + answer"
    read = _LABELS.format(text=text, more=", add_special_tokens=False" if chats else "")
    argument = f", num_labels={labels}" if (model / "adapter_config.json").is_file() else ""
    loaded = _READ.format(kind="AutoModelForSequenceClassification", more=argument)
    return loaded + read + (_REWARD if labels == 1 else _PREFERENCE)


def public(value: Any) -> Any:
    """A text without secrets, and with only the last part of each absolute path."""
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~", "..")) and Path(value).expanduser().exists():
        short = called(value)
        return Path(value).name if "/" in short else short
    text = without_secrets(value.replace("file://", "").replace(f"{Path.home()}/", "~/"))
    return _PATH.sub(lambda match: called(match[0].replace("\\", "/")), text)


def code(value: Any) -> str:
    """A text as inline code in Markdown, whatever it contains."""
    text = " ".join(legible(str(value)).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if not text or text[0] == "`" or text[-1] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(text: str, language: str) -> str:
    """Lines as a code block in Markdown, whatever they contain."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{legible(text)}\n{fence}"

"""Options: their types, their values, files and words of a command line put together."""

from __future__ import annotations

import inspect
import re
import resource
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest

from accord.cli.call import bind, help_of, read_words, target_of
from accord.cli.option import REQUIRED, Option
from accord.cli.options import options_of
from accord.cli.table import COMMANDS
from accord.errors import InputError
from tests.commands.small import accord


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = target_of(command)
    wanted = set(inspect.signature(target.fit if inspect.isclass(target) else target).parameters)
    wanted = set(options_of(target)) | wanted - {"self", "course", "options", "on_step"}
    wanted |= {f.name for f in fields(target)} if inspect.isclass(target) else set()
    assert accord(*command.split(), "--help") == 0
    shown = capsys.readouterr().out
    for option in wanted - {COMMANDS[command].further}:
        assert re.search(rf"--(no-)?{option.replace('_', '-')}\b", shown), option


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    for option in options_of(target_of(command)).values():
        assert option.help, option.name


def shown(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert accord(*words.split()) == 0
    return capsys.readouterr().out


def test_short_help_is_the_beginning_of_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """What matters most, then GRPO's own settings, the class's before those it inherits; the rest in two lines."""
    whole, short = shown("grpo --help", capsys), shown("grpo -h", capsys)
    beginning, _, end = short.partition("\n\n`accord grpo --help` shows all options:\n")
    assert whole.startswith(beginning) and "\n\nsampling:\n" in whole[len(beginning) :]
    flags = re.findall(r"^  --(\S+)", beginning, re.MULTILINE)
    assert flags[:6] == ["model", "data", "reward", "out", "group-size", "kl-coefficient"]
    assert flags.index("kl") < flags.index("clip-low") < flags.index("stale-steps") and "schedule" not in flags
    left = sum(map(int, re.findall(r"\((\d+)\)", end)))
    assert len(flags) + left == len(re.findall(r"^  --", whole, re.MULTILINE))


def test_a_command_of_few_options_has_one_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown("tokenizer -h", capsys) == shown("tokenizer --help", capsys)


def test_help_leaves_out_what_only_python_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "in Python" not in shown("dpo --help", capsys)
    assert "Peak learning rate (default: 1e-06)." in shown("dpo --help", capsys)


HELP = """
import sys
from accord.cli.main import main

for command in {commands!r}:
    assert main([*command.split(), "--help"]) == 0
    heavy = {{"torch", "transformers", "datasets", "matplotlib"}} & set(sys.modules)
    assert not heavy, f"{{command}} --help imports {{heavy}}"
"""


def test_help_needs_no_torch() -> None:
    script = HELP.format(commands=list(COMMANDS))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_answers_at_once() -> None:
    """In seconds of processor time, of whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "accord", "ppo", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.5


def test_options_of_types_by_hand() -> None:
    options = options_of(target_of("grpo"))
    assert (options["beta1"].type, options["max_steps"].type, options["resume"].type) == (float, int | None, bool)
    assert options["kl"].type == Literal["k3", "k3-corrected", "k2", "reward"]
    assert (options["model"].type, options["reward"].type, options["watch"].type) == (str, str, str | None)
    assert options["learning_rate"].default == 1e-6 and options["out"].default is REQUIRED
    assert {name: options[name].group for name in ("out", "kl", "schedule", "temperature", "watch_every")} == {
        "out": "input and output",
        "kl": "method",
        "schedule": "training",
        "temperature": "sampling",
        "watch_every": "evaluation while training",
    }


@pytest.mark.parametrize(
    ("kind", "given", "read"),
    [
        (float, "1e-5", 1e-5),
        (float, 3, 3.0),
        (int, "12", 12),
        (int | None, "null", None),
        (int | None, None, None),
        (str | None, "null", None),
        (str, "12", "12"),
        (str, 12, "12"),
        (str, "[a]", "[a]"),
        (bool, "false", False),
        (bool, True, True),
        (dict[str, str], {"a": "1", "b": "x"}, {"a": "1", "b": "x"}),
        (dict[str, str] | None, "{a: x}", {"a": "x"}),
        (dict[str, list[str]], {"a": "[x, y]", "b": ["z"]}, {"a": ["x", "y"], "b": ["z"]}),
        (dict[str, str | list[str]], {"a": "[x, y]", "b": "z"}, {"a": ["x", "y"], "b": "z"}),
        (dict[str, str | list[str]], {"a": "# x", "b": "y #z"}, {"a": "# x", "b": "y #z"}),
        (str | list[str] | None, "### Answer", "### Answer"),
        (str | list[str] | None, "\n", "\n"),
        (str | list[str] | None, " a #b", " a #b"),
        (str | list[str] | None, "- a", "- a"),
        (str | list[str] | None, "[a, b]", ["a", "b"]),
        (float | list[float] | None, "0.8", 0.8),
        (Literal["auto", "float32"], "float32", "float32"),
    ],
)
def test_values_take_their_type(kind: Any, given: Any, read: Any) -> None:
    value = Option("name", kind, None, "", "training").read(given)
    assert value == read and type(value) is type(read)


def test_several_files_and_named_columns_on_one_line() -> None:
    words = [
        "--data",
        "a.jsonl:0.7",
        "b.csv:0.3",
        "--columns",
        "prompt=q,label=ann,bob",
        "--columns.source=from",
    ]
    given = read_words("sft", words)
    assert given["data"] == ["a.jsonl:0.7", "b.csv:0.3"]
    assert given["columns"] == {"prompt": "q", "label": "ann,bob", "source": "from"}
    assert read_words("sft", ["--data", "a", "--out", "o", "--data", "b"])["data"] == ["a", "b"]
    assert read_words("sft", ["--data", "a"])["data"] == "a"
    assert read_words("sft", ["--columns", "is_safe="])["columns"] == {"is_safe": ""}


def test_names_from_a_file_and_from_words_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("models: {a: x, b: y}\njudge: cafe\n")
    words = ["--models.b", "z", "--config", str(tmp_path / "o.yaml"), "--models.c=w", "--out", "o"]
    read = {"models": {"a": "x", "b": "z", "c": "w"}, "judge": "cafe", "out": "o"}
    assert read_words("evaluate models", words) == read


def test_a_later_file_overrides_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("judge: cafe\nseed: 1\n")
    (tmp_path / "b.yaml").write_text("seed: 2\n")
    words = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    assert read_words("evaluate models", words) == {"judge": "cafe", "seed": 2}


def test_a_file_of_a_sweep_holds_the_method_s_options_too(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("grid: {seed: [0, 1]}\nmax-steps: 1\nmodel: m\n")
    words = ["sft", "--config", str(tmp_path / "a.yaml"), "--max_steps", "2"]
    assert read_words("sweep", words) == {
        "method": "sft", "grid": {"seed": [0, 1]}, "options": {"model": "m", "max_steps": "2"},
    }  # fmt: skip
    for text, said in (
        ("options: 3\nmodel: m", "options must be options by name, not 3"),
        ("x: {a: 1}", "x must be a"),
    ):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(InputError, match=said):
            read_words("sweep", words)


def test_switches_are_thrown_either_way() -> None:
    common = ["--model", "m", "--data", "d", "--reward", "r", "--out", "o"]
    for words in (["--no-scale"], ["--scale", "false"], ["--scale=no"]):
        assert bind("grpo", read_words("grpo", [*common, *words, "--resume"])).options["scale"] is False
    assert bind("grpo", read_words("grpo", [*common, "--resume"])).options["resume"] is True


def test_a_value_that_begins_a_help_text_is_written_as_it_is_typed() -> None:
    judge = next(line for line in help_of("evaluate judge").splitlines() if line.startswith("  --judge "))
    assert judge.split()[2] == "ai:MODEL"
    begins = {line.split()[2] for line in help_of("evaluate models").splitlines() if line.startswith("  --judge ")}
    assert begins == {"Who"}

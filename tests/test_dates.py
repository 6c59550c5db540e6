"""The date that chat templates write: that of its block, one given, or today; as the template itself formats it."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest

from accord.data import load_data
from accord.data.encoding import to_tree
from accord.dates import dated, fixed, today
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.templates import with_template
from accord.errors import InputError
from accord.evaluate.options import RowOptions, takes
from accord.prompting.local import Local
from accord.results.base import Evaluation
from tests.commands.small import save_model
from tests.data.templates import byte_tokenizer
from tests.days import set_day

REST = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}Today Date: {{ date_string }}\n\n" + REST
)
"""As Llama 3.2 has it."""
GPT = (
    "{%- macro system() -%}{{- 'Current date: ' + strftime_now('%Y-%m-%d') + '\n\n' }}{%- endmacro -%}"
    "{{- system() -}}" + REST
)
"""As gpt-oss has it."""
PAIR = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
FORMATS = (
    "%d %b %Y", "%B %d, %Y", "%A, %-d %B", "%Y%m%d", "%H:%M:%S.%f", "%c|%x|%X|%p|%I", "%j %U %W %V %G %u %w %e",
    "%D|%F|%T|%R", "%^a %_d %Ey", "a%n%tb%%", "%%d %%%d", "100 %", "%", "", "no directive", "'\"{{ x }}é%d",
)  # fmt: skip


@pytest.mark.parametrize("written", FORMATS)
def test_every_directive_is_that_of_python(written: str) -> None:
    template = dated("{{ strftime_now(wanted) }}|{% set said = strftime_now(wanted) %}{{ said }}", date(2026, 2, 3))
    text = byte_tokenizer(GPT).apply_chat_template(
        PAIR["prompt"], tokenize=False, chat_template=template, wanted=written
    )
    assert text == "{0}|{0}".format(datetime(2026, 2, 3).strftime(written))


def prompt(tokenizer: Any, **more: object) -> str:
    """The text of the prompt of a row with these further columns."""
    (row,) = load_data([{**PAIR, **more}])
    return str(tokenizer.decode(to_tree(tokenizer, row).prompt))


@pytest.mark.parametrize(
    ("template", "head"), [(LLAMA, "Today Date: {:%d %b %Y}\n\n"), (GPT, "Current date: {:%Y-%m-%d}\n\n")]
)
def test_a_chat_has_the_date_of_its_block_or_one_given_or_that_of_the_clock(
    template: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(*day: int) -> str:
        return head.format(date(*day)) + "<|user|>q<|end|><|assistant|>"

    set_day(monkeypatch, "2026-03-09")
    tokenizer = byte_tokenizer(template)
    own = tokenizer.apply_chat_template(PAIR["prompt"], tokenize=False, add_generation_prompt=True)
    assert prompt(tokenizer) == own == on(2026, 3, 9)
    with fixed():
        set_day(monkeypatch, "2026-03-10")
        with fixed():
            assert prompt(tokenizer) == on(2026, 3, 9) and today() == date(2026, 3, 9)
        with fixed(date(2025, 1, 2)):
            assert prompt(tokenizer) == on(2025, 1, 2)
            given = with_template(tokenizer, None, "refuse", {"strftime_now": "2024-07-26"})
            assert prompt(given) == on(2024, 7, 26)
            assert prompt(given, chat_template_kwargs={"strftime_now": "2023-12-31"}) == on(2023, 12, 31)
    assert prompt(tokenizer) == on(2026, 3, 10)
    assert given.chat_template == template == tokenizer.chat_template  # so that a trained model's stays as it is


def test_a_variable_of_the_template_comes_before_the_date() -> None:
    told = with_template(byte_tokenizer(LLAMA), None, "refuse", {"date_string": "November 30, 2026"})
    assert prompt(told).startswith("Today Date: November 30, 2026\n")
    assert prompt(told, chat_template_kwargs={"date_string": "1 May"}).startswith("Today Date: 1 May\n")


def test_a_date_that_is_none_is_refused_and_so_is_one_that_is_not_written() -> None:
    with pytest.raises(InputError, match="strftime_now must be a date such as 2026-11-30, not 'today'"):
        with_template(byte_tokenizer(GPT), None, "refuse", {"strftime_now": "today"})
    with pytest.raises(InputError, match="strftime_now must be a date such as 2026-11-30, not 5"):
        prompt(byte_tokenizer(GPT), chat_template_kwargs={"strftime_now": 5})
    with pytest.raises(InputError, match="has 'strftime_now', which the chat template does not read"):
        with_template(byte_tokenizer(REST), None, "refuse", {"strftime_now": "2026-11-30"})


def test_models_that_write_other_dates_share_no_tokens(tmp_path: Path) -> None:
    plain = load_model(save_model(tmp_path / "m", GPT))

    def on(day: str) -> Policy:
        return Policy(plain.network, with_template(plain.tokenizer, None, "refuse", {"strftime_now": day}))

    first, same, other = on("2026-11-29"), on("2026-11-29"), on("2026-11-30")
    assert first.same_tokens(same) and not first.same_tokens(other)
    assert Local(first).settings == {**Local(plain).settings, "strftime_now": "2026-11-29"}


class OfChats(Evaluation):
    """A result of models that read chats."""

    kind: str = "chats"
    reads_chats: ClassVar[bool] = True

    def tables(self) -> list[Any]:
        return []


class OfCounts(OfChats):
    """A result of counting alone."""

    reads_chats: ClassVar[bool] = False


def test_a_result_has_the_date_on_which_chats_were_read(tmp_path: Path) -> None:
    with fixed(date(2026, 3, 9)):
        assert OfChats().publish(tmp_path).date == "2026-03-09"
        assert json.loads((tmp_path / "evaluation.json").read_text())["date"] == "2026-03-09"
        assert OfChats(date="2026-03-01").publish(tmp_path).date == "2026-03-01"
        OfCounts().publish(tmp_path)
        assert json.loads((tmp_path / "evaluation.json").read_text()) == {"kind": "chats", "warnings": []}


def test_a_function_called_from_python_has_one_date(monkeypatch: pytest.MonkeyPatch) -> None:
    @takes(RowOptions)
    def days() -> list[date]:
        return [today(), set_day(monkeypatch, "2026-03-10") or today()]

    set_day(monkeypatch, "2026-03-09")
    assert days() == [date(2026, 3, 9)] * 2
    assert today() == date(2026, 3, 10)

"""From answers in the browser to the accuracy on the page: a reward model is measured on what people pressed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.annotate.conftest import Server
from tests.annotate.test_browser import press, visiting
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

HELD = 5
ITEMS = [
    {"prompt": [{"role": "user", "content": f"{asked} day"}], "chosen": f"good {said}", "rejected": f"bad {said}"}
    for asked in ("hi", "hello", "bye", "good")
    for said in ("day", "bye", "hello")
]


@pytest.mark.slow
def test_answers_in_the_browser_become_the_accuracy_on_the_page(
    chromium: Any, server: Callable[..., Server], tmp_path: Path
) -> None:
    served = server(ITEMS, "compare")
    with visiting(chromium, served) as page:
        for key in "12451254":  # A much, A slightly, B slightly, B much, ...
            press(page, key)
        seen = [page.inner_text(f"#answer-{letter} + .prose") for letter in "AB"]
        for key in "1524":
            press(page, key)
    database, rows = served.project.database.name, tmp_path / "rows.jsonl"
    assert accord("annotate", "export", "--database", database, "--out", rows) == 0
    exported = read_jsonl(rows)
    assert exported[8]["chosen"][0]["content"] == seen[0] and exported[8]["rejected"][0]["content"] == seen[1]
    base, out = save_model(tmp_path / "base"), tmp_path / "reward"
    held = ("--split", f"train[:-{HELD}]", "--eval-split", f"train[-{HELD}:]")
    settings = ("--learning-rate", 0.01, "--batch-size", 2, "--epochs", 2, "--dtype", "float32")
    assert accord("reward", "--model", base, "--data", rows, "--out", out, *held, *settings) == 0
    # The oracle: transformers itself, which reads each chat by the model's own template.
    model = AutoModelForSequenceClassification.from_pretrained(out / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "model")

    def score(row: dict[str, Any], which: str) -> float:
        text = tokenizer.apply_chat_template(row["prompt"] + row[which], tokenize=False)
        tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            return float(model(input_ids=tokens.input_ids).logits[0, 0])

    margins = [score(row, "chosen") - score(row, "rejected") for row in exported[-HELD:]]
    accuracy = sum((margin > 0) + 0.5 * (margin == 0) for margin in margins) / HELD
    page_text = re.sub(r"<[^>]+>", " ", (out / "report.html").read_text(encoding="utf-8"))
    told = [re.split(r"\(95% interval|\.\s", part)[0] for part in page_text.split("Dashed: rows held out, from ")[1:]]
    assert any(part.strip().endswith(f"to {100 * accuracy:.1f}%") for part in told), (accuracy, told)
    write_jsonl(tmp_path / "held.jsonl", exported[-HELD:])
    trial = ("--reward", out / "model", "--data", tmp_path / "held.jsonl", "--out", tmp_path / "trial", "--probes", 0)
    assert accord("evaluate", "comparisons", *trial) == 0 and accord("report", tmp_path / "trial") == 0
    assert f">{100 * accuracy:.1f}%<" in (tmp_path / "trial" / "report.html").read_text(encoding="utf-8")

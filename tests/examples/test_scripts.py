"""The short programs of `examples/` run as they stand, on models small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.data.tasks import read_tasks
from accord.methods import DPO, PPO, SFT
from accord.records import Preference
from accord.train.rows import read_metrics
from accord.worlds import cafe
from examples import custom_reward, dpo_from_python, exact_policy_gradient
from tests.commands.small import write_jsonl


def test_exact_policy_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    exact_policy_gradient.main()
    printed = capsys.readouterr().out
    assert "40 completions" in printed
    assert float(printed.split("at most ")[1].split(";")[0]) < 1e-5


def test_custom_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)

    def shorter(kind: type, settings: dict[str, object]) -> SFT | PPO:
        kept = {k: v for k, v in settings.items() if k not in ("epochs", "max_steps", "batch_size")}
        return kind(**kept, max_steps=2, batch_size=4)  # type: ignore[no-any-return]

    monkeypatch.setattr(custom_reward, "SFT", lambda **given: shorter(SFT, given))
    monkeypatch.setattr(custom_reward, "PPO", lambda **given: shorter(PPO, given))
    custom_reward.main()
    rows = read_metrics(tmp_path / "runs/price/ppo")
    assert len(rows) == 2 and f"step 2: {rows[-1]['reward']:.0%} of the answers" in capsys.readouterr().out
    assert custom_reward.names_the_price("", "it is 3 coins") == 1 and custom_reward.names_the_price("", "3") == 0


def test_dpo_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cafe.new_model(0).save_pretrained(tmp_path / "base")
    cafe.tokenizer().save_pretrained(tmp_path / "base")
    monkeypatch.setattr(dpo_from_python, "MODEL", str(tmp_path / "base"))
    monkeypatch.setattr(dpo_from_python, "DPO", lambda **given: DPO(**{**given, "max_steps": 2, "max_length": 96}))
    pairs = [Preference(row.prompt, row.completion, "the the") for row in cafe.demonstrations(0, 210)]
    dpo_from_python.main(write_jsonl(tmp_path / "pairs.jsonl", pairs))
    assert len(read_metrics(tmp_path / "runs/dpo-from-python")) == 2
    check = json.loads((tmp_path / "runs/dpo-from-python-check/evaluation.json").read_text())
    assert check["kind"] == "comparisons"
    assert len((tmp_path / "runs/dpo-from-python-samples.jsonl").read_text().splitlines()) == 4


def test_tasks_file(tmp_path: Path) -> None:
    for name in ("gsm8k_test.jsonl.gz", "gsm8k_train.jsonl.gz", "self_instruct_seed_tasks.jsonl.gz"):
        (tmp_path / name).touch()
    tasks = read_tasks(Path(__file__).parents[2] / "examples/tasks.yaml", tmp_path)
    assert [(task.label, task.metric) for task in tasks] == [
        ("arithmetic/gsm8k", "number"),
        ("judging/yes-or-no", "options"),
        ("judging/true-or-false", "options"),
        ("judging/which-number", "options"),
        ("judging/all-written", "exact"),
        ("writing/instructions", "rouge-l"),
    ]
    assert tasks[1].options == ("yes", "no") and tasks[3].options == ("1", "2", "3", "4")
    assert len(tasks[1].prompts) == 2 and tasks[-1].limit == 60


def test_tasks_file_of_chains_of_thought(tmp_path: Path) -> None:
    (tmp_path / "flan_cot").mkdir()
    chains = [f"flan_cot/{name}.tsv.gz" for name in ("creak", "strategyqa", "ecqa", "sensemaking", "qasc", "aqua")]
    for name in (*chains, "gsm8k_train.jsonl.gz", "self_instruct_seed_tasks.jsonl.gz"):
        (tmp_path / name).touch()
    tasks = read_tasks(Path(__file__).parents[2] / "examples/flan_cot.yaml", tmp_path)
    assert [(task.label, task.metric, len(task.options)) for task in tasks if task.layout == "cot"] == [
        ("commonsense/creak", "options", 2),
        ("commonsense/strategyqa", "options", 2),
        ("commonsense/ecqa", "options", len("options")),
        ("commonsense/sensemaking", "options", 2),
        ("science/qasc", "options", 8),
        ("arithmetic/aqua", "options", 5),
    ]
    assert [task.label for task in tasks if task.layout is None] == ["writing/instructions"]
    assert [task.label for task in tasks if task.rationale is None] == ["writing/instructions"]

"""The command line: what commands leave, and faults in a sentence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from accord.cli.main import main
from accord.cli.table import COMMANDS
from accord.engine.load import load_model, load_reward_model
from accord.feedback.learned import LearnedReward
from accord.records import Demonstration, Preference, Prompt, Ranking
from accord.train.rows import read_metrics
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl

DEMONSTRATIONS = [Demonstration("hi", "hello good day"), Demonstration("bye", "good bye"), Demonstration("hello", "hi")]
PREFERENCES = [Preference("hi", "hello", "bad day"), Preference("bye", "good bye", "hello")]
RANKINGS = [Ranking("hi", ("good", "bad", "bye"), (0, 1, 1)), Ranking("bye", ("hi", "day", "good"), (2, 0, 1))]
PROMPTS = [Prompt("hi"), Prompt("good day"), Prompt("bye")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and files of rows of every kind."""
    folder = tmp_path_factory.mktemp("home")
    save_model(folder / "base")
    for name, rows in (("sft", DEMONSTRATIONS), ("pairs", PREFERENCES), ("ranked", RANKINGS), ("prompts", PROMPTS)):
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_jsonl(folder / "corpus.jsonl", [{"text": "hi hello good day"}, {"text": "bad day bye"}])
    return folder


@pytest.fixture(scope="module")
def reward(home: Path) -> Path:
    """A run of `accord reward`."""
    assert accord("reward", "--model", home / "base", "--data", home / "pairs.jsonl", "--out", home / "rm", *QUICK) == 0
    return home / "rm"


@pytest.mark.parametrize(
    ("command", "rows"),
    [("sft", "sft"), ("sft", "pairs"), ("dpo", "pairs"), ("reward", "ranked"), ("pretrain", "corpus")],
)
def test_a_method_leaves_a_finished_run(home: Path, tmp_path: Path, command: str, rows: str) -> None:
    out = tmp_path / "run"
    assert accord(command, "--model", home / "base", "--data", home / f"{rows}.jsonl", "--out", out, *QUICK) == 0
    assert [row["step"] for row in read_metrics(out)] == [1, 2]
    assert yaml.safe_load((out / "config.yaml").read_text())["batch_size"] == 2
    kind = AutoModelForSequenceClassification if command == "reward" else AutoModelForCausalLM
    network = kind.from_pretrained(out / "model")
    assert command != "reward" or network.config.num_labels == 1
    assert {"report.html", "environment.json", "metrics.jsonl"} <= {file.name for file in out.iterdir()}
    assert not (out / "checkpoints").exists()


def test_pretraining_from_scratch_starts_elsewhere(home: Path, tmp_path: Path) -> None:
    # At a learning rate of next to nothing the result is what training began with.
    def trained(name: str, *more: str) -> dict[str, torch.Tensor]:
        common = ("--data", home / "corpus.jsonl", "--learning-rate", "1e-12", *QUICK)
        assert accord("pretrain", "--model", home / "base", "--out", tmp_path / name, *common, *more) == 0
        return dict(AutoModelForCausalLM.from_pretrained(tmp_path / name / "model").state_dict())

    base = AutoModelForCausalLM.from_pretrained(home / "base").state_dict()
    seed = ("--seed", "3")
    kept, fresh = trained("kept"), trained("fresh", *seed, "--from-scratch")
    again = trained("again", *seed, "--from-scratch", "true")
    torch.testing.assert_close(kept["lm_head.weight"], base["lm_head.weight"], rtol=0, atol=1e-6)
    # New weights have the configuration's deviation, .3, and are independent of the old ones; the seed decides them.
    assert float((fresh["lm_head.weight"] - base["lm_head.weight"]).std()) == pytest.approx(0.3 * 2**0.5, rel=0.25)
    assert torch.equal(fresh["lm_head.weight"], again["lm_head.weight"])


def test_ppo_through_a_reward_model(home: Path, reward: Path, tmp_path: Path) -> None:
    out = tmp_path / "ppo"
    scored = ("--data", home / "prompts.jsonl", "--reward", reward / "model")
    short = ("--max-new-tokens", "4", "--sample-every", "1")
    assert accord("ppo", "--model", home / "base", "--out", out, *scored, *short, *QUICK) == 0
    rows = read_metrics(out)
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["kl"] == 0.0  # the policy is still its own reference
    assert all(0 < row["length"] <= 4 and row["sampler_drift"] < 1e-5 for row in rows)
    shown = read_jsonl(out / "samples.jsonl")
    assert [row["step"] for row in shown] == [1, 1, 2]  # of 3 prompts the second batch of 2 has 1
    assert {row["prompt"] for row in shown} <= {"hi", "good day", "bye"}
    AutoModelForCausalLM.from_pretrained(out / "model")


def test_a_reward_model_scores_alike_in_transformers(reward: Path) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(reward / "model")
    learned = LearnedReward(load_reward_model(str(reward / "model")))
    texts = [("hi", "hello good day"), ("bye", "good"), ("day", "")]
    tokens = [[6, 7, 8, 10, 2], [11, 8, 2], [10, 2]]
    with torch.no_grad():
        expected = [float(plain(input_ids=torch.tensor([t])).logits) for t in tokens]
    assert learned.texts(texts).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_policy_computes_alike_in_transformers(home: Path, tmp_path: Path) -> None:
    assert accord("sft", "--model", home / "base", "--data", home / "sft.jsonl", "--out", tmp_path / "run", *QUICK) == 0
    folder = tmp_path / "run" / "model"
    tokens = torch.tensor([[6, 7, 8, 10, 2]])
    with torch.no_grad():
        mine = load_model(str(folder)).network(input_ids=tokens).logits
        plain = AutoModelForCausalLM.from_pretrained(folder)(input_ids=tokens).logits
    torch.testing.assert_close(mine, plain, rtol=0, atol=1e-5)


def test_a_finished_run_says_so(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ("dpo", "--model", home / "base", "--data", home / "pairs.jsonl", "--out", tmp_path / "run", *QUICK)
    assert accord(*run) == 0
    before = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert accord(*run, "--resume") == 0
    assert "is already finished" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_options_from_a_file_in_either_spelling_and_overridden(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "options.yaml"
    options = {"model": str(home / "base"), "data": str(home / "pairs.jsonl"), "batch-size": 3, "max_steps": 1}
    config.write_text(yaml.safe_dump(options | {"learning-rate": 0.001, "beta": 0.3}))
    out = tmp_path / "run"
    assert accord("dpo", "--config", config, "--out", out, "--beta=0.5", "--label_smoothing", "0.1") == 0
    settings = yaml.safe_load((out / "config.yaml").read_text())
    found = {name: settings[name] for name in ("batch_size", "max_steps", "learning_rate", "beta", "label_smoothing")}
    assert found == {
        "batch_size": 3,
        "max_steps": 1,
        "learning_rate": 0.001,
        "beta": 0.5,
        "label_smoothing": 0.1,
    }


def test_the_overview_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert accord() == accord("--help") == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {command} " in overview for command in COMMANDS)
    assert accord("--version") == 0
    assert re.fullmatch(r"accord \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dop",), "there is no command 'dop'; did you mean dpo?"),
        (("dop", "--help"), "there is no command 'dop'; did you mean dpo?"),
        (("sft", "--lerning-rate", "1"), "`accord sft` has no option lerning-rate; did you mean learning-rate?"),
        (("dpo", "--batch_sise=3"), "`accord dpo` has no option batch-sise; did you mean batch-size?"),
        (("sample", "--temprature", "1"), "`accord sample` has no option temprature; did you mean temperature?"),
        (("sft", "--model", "m", "--out", "o"), "`accord sft` needs --data."),
        (("ppo", "--model", "m"), "`accord ppo` needs --data and --reward and --out."),
        (("sft", "--model"), "`accord sft` needs a value for --model."),
        (("sft", "model"), "`accord sft` cannot tell what model is; options are written as --name value."),
        (("inspect", "m", "hi", "there"), "`accord inspect` cannot tell what there is; options are written"),
        (("sft", "--beta.x", "1"), "`accord sft` has no option beta.x"),
        (
            ("evaluate", "models", "--models", "m"),
            "--models must be given by names, as --models.NAME VALUE or --models NAME=VALUE, not m.",
        ),
        (("sft", "--schedule", "liner"), "--schedule must be one of constant, linear, cosine, not liner; did you mean"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_sentence(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accord(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"accord: {message}") and error.count("\n") == 1


def test_a_value_that_does_not_fit_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--batch-size", "many"), ("--schedule", "wavy"), ("--learning-rate", "fast")):
        assert accord("sft", "--model", "m", "--data", "d", "--out", "o", option, value) == 2
        error = capsys.readouterr().err
        assert option in error and value in error and error.count("\n") == 1


def test_a_report_is_written_again(home: Path, reward: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(reward, home / "copied")
    (home / "copied" / "report.html").unlink()
    assert accord("report", home / "copied") == 0
    assert capsys.readouterr().out.strip() == str(home / "copied" / "report.html")
    assert "One run of accord reward" in (home / "copied" / "report.html").read_text()


def test_a_question_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("evaluate", "--data", "pairs.jsonl", "--reward", "rm") == 2
    asked = "models, comparisons, agreement, judge, frontier, overoptimization, failures, tasks, passes, personal"
    assert capsys.readouterr().err == f"accord: `accord evaluate` needs a question: {asked}, users, seeds.\n"


def test_questions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["evaluate"], ["evaluate", "--help"]):
        assert main(words) == 0
        listed = capsys.readouterr().out
        assert all(f"  {command} " in listed for command in COMMANDS if command.startswith("evaluate "))
    assert main(["evaluate", "modles"]) == 2
    assert "did you mean evaluate models?" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "resumes"), [("sft", True), ("sample", False)])
def test_what_is_said_on_ctrl_c(
    command: str, resumes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("accord.cli.main.bind", stopped)
    assert accord(command, "--model", "m", "--data", "d", "--out", "o") == 130
    onward = "; the run goes on with the same command and --resume" if resumes else ""
    assert capsys.readouterr().err == f"accord: stopped{onward}.\n"


def test_an_error_of_the_system_in_words_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As safetensors and tokenizers, which are written in Rust, tell it."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("accord.cli.main.bind", full)
    assert accord("sft", "--model", "m", "--data", "d", "--out", "o") == 2
    said = "No space left on device; make room, and give the command again"
    assert capsys.readouterr().err == f"accord: {said} with --resume.\n"
    assert accord("score", "--model", "m", "--data", "d", "--out", "o") == 2
    assert capsys.readouterr().err == f"accord: {said}.\n"


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
            "tried to allocate 20.00 GiB",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            "tried to allocate 64 bytes",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
        (MemoryError(), ""),
    ],
)
def test_memory_that_runs_out_is_told_with_the_options_that_need_less(
    error: Exception, amount: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("accord.cli.main.bind", full)
    for command, remedy in (
        ("sample", "lower --n or --max-new-tokens."),
        ("score", "lower --tokens-per-pass."),
        (
            "dpo",
            "lower --tokens-per-pass or --batch-size or --max-length, or give --memory and how much there is, such",
        ),
        ("merge", "ask for less at once."),
    ):
        data = () if command == "merge" else ("--data", "d")
        assert accord(command, "--model", "m", "--out", "o", *data) == 2
        told = capsys.readouterr().err
        assert told.startswith("accord: there is not enough memory") and remedy in told and amount in told


def test_a_command_ends_by_saying_where_its_results_are(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.jsonl"
    assert accord("score", "--model", home / "base", "--data", home / "pairs.jsonl", "--out", out) == 0
    assert capsys.readouterr().out == f"score: wrote {out}\n"
    run = tmp_path / "run"
    assert accord("sft", "--model", home / "base", "--data", home / "sft.jsonl", "--out", run, *QUICK) == 0
    assert f"sft: the model is {run / 'model'}, the report {run / 'report.html'}" in capsys.readouterr().out

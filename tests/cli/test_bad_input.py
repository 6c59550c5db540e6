"""What cannot be used is told in one sentence, with exit status 2, and leaves nothing half-written behind."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from accord.cli.call import target_of
from accord.cli.options import options_of
from accord.cli.other_names import METHODS, OURS
from accord.cli.table import COMMANDS
from accord.records import Demonstration, Preference, Prompt
from tests.commands.small import QUICK, accord, save_model, write_jsonl

Told = Callable[..., str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_model(tmp_path_factory.mktemp("models") / "base"))


@pytest.fixture
def told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """What a training command says of its input, which it must refuse without leaving anything in --out."""

    def run(command: str, model: Path, data: str | Path, *more: object, status: int = 2) -> str:
        out = tmp_path / "out"
        capsys.readouterr()
        assert accord(command, "--model", model, "--data", data, "--out", out, *QUICK, *more) == status
        assert not out.exists()
        error = capsys.readouterr().err
        assert error.startswith("accord: ") and "Traceback" not in error
        assert error.count("\n") == 1, error
        return error.removeprefix("accord: ").strip()

    return run


def test_a_missing_file(base: Path, told: Told) -> None:
    assert told("sft", base, "nowhere.jsonl") == "there is no file nowhere.jsonl"


def test_a_missing_model(tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "hello")])
    assert told("sft", tmp_path / "nowhere", data).startswith(f"there is no model folder {tmp_path / 'nowhere'}")


def test_rankings_without_an_order(base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "completions": ["a", "b"], "ranks": [0, 0]}])
    assert told("reward", base, data) == "every row is a tie, and a reward model learns only from strict preferences."


def test_a_run_s_folder_for_its_model(base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "hello")])
    shutil.copytree(base, tmp_path / "run" / "model")
    assert f"did you mean {tmp_path / 'run' / 'model'}?" in told("sft", tmp_path / "run", data)


def test_a_line_that_is_not_json(base: Path, tmp_path: Path, told: Told) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "hi", "completion": "bye"}\n{"prompt": "hi",\n')
    assert told("sft", base, tmp_path / "rows.jsonl").startswith(f"{tmp_path / 'rows.jsonl'}, line 2: not JSON")


@pytest.mark.parametrize(
    ("command", "row", "message"),
    [
        ("sft", {"prompt": "hi", "completions": "bye"}, "the columns found are prompt, completions"),
        ("sft", {"prompt": "hi", "complection": "bye"}, "'complection' is perhaps meant to be 'completion'"),
        ("dpo", {"prompt": "hi", "chosen": "bye", "rejcted": "bad"}, "'rejcted' is perhaps meant to be 'rejected'"),
        ("dpo", {"prompt": "hi", "chosen": "bye"}, "the columns found are prompt, chosen"),
        ("sft", {"prompt": "hi", "completion": " "}, "'completion' is empty"),
        ("dpo", {"prompt": "hi", "chosen": "", "rejected": "bad"}, "'chosen' is empty"),
        ("dpo", {"prompt": "hi", "chosen": "bad", "rejected": "bad"}, "'chosen' and 'rejected' are equal"),
        ("reward", {"prompt": "hi", "completions": ["a", "b"], "ranks": [0]}, "2 'completions' but 1 'ranks'"),
    ],
)
def test_a_row_that_is_not_right(
    command: str, row: dict[str, Any], message: str, base: Path, tmp_path: Path, told: Told
) -> None:
    good = {
        "sft": {"prompt": "hi", "completion": "bye"},
        "dpo": {"prompt": "hi", "chosen": "a", "rejected": "b"},
        "reward": {"prompt": "hi", "completions": ["a", "b"], "ranks": [0, 1]},
    }
    sentence = told(command, base, write_jsonl(tmp_path / "rows.jsonl", [good[command], row]))
    assert "rows.jsonl, line 2: " in sentence
    assert message in sentence


@pytest.mark.parametrize(
    ("command", "row", "message"),
    [
        ("dpo", Demonstration("hi", "bye"), "`dpo` learns from preferences or rankings, and this is a"),
        ("reward", Demonstration("hi", "bye"), "`reward` learns from preferences or rankings, and this is a"),
        (
            "kto",
            Demonstration("hi", "bye"),
            "`kto` learns from labeled completions or preferences, and this is a demonstration; it has no 'label', or "
            "one without a value: give it one, or leave the row out.",
        ),
        (
            "sft",
            Prompt("hi"),
            "`sft` learns from demonstrations or tokenizations or preferences or rankings, and",
        ),
        (
            "pretrain",
            Preference("hi", "a", "b"),
            "`pretrain` learns from demonstrations or tokenizations, and this is",
        ),
    ],
)
def test_rows_of_the_wrong_kind(command: str, row: Any, message: str, base: Path, tmp_path: Path, told: Told) -> None:
    sentence = told(command, base, write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert message in sentence and "rows.jsonl" in sentence


def test_a_prompt_longer_than_the_context(base: Path, tmp_path: Path, told: Told) -> None:
    long = " ".join(["hi"] * 60)
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "bye"), Demonstration(long, "bye")])
    assert "row 2: the prompt has 60 tokens, more than the model's context of 48" in told("sft", base, data, "--strict")
    data = write_jsonl(tmp_path / "prompts.jsonl", [Prompt("hi"), Prompt(long)])
    scored = ("--reward", base, "--max-new-tokens", "4", "--strict")
    assert "row 2: the prompt of 60 tokens and a completion of 4 do not fit" in told("ppo", base, data, *scored)


def test_chat_rows_and_a_tokenizer_without_a_chat_template(tmp_path: Path, told: Told) -> None:
    model = save_model(tmp_path / "plain", template=None)
    chat = {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "bye"}]}
    sentence = told("sft", Path(model), write_jsonl(tmp_path / "rows.jsonl", [chat]))
    assert sentence.startswith("row 1: the tokenizer has no chat template")


def test_an_unknown_option_in_a_file(base: Path, tmp_path: Path, told: Told) -> None:
    config = tmp_path / "options.yaml"
    config.write_text(yaml.safe_dump({"lerning_rate": 1e-5}))
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "bye")])
    said = f"`accord sft` has no option lerning-rate in {config}; did you mean learning-rate?"
    assert told("sft", base, data, "--config", config).startswith(said)
    config.write_text("learning_rate: [1\n")
    assert told("sft", base, data, "--config", config).startswith(f"--config {config} is not valid YAML: line ")
    assert "cannot be read" in told("sft", base, data, "--config", tmp_path / "nowhere.yaml")


def test_the_options_of_another_trainer(base: Path, tmp_path: Path, told: Told) -> None:
    config = tmp_path / "options.yaml"
    theirs = ("base_model", "datasets", "micro_batch_size", "gradient_accumulation_steps", "num_epochs", "lora_r", "rl")
    config.write_text("".join(f"{name}: 1\n" for name in theirs))
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "bye")])
    assert told("sft", base, data, "--config", config) == (
        f"--config {config} has 7 options that `accord sft` does not have: write model for base_model, data for "
        "datasets, batch_size for micro_batch_size times gradient_accumulation_steps, epochs for num_epochs, lora_rank "
        "for lora_r; leave out or look up rl; `accord sft --help` lists all options."
    )
    assert "has no option num-train-epochs; did you mean epochs?" in told("sft", base, data, "--num_train_epochs", 3)
    config.write_text("command: dpo\nbeta: 1\n")
    assert told("sft", base, data, "--config", config).startswith(
        f"--config {config} is what a run of `accord dpo` reco"
    )


def test_the_methods_of_another_trainer(base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Preference("hi", "bye", "bad")])
    assert told("simpo", base, data).startswith(
        "there is no command 'simpo', a method of other trainers; the nearest here: dpo, ipo or kto"
    )
    assert told("dpo", base, data, "--loss-type", "hinge").startswith(
        "`accord dpo` has no option loss-type: each loss is a command, dpo (sigmoid, also robust by --label-smoothing)"
    )
    nearest = {name for commands in METHODS.values() for name in re.split(r", | or ", commands)}
    assert nearest - set(COMMANDS) == set() and not METHODS.keys() & set(COMMANDS)


def test_two_rewards_are_one_sum(base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Prompt("hi")])
    twice = told("ppo", base, data, "--reward", "m:f", "--reward", "m:g")
    assert twice == "`accord ppo` takes one --reward: add them up, as 'm:f + m:g'."
    less = told("ppo", base, data, "--reward", "m:f - 0.1 * m:g", "--max-new-tokens", "4")
    assert less.endswith("for a difference write a negative weight, as A + -0.5 * B")


def test_the_names_of_other_trainers_stand_for_options_that_there_are() -> None:
    known = {name for command in COMMANDS for name in options_of(target_of(command))}
    assert set(OURS) - known == set()
    assert not {other for names in OURS.values() for other in names} & (known - {"beta", "reward_model"})


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("eval-steps", "; did you mean eval-every?; `accord sft --help` lists them."),
        ("early-stopping-patience", "; did you mean patience?; `accord sft --help` lists them."),
        ("logging-steps", ": every step is logged; leave it out."),
        ("save-total-limit", ": a run keeps its last two checkpoints, and none once it is done; leave it out."),
    ],
)
def test_other_trainers_options_are_told(option: str, remedy: str, base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "bye")])
    assert told("sft", base, data, f"--{option}", "3") == f"`accord sft` has no option {option}{remedy}"


def test_a_refused_run_leaves_no_folder(base: Path, tmp_path: Path, told: Told) -> None:
    told("sft", base, write_jsonl(tmp_path / "rows.jsonl", [Demonstration(" ".join(["hi"] * 60), "bye")]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"), [("batch-size", 0), ("learning-rate", -1), ("warmup", 2), ("beta", 0), ("max-steps", 0)]
)
def test_a_value_out_of_range(option: str, value: float, base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Preference("hi", "bye", "bad")])
    assert option.replace("-", "_") in told("dpo", base, data, f"--{option}", value)


def test_a_policy_where_a_reward_model_belongs(base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [Prompt("hi")])
    assert f"{base} is not a reward model" in told("ppo", base, data, "--reward", base, "--max-new-tokens", "4")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file in the folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_that_holds_something_else(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_jsonl(tmp_path / "rows.jsonl", [Demonstration("hi", "bye")]), tmp_path / "run"
    run = ("sft", "--model", base, "--data", data, "--out", out, *QUICK)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert accord(*run) == 2
    assert "run holds other files; choose another --out" in capsys.readouterr().err
    assert tree(out) == {"notes.txt": b"mine"}
    (out / "notes.txt").unlink()
    assert accord(*run) == 0
    before = tree(out)
    capsys.readouterr()
    assert accord(*run) == 2
    assert "run holds another run; choose another --out, or continue that run with --resume" in capsys.readouterr().err
    assert accord(*run, "--resume", "--seed", "5") == 2
    assert "was run with seed = 0, not 5" in capsys.readouterr().err
    assert tree(out) == before


@pytest.mark.parametrize("command", ["rloo", "grpo", "raft", "online-dpo", "ipo-md"])
def test_a_group_of_one_where_samples_are_compared(command: str, base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "answer": "4"}])
    feedback = "--judge" if command in ("online-dpo", "ipo-md") else "--reward"
    said = told(command, base, data, feedback, "number", "--group-size", 1)
    assert said == f"group_size must be at least 2, as {command} compares the samples of one prompt, not 1."


@pytest.mark.parametrize(("label", "kind"), [(True, "desirable"), (False, "undesirable")])
def test_labels_of_one_kind(label: bool, kind: str, base: Path, tmp_path: Path, told: Told) -> None:
    rows = [{"prompt": "hi", "completion": word, "label": label} for word in ("bye", "bad")]
    said = told("kto", base, write_jsonl(tmp_path / "rows.jsonl", rows))
    assert said == f"every label is {kind}, and KTO learns from both kinds; add rows of the other."


def test_a_teacher_of_another_vocabulary(base: Path, tmp_path: Path, told: Told) -> None:
    shutil.copytree(base, tmp_path / "teacher")
    file = tmp_path / "teacher" / "tokenizer.json"
    file.write_text(file.read_text().replace('"bye"', '"farewell"'))
    data, teacher = write_jsonl(tmp_path / "rows.jsonl", [Prompt("hi")]), tmp_path / "teacher"
    said = told("distill", base, data, "--teacher", teacher, "--max-new-tokens", 4)
    assert said.startswith(f"the teacher {teacher} and the student {base} have different vocabularies, so ")


@pytest.mark.parametrize(("command", "option"), [("grpo", "--reward"), ("nash-md", "--judge"), ("star", "--verifier")])
def test_a_verifier_without_an_answer_column(command: str, option: str, base: Path, tmp_path: Path, told: Told) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "hi", "gold": "4"}])
    said = told(command, base, data, option, "number", "--max-new-tokens", 4)
    assert said.startswith("row 1 has no column 'answer', which the verifier number reads; the columns there are: gold")


@pytest.mark.parametrize("command", ["sft", "dpo", "reward", "pretrain"])
def test_a_loss_that_is_not_finite(
    command: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, out = tmp_path / "broken", tmp_path / "run"
    shutil.copytree(base, broken)
    weights = load_file(broken / "model.safetensors")
    for name, huge in (("up_proj", 1e30), ("down_proj", 3e38)):  # what is finite, and whose products are not
        weights[f"model.layers.0.mlp.{name}.weight"].fill_(huge)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    kinds: dict[str, list[Any]] = {"sft": [Demonstration("hi", "bye")] * 2, "pretrain": [{"text": "hi bye"}] * 2}
    data = write_jsonl(tmp_path / "rows.jsonl", kinds.get(command, [Preference("hi", "bye", "bad")] * 2))
    assert accord(command, "--model", broken, "--data", data, "--out", out, *QUICK) == 3
    error = " ".join(capsys.readouterr().err.split())
    assert "step 1: the loss of rows 1, 2 is not finite" in error and "Traceback" not in error
    assert not (out / "model").exists()


FUNCTIONS = """
def short(completions, **_):
    return [1.0]

def silent(completions, **_):
    return [1.0] * (len(completions) - 1) + [None]

def broken(completions, **_):
    return [float("nan")] * len(completions)

def empty(completions, **_):
    return None

def by_answer(completions, answer):
    return [1.0] * len(completions)
"""


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            "bad_rewards:short",
            "the reward function bad_rewards:short returned 1 values for 4 completions of rows 1, 2; ",
        ),
        (
            "bad_rewards:silent",
            "--reward bad_rewards:silent gives samples of row 2 a reward that is not finite",
        ),
        (
            "bad_rewards:broken",
            "the reward function bad_rewards:broken returned nan for row 1 (prompt 'hi', completion ",
        ),
        (
            "bad_rewards:empty",
            "the reward function bad_rewards:empty returned None; let it return a list of one value f",
        ),
        (
            "bad_rewards:by_answer",
            "row 1 has no column 'answer', which the reward function bad_rewards:by_answer reads;",
        ),
        ("bad_rewards:nothing", "the module bad_rewards has no function nothing"),
        (
            "no_rewards:nothing",
            "no_rewards:nothing: the module no_rewards cannot be imported (No module named 'no_rewar",
        ),
        ("number", "row 1 has no column 'answer', which the verifier number reads; the columns there are: gold, id"),
        ("number@gold", "row 2, for the verifier number: there is no answer in 'gold' ('five')"),
        (
            "numbr",
            "'numbr' is neither a verifier, nor module:function, nor a URL, nor the folder of a model; did you m",
        ),
        ("regex:(", "the pattern '(' is not a regular expression"),
        ("number + number", "number stands twice in the reward 'number + number'; give it one weight"),
        ("http://127.0.0.1:9/none", "http://127.0.0.1:9/none cannot be reached"),
    ],
)
def test_a_reward_that_is_not_right(
    reward: str, message: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "bad_rewards.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_rewards", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("accord.feedback.remote.time.sleep", lambda seconds: None)
    rows = [{"prompt": "hi", "gold": "4", "id": 1}, {"prompt": "bye", "gold": "five", "id": 2}]
    data, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "samples.jsonl"
    common = ("--model", base, "--data", data, "--out", out, "--n", 2, "--max-new-tokens", 2)
    assert accord("sample", *common, "--reward", reward) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"accord: {message}") and error.count("\n") == 1
    assert not out.exists()

"""Small commands of every kind, and what they leave behind: what must be the same however a command came to its end."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from accord import engine
from accord.cli.table import COMMANDS
from accord.files import LEFT, SUMS
from tests.commands.small import save_model, write_jsonl
from tests.data.conftest import TEMPLATE, WORDS
from tests.engine.tiny import SIZES, policy_of
from tests.trust.disk import Outcome, Plan, run
from tests.trust.power import Tree

PAIRS = [("hi", "bye", "bad"), ("good", "day", "bye"), ("bye", "hello good", "day day")]
SMALL = ["--batch-size", "2", "--dtype", "float32", "--track", "none", "--save-every", "1"]
STEPS = ["--max-steps", "2"]
SAMPLED = ["--max-new-tokens", "4"]
TRAINS = [name for name, command in COMMANDS.items() if command.target.startswith("accord.methods:")]
"""Commands that go on by --resume."""

WORDS_OF: dict[str, list[str]] = {
    "sft": ["--model", "IN/base", "--data", "IN/rows.jsonl", "--watch", "IN/rm", "--watch-data", "IN/prompts.jsonl",
            "--watch-every", "1", "--watch-tokens", "4", *SMALL, *STEPS, "--out", "OUT/run"],
    "dpo": ["--model", "IN/base", "--data", "IN/pairs.jsonl", *SMALL, *STEPS, "--out", "OUT/run"],
    "reward": ["--model", "IN/base", "--data", "IN/pairs.jsonl", "--eval-data", "IN/pairs.jsonl", "--eval-every", "1",
               *SMALL, *STEPS, "--out", "OUT/run"],
    "ppo": ["--model", "IN/base", "--data", "IN/prompts.jsonl", "--reward", "IN/rm", "--watch", "cafe",
            *SMALL, *STEPS, *SAMPLED, "--out", "OUT/run"],
    "star": ["--model", "IN/base", "--data", "IN/answers.jsonl", "--verifier", "regex:(good|bad)", "--rounds", "2",
             "--group-size", "16", "--hint", "{prompt} {answer}", *SMALL, "--max-steps", "1", *SAMPLED,
             "--out", "OUT/run"],
    "sample": ["--model", "IN/base", "--data", "IN/prompts.jsonl", "--n", "2", *SAMPLED,
               "--out", "OUT/a/samples.jsonl"],
    "label": ["--data", "IN/samples.jsonl", "--judge", "ai:IN/judge", "--soft", "--out", "OUT/a/pairs.jsonl"],
    "evaluate models": ["--models.base", "IN/base", "--models.other", "IN/other", "--data", "IN/prompts.jsonl",
                        "--judge", "cafe", "--reference", "base", *SAMPLED, "--dtype", "float32",
                        "--out", "OUT/a/trial"],
    "evaluate comparisons": ["--reward", "IN/rm", "--data", "IN/pairs.jsonl", "--out", "OUT/a/trial"],
    "evaluate overoptimization": ["--model", "IN/base", "--data", "IN/prompts.jsonl", "--n", "4", "--reward", "IN/rm",
                                  "--judge", "cafe", *SAMPLED, "--out", "OUT/a/trial"],
    "score": ["--model", "IN/base", "--data", "IN/pairs.jsonl", "--out", "OUT/a/scores.jsonl"],
    "critique": ["--model", "IN/judge", "--data", "IN/prompts.jsonl", "--rounds", "1", "--direct", "--requests", "2",
                 "--score", "cafe", "--max-new-tokens", "64", "--out", "OUT/a/critique"],
    "run": ["IN/recipe.yaml", "--out", "OUT/runs"],
}  # fmt: skip
"""IN is the folder of the inputs, OUT an empty one."""

WATCHED = ["--watch", "measures:letters", "--watch-data", "IN/prompts.jsonl", "--watch-every", "1",
           "--watch-tokens", "4"]  # fmt: skip
HELD_OUT = ["--eval-data", "IN/pairs.jsonl", "--eval-every", "1"]
OF_USERS = ["--data", "IN/users.jsonl", "--eval-data", "IN/users.jsonl", "--eval-every", "1"]
REWARDED = ["--data", "IN/prompts.jsonl", "--reward", "IN/rm", "--group-size", "2", *SAMPLED, *WATCHED]
JUDGED = ["--data", "IN/prompts.jsonl", "--judge", "cafe", "--group-size", "2", *SAMPLED, *WATCHED]
ROUNDS = ["--data", "IN/answers.jsonl", "--verifier", "regex:(good|bad)", "--rounds", "2", "--group-size", "16",
          *SAMPLED, *WATCHED]  # fmt: skip
TRAININGS: dict[str, list[str]] = {
    "sft": ["--data", "IN/rows.jsonl", *WATCHED],
    "pretrain": ["--data", "IN/texts.jsonl", *WATCHED],
    "reward": ["--data", "IN/pairs.jsonl", *HELD_OUT],
    "preference": ["--data", "IN/pairs.jsonl", *HELD_OUT],
    "dpo": ["--data", "IN/pairs.jsonl", *WATCHED],
    "ipo": ["--data", "IN/pairs.jsonl", *WATCHED],
    "kto": ["--data", "IN/pairs.jsonl", *WATCHED],
    "reinforce": REWARDED,
    "rloo": REWARDED,
    "grpo": REWARDED,
    "ppo": REWARDED,
    "raft": [*REWARDED, "--keep-truncated"],
    "online-dpo": JUDGED,
    "nash-md": JUDGED,
    "ipo-md": JUDGED,
    "star": [*ROUNDS, "--hint", "{prompt} {answer}"],
    "self-consistency": ROUNDS,
    "distill": ["--data", "IN/prompts.jsonl", "--teacher", "IN/other", *SAMPLED, *WATCHED],
    "personal": OF_USERS,
    "fspo": [*OF_USERS, "--given", "1"],
}
"""Every method, with something that is measured as it trains, and so a best/."""

MEASURE = """
from pathlib import Path

def letters(completions):
    Path(__file__).with_name("measured").read_bytes()  # a call by which it is known that it measures
    return [float(sum(map(len, text.split()))) for text in completions]
"""


def write_inputs(folder: Path) -> None:
    """Models, rows and a recipe that the commands name."""
    folder.mkdir(parents=True)
    save_model(folder / "base")
    engine.classifiers.Scorer.on(engine.load.load_model(str(folder / "base"))).save(folder / "rm")
    (folder / "measures.py").write_text(MEASURE)
    (folder / "measured").write_text("")
    write_judge(folder / "judge")
    model = engine.load.load_model(str(folder / "base"))
    model.network.lm_head.weight.data *= 1.5
    model.save(folder / "other")
    rows = {
        "rows": [{"prompt": p, "completion": c} for p, c, _ in PAIRS],
        "pairs": [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PAIRS],
        "users": [{"prompt": p, "chosen": c, "rejected": r, "user": user} for user in ("a", "b") for p, c, r in PAIRS],
        "prompts": [{"prompt": p} for p in ("hi", "good", "bye day")],
        "answers": [{"prompt": p, "answer": a} for p, a in (("hi", "good"), ("hello", "bad"), ("bye day", "bad"))],
        "samples": [{"prompt": p, "completion": c} for p, *both in PAIRS for c in both],
        "texts": [{"text": " ".join(words)} for words in PAIRS],
    }
    for name, some in rows.items():
        write_jsonl(folder / f"{name}.jsonl", some)
    small = {"dtype": "float32", "track": "none", "save-every": 1}
    stages = {
        "sft": {"command": "sft", "model": f"{folder}/base", "data": f"{folder}/rows.jsonl", "max-steps": 2, **small},
        "samples": {"command": "sample", "model": "${sft}/model", "data": f"{folder}/prompts.jsonl", "n": 2,
                    "max_new_tokens": 4},
        "scores": {"command": "score", "model": "${sft}/model", "data": f"{folder}/pairs.jsonl"},
    }  # fmt: skip
    recipe = {"name": "small", "description": "A small one.", "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def write_judge(folder: Path) -> None:
    """A random model that can say A and B."""
    words = [*WORDS, "A", "B"]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(WORDS[1:6])
    config = LlamaConfig(
        **SIZES, vocab_size=len(words), pad_token_id=None, max_position_embeddings=600, initializer_range=0.3
    )
    policy = policy_of(LlamaForCausalLM(config))
    policy.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    policy.tokenizer.chat_template = TEMPLATE
    policy.save(folder)


@dataclass
class Command:
    """A command in a folder of its own, `home`, with the inputs in `in` and the results in `out`."""

    name: str
    home: Path
    before: Callable[[], object] | None = None
    given: list[str] | None = None
    """Its words, where they are others than `WORDS_OF` has."""
    whole: dict[str, Any] = field(default_factory=dict)
    """What it leaves where nothing happens."""

    @property
    def out(self) -> Path:
        return self.home / "out"

    @property
    def words(self) -> list[str]:
        places = {"IN/": f"{self.home}/in/", "OUT/": f"{self.out}/"}
        words = self.given or WORDS_OF[self.name]
        for name, folder in places.items():
            words = [word.replace(name, folder) for word in words]
        return [*self.name.split(), *words]

    def clear(self, tree: Tree | None = None) -> None:
        """Empty the folder of results, or have in it what a disk has."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name, content in sorted((tree or {}).items()):
            path = self.out / name
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content)

    def run(self, plan: Plan | None = None) -> Outcome:
        return run(self.words, self.home, plan, self.before)

    def again(self) -> Outcome:
        """The same command, which is told to go on where that is to be told."""
        more = ["--resume"] if self.name in TRAINS else []
        return run([*self.words, *more], self.home, None, self.before)

    def left(self) -> dict[str, Any]:
        """What there is now."""
        found: dict[str, Any] = {}
        for path in sorted(self.out.rglob("*")):
            name = str(path.relative_to(self.out))
            found[name] = None if path.is_dir() else _result(path)
        return found


def _result(path: Path) -> Any:
    """What of a file must be the same: not the times, nor by which words the command was given."""
    content = path.read_bytes()
    try:
        if path.name == "report.html":
            return len(content) > 0
        if path.name == "metrics.jsonl":
            return [_without(json.loads(line), "seconds", "tokens_per_second") for line in content.splitlines()]
        if path.name == "environment.json":
            return _without(json.loads(content), "command", "git")
        if path.name == "pipeline.json":
            state = json.loads(content)
            return [_without(stage, "seconds", "status") for stage in state["stages"]]
        if path.name == SUMS and path.with_name("metrics.jsonl").exists():  # which has times
            return [
                line for line in content.splitlines() if not line.endswith((b" metrics.jsonl", b" environment.json"))
            ]
        if path.name == ".accord-wrote":  # a note of each write, and the last of a fault may be torn
            return {
                name
                for name in re.findall(rb'^{"name": "(.+)", "sha256": "\w{64}"}$', content, re.M)
                if name != b"report.html"
            }
        if path.name == "README.md":
            return re.sub(r"\d+(\.\d+)? (s|seconds|minutes)\b", "", content.decode())
    except ValueError:
        pass
    return content


def _without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def is_litter(name: str) -> bool:
    """Whether a name is that of something half-done, which the next that writes there clears."""
    return any(LEFT.fullmatch(part) for part in name.split("/"))


def is_harmless(name: str) -> bool:
    """Whether it is what only takes room: checkpoints of a run that has its model, and a lock that nobody holds."""
    return "checkpoints" in name.split("/") or name.endswith(".lock")

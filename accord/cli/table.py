"""The commands: what each calls, what it does in a line, and what it leaves in a stage's folder."""

from __future__ import annotations

from dataclasses import dataclass

RUN = (
    "model", "best", "best.json", "metrics.jsonl", "samples.jsonl", "alarms.jsonl", "composition.jsonl",
    "round-*.jsonl", "config.yaml", "environment.json", "report.html", "tensorboard", "tracking.json",
)  # fmt: skip
"""What a method leaves in its folder."""

WORLD = (
    "init", "corpus.jsonl", "demonstrations*.jsonl", "prompts.jsonl", "train.jsonl", "heldout.jsonl", "heldout-?.jsonl",
    "references.jsonl", "conversations.jsonl", "single.jsonl", "critiques.jsonl", "constitution.yaml", "tasks",
    "comparisons.jsonl", "comparisons-unseen.jsonl", "probes.yaml",
)  # fmt: skip
"""What a small world leaves."""


@dataclass(frozen=True)
class Command:
    """A command as the table has it."""

    target: str
    """The module and the name of what it calls: a function, or a method's class."""
    what: str
    positional: tuple[str, ...] = ()
    """Options that may be given without their names, in this order; the last takes all words left where `takes_all`."""
    takes_all: bool = False
    further: str = ""
    """The argument that gets whatever options the command itself has not."""
    file: str = ""
    """The name, in a stage's folder, of the one file it writes; without one `out` is the folder itself."""
    leaves: tuple[str, ...] = ()
    """Patterns of what is in a stage's folder afterwards, which later stages can name."""
    result: str = ""
    """The file in `out`, where that is a folder, that has the result."""
    says_where: bool = False
    """Whether it says itself where its result is."""
    goes_on: bool = False
    """Whether the same command goes on with what its folder has, without being told to."""


def _method(name: str, what: str) -> Command:
    return Command(f"accord.methods:{name}", what, leaves=RUN)


def _question(name: str, what: str, *leaves: str) -> Command:
    return Command(
        f"accord.evaluate:evaluate_{name}", what, leaves=("evaluation.json", *leaves), result="evaluation.json"
    )


COMMANDS: dict[str, Command] = {
    "demo": Command(
        "accord.cli.pipeline:demo", "from nothing to an aligned model and a report, in a small world", says_where=True
    ),
    "tokenizer": Command("accord.cli.new:tokenizer", "train a tokenizer on text", leaves=("tokenizer*.json",)),
    "new-model": Command(
        "accord.cli.new:new_model", "make an untrained model that reads by a tokenizer", leaves=("config.json",)
    ),
    "pretrain": _method("Pretrain", "teach a model to continue text"),
    "sft": _method("SFT", "fine-tune a model on demonstrations"),
    "data": Command(
        "accord.cli.data:data",
        "show how rows are read, and what is trained on",
        positional=("file",),
        takes_all=True,
        says_where=True,
    ),
    "sample": Command("accord.cli.sample:sample", "sample completions of prompts", file="samples.jsonl"),
    "instruct": Command(
        "accord.cli.instruct:instruct",
        "have a model make instructions and answers from seed tasks",
        leaves=("demonstrations.jsonl", "candidates.jsonl", "evaluation.json"),
        result="demonstrations.jsonl",
        goes_on=True,
    ),
    "critique": Command(
        "accord.cli.critique:critique",
        "have a model criticize and revise its answers by a constitution",
        leaves=("demonstrations.jsonl", "preferences.jsonl", "critiques.jsonl", "evaluation.json"),
        result="demonstrations.jsonl",
        goes_on=True,
    ),
    "label": Command("accord.cli.label:label", "have a judge compare completions", file="comparisons.jsonl"),
    "aggregate": Command(
        "accord.cli.aggregate:aggregate",
        "decide what several annotators' verdicts amount to, by how reliable each is",
        file="comparisons.jsonl",
    ),
    "reward": _method("RewardModel", "fit a reward model to preferences or rankings"),
    "preference": _method("PreferenceModel", "fit a two-argument preference model, which may be cyclic"),
    "personal": _method("PersonalReward", "fit a reward or preference model that reads a user's earlier comparisons"),
    "dpo": _method("DPO", "optimize a policy on preferences directly"),
    "ipo": _method("IPO", "optimize a policy on preferences directly, with a bounded margin"),
    "fspo": _method("FSPO", "optimize a policy that reads a user's earlier comparisons"),
    "kto": _method("KTO", "optimize a policy on completions labeled good or bad"),
    "reinforce": _method("REINFORCE", "optimize a policy against a reward by the plain policy gradient"),
    "rloo": _method("RLOO", "optimize a policy against a reward, each sample judged by its siblings"),
    "grpo": _method("GRPO", "optimize a policy against a reward, each group its own yardstick"),
    "ppo": _method("PPO", "optimize a policy against a reward with a value model"),
    "raft": _method("RAFT", "fine-tune a policy on the best of its own samples"),
    "star": _method("STaR", "fine-tune a policy on its own rationales whose answers are right, in rounds"),
    "self-consistency": _method("SelfConsistency", "fine-tune a policy on the answers most of its samples give"),
    "online-dpo": _method("OnlineDPO", "optimize a policy on a judge's preferences between its samples"),
    "nash-md": _method("NashMD", "optimize a policy against opponents made of itself, by a judge"),
    "ipo-md": _method("IPOMD", "the same by regression on pairs of samples"),
    "distill": _method("Distill", "make a student say what its teacher would, on its own samples"),
    "annotate serve": Command(
        "accord.cli.annotate_serve:serve",
        "serve the pages where people compare, rank, rate and write",
        file="annotations.jsonl",
        says_where=True,
    ),
    "annotate people": Command(
        "accord.cli.annotate:people", "make and end the links of people who annotate", says_where=True
    ),
    "annotate status": Command(
        "accord.cli.annotate:show_status", "show how far people are and how far they agree", says_where=True
    ),
    "annotate export": Command(
        "accord.cli.annotate:export", "write what people answered as rows", file="annotations.jsonl", says_where=True
    ),
    "annotate curve": Command(
        "accord.cli.annotate_curve:learning_curve",
        "measure what the labels so far have bought, and what more would",
        leaves=("evaluation.json",),
        result="evaluation.json",
    ),
    "score": Command("accord.cli.score:score", "the log-probability a model gives to completions", file="scores.jsonl"),
    "evaluate models": _question("models", "win rates, scores and KL of models on held-out prompts", "wins.jsonl"),
    "evaluate comparisons": _question("comparisons", "how well a reward model agrees with held-out judgments"),
    "evaluate personal": _question("personal", "how well models of preferences know users by a few of their choices"),
    "evaluate users": _question("users", "how often users prefer what policies answer, given a few of their choices"),
    "evaluate agreement": _question("agreement", "how far annotators agree, and the ceiling this sets for a model"),
    "evaluate judge": _question("judge", "how far a judge agrees with people, and its biases of position and length"),
    "evaluate frontier": _question("frontier", "reward against divergence, over methods and prices"),
    "evaluate overoptimization": _question(
        "overoptimization", "where the true reward turns over while the optimized one rises"
    ),
    "evaluate tasks": _question("tasks", "models on clusters of tasks, those held out and others"),
    "evaluate passes": _question("passes", "how often models' samples are right: pass@k and the majority's answer"),
    "evaluate failures": _question(
        "failures",
        "how models fail: instructions, facts, harmful requests, stereotypes, sycophancy, style",
        "answers.jsonl",
    ),
    "evaluate seeds": Command(
        "accord.evaluate:evaluate_seeds",
        "what several runs of one recipe measured, as means over their seeds",
        positional=("runs",),
        takes_all=True,
        leaves=("evaluation.json",),
        result="evaluation.json",
    ),
    "merge": Command(
        "accord.cli.push:merge",
        "write the whole model that an adapter and its base are",
        positional=("model",),
        says_where=True,
    ),
    "export": Command(
        "accord.cli.push:export",
        "write a model as servers read it: bfloat16 safetensors, or a GGUF file",
        positional=("model",),
        says_where=True,
    ),
    "push": Command(
        "accord.cli.push:push",
        "upload a model with its card to the Hugging Face Hub",
        positional=("folder", "repo"),
        says_where=True,
    ),
    "tasks": Command(
        "accord.cli.tasks:tasks", "write demonstrations of all clusters but those held out", file="train.jsonl"
    ),
    "world": Command("accord.cli.world:world", "write the files of a small world with known truth", leaves=WORLD),
    "sweep": Command(
        "accord.cli.sweep:sweep",
        "run a method over a grid of settings, and show what each came to",
        positional=("method",),
        further="options",
        leaves=("evaluation.json",),
        result="evaluation.json",
        goes_on=True,
    ),
    "alarms": Command(
        "accord.cli.alarms:alarms",
        "which alarms would have rung in a run of trl, verl or OpenRLHF, by its log",
        positional=("log",),
        leaves=("evaluation.json",),
        result="evaluation.json",
    ),
    "run": Command(
        "accord.cli.pipeline:run",
        "run the stages of a recipe, those that changed",
        positional=("recipe",),
        further="overrides",
        says_where=True,
    ),
    "chat": Command("accord.cli.chat:chat", "talk with a model, or with two side by side", positional=("model",)),
    "inspect": Command(
        "accord.cli.inspect:inspect",
        "look inside a model as it reads a text",
        positional=("model", "text"),
        says_where=True,
    ),
    "doctor": Command(
        "accord.cli.doctor:doctor",
        "what this machine has, and what a training of a model needs of its memory",
        positional=("model",),
        says_where=True,
    ),
    "plan": Command(
        "accord.cli.plan:plan",
        "what a training on 1 to 1,024 cards holds, moves and takes, before there is one",
        positional=("model",),
        leaves=("evaluation.json",),
        result="evaluation.json",
    ),
    "report": Command(
        "accord.cli.report:report",
        "write the page of a run or of a pipeline, or one that compares several",
        positional=("folder",),
        takes_all=True,
        says_where=True,
    ),
}

FAMILIES = {name.split()[0] for name in COMMANDS if " " in name}
"""Commands of two words, by their first."""

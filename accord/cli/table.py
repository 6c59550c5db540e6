"""The table of commands: the function or class behind each, its line in `accord --help`, and the files it writes."""

from __future__ import annotations

from dataclasses import dataclass

RUN = (
    "model", "best", "best.json", "metrics.jsonl", "samples.jsonl", "alarms.jsonl", "composition.jsonl",
    "round-*.jsonl", "config.yaml", "environment.json", "report.html", "tensorboard", "tracking.json",
)  # fmt: skip
"""The files that a method writes to its folder."""

WORLD = (
    "init", "corpus.jsonl", "demonstrations*.jsonl", "prompts.jsonl", "train.jsonl", "heldout.jsonl", "heldout-?.jsonl",
    "references.jsonl", "conversations.jsonl", "single.jsonl", "critiques.jsonl", "constitution.yaml", "tasks",
    "comparisons.jsonl", "comparisons-unseen.jsonl", "probes.yaml",
)  # fmt: skip
"""The files of a small world."""


@dataclass(frozen=True)
class Command:
    """One command."""

    target: str
    """The module and name of the function, or the class of a method, that it calls."""
    what: str
    """Its line in `accord --help`."""
    positional: tuple[str, ...] = ()
    """Options that may be given without their names, in this order; with `takes_all` the last takes several."""
    takes_all: bool = False
    further: str = ""
    """The argument that collects options which the command does not declare itself."""
    file: str = ""
    """The name of the one file it writes in a stage's folder; without one `out` is the folder itself."""
    leaves: tuple[str, ...] = ()
    """Patterns of the files it writes to a stage's folder, which later stages may name."""
    result: str = ""
    """The file with the result, where `out` is a folder."""
    says_where: bool = False
    """Whether the command itself prints where its result is."""
    continues: bool = False
    """Whether giving the command again continues an interrupted one, without --resume."""


def _method(name: str, what: str) -> Command:
    return Command(f"accord.methods:{name}", what, leaves=RUN)


def _question(name: str, what: str, *leaves: str) -> Command:
    return Command(
        f"accord.evaluate:evaluate_{name}", what, leaves=("evaluation.json", *leaves), result="evaluation.json"
    )


SECTIONS: dict[str, dict[str, Command]] = {
    "start here": {
        "demo": Command(
            "accord.cli.pipeline:demo", "run the whole loop in a small world, down to a report", says_where=True
        ),
        "world": Command("accord.cli.world:world", "write the files of a small world with known truth", leaves=WORLD),
    },
    "models from text": {
        "tokenizer": Command("accord.cli.new:tokenizer", "train a tokenizer on text", leaves=("tokenizer*.json",)),
        "new-model": Command(
            "accord.cli.new:new_model", "make an untrained model that uses a tokenizer", leaves=("config.json",)
        ),
        "pretrain": _method("Pretrain", "teach a model to continue text"),
        "sft": _method("SFT", "fine-tune a model on demonstrations"),
    },
    "data and feedback": {
        "data": Command(
            "accord.cli.data:data",
            "show how rows are read, and which tokens are trained on",
            positional=("file",),
            takes_all=True,
            says_where=True,
        ),
        "sample": Command("accord.cli.sample:sample", "sample completions of prompts", file="samples.jsonl"),
        "instruct": Command(
            "accord.cli.instruct:instruct",
            "have a model write instructions and answers from seed tasks",
            leaves=("demonstrations.jsonl", "candidates.jsonl", "evaluation.json"),
            result="demonstrations.jsonl",
            continues=True,
        ),
        "critique": Command(
            "accord.cli.critique:critique",
            "have a model criticize and revise its answers by a constitution",
            leaves=("demonstrations.jsonl", "preferences.jsonl", "critiques.jsonl", "evaluation.json"),
            result="demonstrations.jsonl",
            continues=True,
        ),
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
            "accord.cli.annotate:show_status", "show people's progress and how far they agree", says_where=True
        ),
        "annotate export": Command(
            "accord.cli.annotate:export",
            "write people's answers as rows",
            file="annotations.jsonl",
            says_where=True,
        ),
        "annotate curve": Command(
            "accord.cli.annotate_curve:learning_curve",
            "measure what the labels so far have gained, and what more would",
            leaves=("evaluation.json",),
            result="evaluation.json",
        ),
        "label": Command("accord.cli.label:label", "have a judge compare completions", file="comparisons.jsonl"),
        "aggregate": Command(
            "accord.cli.aggregate:aggregate",
            "combine annotators' verdicts, weighing each by how reliable they are",
            file="comparisons.jsonl",
        ),
        "score": Command(
            "accord.cli.score:score", "write the log-probability a model gives to completions", file="scores.jsonl"
        ),
        "tasks": Command(
            "accord.cli.tasks:tasks",
            "write instruction-tuning data from clusters of tasks, except those held out",
            file="train.jsonl",
        ),
    },
    "reward and preference models": {
        "reward": _method("RewardModel", "fit a reward model to preferences or rankings"),
        "preference": _method("PreferenceModel", "fit a preference model of two answers, which may be cyclic"),
        "personal": _method("PersonalReward", "fit a model that also reads a user's earlier comparisons"),
    },
    "policies from preferences": {
        "dpo": _method("DPO", "optimize a policy on preferences directly"),
        "ipo": _method("IPO", "optimize a policy on preferences directly, with a bounded margin"),
        "kto": _method("KTO", "optimize a policy on completions labeled good or bad"),
        "fspo": _method("FSPO", "optimize a policy that reads a user's earlier comparisons"),
    },
    "policies from their own samples": {
        "reinforce": _method("REINFORCE", "policy gradient against a reward, in its plainest form"),
        "rloo": _method("RLOO", "policy gradient; a sample's baseline is the mean of the prompt's others"),
        "grpo": _method("GRPO", "policy gradient; a sample is compared with its whole group, with clipping"),
        "ppo": _method("PPO", "policy gradient with a value model and clipping"),
        "raft": _method("RAFT", "fine-tune on the best samples of each prompt"),
        "online-dpo": _method("OnlineDPO", "DPO on pairs of samples that a judge compares"),
        "nash-md": _method("NashMD", "play against a mixture of itself and the reference, by a judge"),
        "ipo-md": _method("IPOMD", "the equilibrium of nash-md, by regression on pairs of samples"),
        "star": _method("STaR", "fine-tune on samples whose answers are right, in rounds"),
        "self-consistency": _method("SelfConsistency", "fine-tune on the answers most samples agree on, in rounds"),
        "distill": _method("Distill", "train a student to say what its teacher would"),
    },
    "evaluation": {
        "evaluate models": _question("models", "win rates, scores and KL of models on held-out prompts", "wins.jsonl"),
        "evaluate comparisons": _question("comparisons", "how well a reward model agrees with held-out judgments"),
        "evaluate agreement": _question("agreement", "how far annotators agree, and the ceiling this sets for a model"),
        "evaluate judge": _question("judge", "how far a judge agrees with people; its position and length biases"),
        "evaluate frontier": _question("frontier", "reward against divergence, over methods and KL penalties"),
        "evaluate overoptimization": _question(
            "overoptimization", "where the true reward turns over while the optimized one rises"
        ),
        "evaluate failures": _question(
            "failures",
            "how models fail: instructions, facts, harm, stereotypes, sycophancy, style",
            "answers.jsonl",
        ),
        "evaluate tasks": _question("tasks", "accuracy on clusters of tasks, held out or trained on"),
        "evaluate passes": _question("passes", "how often samples are right: pass@k and the majority's answer"),
        "evaluate personal": _question("personal", "how well preference models serve users they were not trained on"),
        "evaluate users": _question("users", "how often held-out users prefer the answers of policies"),
        "evaluate seeds": Command(
            "accord.evaluate:evaluate_seeds",
            "means and intervals over several runs of one recipe",
            positional=("runs",),
            takes_all=True,
            leaves=("evaluation.json",),
            result="evaluation.json",
        ),
    },
    "many runs": {
        "run": Command(
            "accord.cli.pipeline:run",
            "run the stages of a recipe that changed",
            positional=("recipe",),
            further="overrides",
            says_where=True,
        ),
        "sweep": Command(
            "accord.cli.sweep:sweep",
            "run a method over a grid of settings, and compare the results",
            positional=("method",),
            further="options",
            leaves=("evaluation.json",),
            result="evaluation.json",
            continues=True,
        ),
        "doctor": Command(
            "accord.cli.doctor:doctor",
            "what this machine has, and how much memory a training needs",
            positional=("model",),
            says_where=True,
        ),
        "plan": Command(
            "accord.cli.plan:plan",
            "what a training on 1 to 1,024 GPUs would hold, send and take",
            positional=("model",),
            leaves=("evaluation.json",),
            result="evaluation.json",
        ),
    },
    "a closer look": {
        "report": Command(
            "accord.cli.report:report",
            "write the page of a run or a recipe, or one that compares several",
            positional=("folder",),
            takes_all=True,
            says_where=True,
        ),
        "alarms": Command(
            "accord.cli.alarms:alarms",
            "which alarms would have rung in a run of trl, verl or OpenRLHF, from its log",
            positional=("log",),
            leaves=("evaluation.json",),
            result="evaluation.json",
        ),
        "chat": Command("accord.cli.chat:chat", "talk with a model, or with two side by side", positional=("model",)),
        "inspect": Command(
            "accord.cli.inspect:inspect",
            "look inside a model as it reads a text",
            positional=("model", "text"),
            says_where=True,
        ),
    },
    "publishing": {
        "merge": Command(
            "accord.cli.push:merge",
            "write an adapter and its base as one model",
            positional=("model",),
            says_where=True,
        ),
        "export": Command(
            "accord.cli.push:export",
            "write a model for servers: bfloat16 safetensors, or a GGUF file",
            positional=("model",),
            says_where=True,
        ),
        "push": Command(
            "accord.cli.push:push",
            "upload a model with its card to the Hugging Face Hub",
            positional=("folder", "repo"),
            says_where=True,
        ),
    },
}
"""The commands under the headings of `accord --help`, in that order."""

COMMANDS: dict[str, Command] = {name: command for section in SECTIONS.values() for name, command in section.items()}

FAMILIES = {name.split()[0] for name in COMMANDS if " " in name}
"""The first words of commands of two words."""

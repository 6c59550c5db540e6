"""The commands: what each calls, what it does in a line, and how its options may be given."""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("accord.cli.small:demo", "from nothing to an aligned model and a report, in a small world"),
    "pretrain": ("accord.methods:Pretrain", "teach a model to continue text"),
    "sft": ("accord.methods:SFT", "fine-tune a model on demonstrations"),
    "sample": ("accord.cli.sample:sample", "sample completions of prompts"),
    "label": ("accord.cli.label:label", "have a judge compare completions"),
    "reward": ("accord.methods:RewardModel", "fit a reward model to preferences or rankings"),
    "preference": ("accord.methods:PreferenceModel", "fit a two-argument preference model, which may be cyclic"),
    "dpo": ("accord.methods:DPO", "optimize a policy on preferences directly"),
    "ipo": ("accord.methods:IPO", "optimize a policy on preferences directly, with a bounded margin"),
    "kto": ("accord.methods:KTO", "optimize a policy on completions labeled good or bad"),
    "reinforce": ("accord.methods:REINFORCE", "optimize a policy against a reward by the plain policy gradient"),
    "rloo": ("accord.methods:RLOO", "optimize a policy against a reward, each sample judged by its siblings"),
    "grpo": ("accord.methods:GRPO", "optimize a policy against a reward, each group its own yardstick"),
    "ppo": ("accord.methods:PPO", "optimize a policy against a reward with a value model"),
    "raft": ("accord.methods:RAFT", "fine-tune a policy on the best of its own samples"),
    "star": ("accord.methods:STaR", "fine-tune a policy on its own rationales whose answers are right, in rounds"),
    "self-consistency": (
        "accord.methods:SelfConsistency",
        "fine-tune a policy on the answers most of its samples give",
    ),
    "online-dpo": ("accord.methods:OnlineDPO", "optimize a policy on a judge's preferences between its samples"),
    "nash-md": ("accord.methods:NashMD", "optimize a policy against opponents made of itself, by a judge"),
    "ipo-md": ("accord.methods:IPOMD", "the same by regression on pairs of samples"),
    "distill": ("accord.methods:Distill", "make a student say what its teacher would, on its own samples"),
    "score": ("accord.cli.label:score", "the log-probability a model gives to completions"),
    "evaluate models": ("accord.evaluate:evaluate_models", "win rates, scores and KL of models on held-out prompts"),
    "evaluate comparisons": (
        "accord.evaluate:evaluate_comparisons",
        "how well a reward model agrees with held-out judgments",
    ),
    "evaluate agreement": (
        "accord.evaluate:evaluate_agreement",
        "how far annotators agree, and the ceiling this sets for a model of them",
    ),
    "evaluate frontier": ("accord.evaluate:evaluate_frontier", "reward against divergence, over methods and prices"),
    "evaluate overoptimization": (
        "accord.evaluate:evaluate_overoptimization",
        "where the true reward turns over while the optimized one rises",
    ),
    "evaluate tasks": ("accord.evaluate:evaluate_tasks", "models on clusters of tasks, those held out and others"),
    "tasks": ("accord.cli.small:tasks", "write demonstrations of all clusters of tasks but those held out"),
    "evaluate passes": (
        "accord.evaluate:evaluate_passes",
        "how often models' samples are right: pass@k and the majority's answer",
    ),
    "run": ("accord.cli.small:run", "run the stages of a recipe, those that changed"),
    "chat": ("accord.cli.chat:chat", "talk with a model, or with two beside each other"),
    "inspect": ("accord.cli.inspect:inspect", "look inside a model as it reads a text"),
    "report": (
        "accord.cli.small:report",
        "write the page of a run or of a pipeline, or one that compares several",
    ),
    "world": ("accord.cli.small:world", "write the files of a small world with known truth"),
}

OPEN = {"run": "overrides"}
"""Commands that take any further options, and the argument that gets them."""

QUESTIONS = {
    "evaluate": {
        "tasks": "tasks",
        "families": "frontier",
        "runs": "overoptimization",
        "annotators": "agreement",
        "models": "models",
        "samples": "models",
        "": "comparisons",
    }
}
"""Commands that ask several questions, and by which option each is known where it is not named; the first counts."""

POSITIONAL = {"run": ("recipe",), "report": ("folder",), "chat": ("model",), "inspect": ("model", "text")}
"""Commands whose first options may be given without their names, in this order."""

SEVERAL = {"report"}
"""Commands of which the last such option takes all the words that come."""

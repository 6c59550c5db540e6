"""Build rewards and judges from the user's names (`accord.feedback.formula`), functions and objects.

Models loaded here compute in the policy's precision, or in float32 without a policy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from accord.console import without_secrets
from accord.data.load import load_data
from accord.data.readers import reader_of
from accord.engine.classifiers import PreferenceNetwork
from accord.engine.config import TemplateOptions
from accord.engine.load import for_leader, load_classifier, load_reward_model
from accord.engine.models import AnyModel, Model
from accord.engine.templates import with_template
from accord.errors import InputError
from accord.feedback.ai import AIJudge, ai_judge, ai_reward
from accord.feedback.asking import with_progress
from accord.feedback.combine import Combined, ensemble, weighted
from accord.feedback.each import ONE, function_reward
from accord.feedback.formula import WORLDS, beats_of, kind_of, require_model, terms
from accord.feedback.functions import FunctionJudge
from accord.feedback.imports import import_function, signature_of
from accord.feedback.judge import Judge, JudgeReward, RewardJudge, ScoreJudge
from accord.feedback.learned import Learned, LearnedJudge, LearnedReward
from accord.feedback.options import JudgeOptions
from accord.feedback.people import Recorded, Simulated
from accord.feedback.ranking import RankingJudge
from accord.feedback.remote import RemoteReward
from accord.feedback.reward import Reward, TextReward
from accord.feedback.rubric import RubricJudge
from accord.feedback.verifiers import verifier_named
from accord.prompting.local import Local


def reward_named(spec: str, policy: Model | None = None) -> Reward:
    """The reward of a name or formula, such as `number` or `runs/rm/model + 0.5 * rewards:brief`.

    `accord.feedback.formula` documents the syntax. A reward model with the policy's vocabulary scores the samples'
    tokens directly. Raises InputError for a term without meaning, or one that names something missing.
    """
    return formula(spec, partial(one_named, policy=policy))


def formula(spec: str, meaning: Callable[[str], Reward]) -> Reward:
    """The weighted sum, or single reward, that `spec` writes; `meaning` builds the reward of a name.

    Raises InputError for an empty term or a repeated name.
    """
    parts = terms(spec)
    if len(parts) == 1 and parts[0][0] is None:
        return meaning(parts[0][1])
    weights = [(1.0 if weight is None else weight, meaning(name)) for weight, name in parts]
    return _weighted([name for _, name in parts], weights, f"the reward {spec!r}")


def one_named(name: str, policy: Model | None = None) -> Reward:
    """The reward of a single name."""
    match kind_of(name):
        case "verifier":
            return verifier_named(name)
        case "ai":
            return ai_reward(name, dtype=_dtype(policy))
        case "beats":
            column, judge = beats_of(name)
            return JudgeReward(judge_named(judge, policy), column)
        case "server":
            return RemoteReward(name)
        case "ensemble":
            return ensemble(name, partial(one_named, policy=policy))
        case "world":
            return TextReward(import_function(WORLDS[name]))
        case "function":
            reward = import_function(name)
            return function_reward(reward, name) if _is_function(reward) else as_reward(reward)
        case _:
            return LearnedReward(_folding(_loaded(load_reward_model, name, policy)), policy)


def as_reward(reward: Any, policy: Model | None = None) -> Reward:
    """Build a reward from a Python argument.

    It may be a name or formula (`reward_named`), a reward model's folder as a `Path`, a function (`FunctionReward`), a
    mapping from any of these to weights (`weighted`), a list of them with weight 1 each, or a `Reward`, which is
    returned unchanged. Raises InputError for anything else, or if it cannot be used.
    """
    if isinstance(reward, str):
        return reward_named(reward, policy)
    if isinstance(reward, Path):
        return LearnedReward(_folding(for_leader(load_reward_model, str(reward), dtype=_dtype(policy))), policy)
    if isinstance(reward, Mapping | list | tuple) and reward:
        parts = reward.items() if isinstance(reward, Mapping) else [(r, 1.0) for r in reward]
        names = [str(getattr(r, "name", "") or getattr(r, "__name__", "") or r) for r, _ in parts]
        weights = [(float(weight), as_reward(r, policy)) for r, weight in parts]
        return _weighted(names, weights, f"the {'mapping' if isinstance(reward, Mapping) else 'list'} of rewards")
    if not callable(reward) or inspect.isclass(reward):
        raise InputError(f"{reward!r} is no reward: give a name, a function, or an object callable with samples")
    return function_reward(reward) if _is_function(reward) else reward


def judge_named(name: str, policy: Model | None = None) -> Judge:
    """The judge of a name.

    A model's folder gives its own judge; `module:function` a `FunctionJudge`, unless the function takes completions, as
    rewards do; `ai:MODEL` or a YAML file a prompted language model; a file of preferences or rankings the people who
    gave them (`Recorded`); a small world its gold reward's preference, without the noise of `labeler_named`. Any other
    reward becomes a judge that prefers the higher reward, with ties for equal ones.

    Raises InputError if the name has no meaning, or names something missing.
    """
    match kind_of(name):
        case "ai":
            return ai_judge(name, dtype=_dtype(policy))
        case "world":
            return ScoreJudge(import_function(WORLDS[name]))
        case "function" if not _names_completions(function := import_function(name)):
            return FunctionJudge(function, name)
        case "model":
            if reader_of(Path(name)) is not None:
                return Recorded(load_data(name), name)
            if len(terms(name)) == 1:
                return LearnedJudge(_loaded(load_classifier, name, policy), policy)
    return RewardJudge(reward_named(name, policy))


def judges_named(
    names: Sequence[str], given: Mapping[str, Any], *, journal: str, agreement: float | None = None
) -> dict[str, Judge]:
    """The judges that a command names, with its `JudgeOptions` and seed in `given`; they show their progress.

    Language models keep journals, numbered if there are several judges. With `agreement` the judges are simulated
    labelers. Raises InputError for an option that no judge uses, or a repeated name.
    """
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(f"the judge {twice} is named twice; name each once.")
    options = JudgeOptions(**{name: value for name, value in given.items() if name != "seed"})
    ai = [name for name in names if agreement is None and kind_of(name) == "ai"]
    of_ai = {field.name for field in fields(JudgeOptions)} - {field.name for field in fields(TemplateOptions)}
    for name in given:
        if name in of_ai and not ai:
            flag = name.replace("_", "-")
            raise InputError(
                f"--{flag} is for language models that judge, such as ai:MODEL, and {' and '.join(names)} is none."
            )
    judges: dict[str, Judge] = {}
    for number, name in enumerate(names, start=1):
        if name in ai:
            own = dict(given)
            end = f".{number}" if len(names) > 1 else ""
            if "journal" in given:
                own["journal"] = f"{given['journal']}{end}"
            judges[name] = ai_judge(name, overrides=own, journal=f"{journal}{end}")
        elif agreement is None:
            judges[name] = judge_named(name)
        else:
            judges[name] = labeler_named(name, agreement, given.get("seed", 0))
        if name not in ai:
            give_template(judges[name], name, options)
    return {name: with_progress(judge) for name, judge in judges.items()}


def labeler_named(name: str, agreement: float, seed: int = 0) -> Simulated:
    """A simulated labeler who agrees with a small world's gold reward with probability `agreement`.

    Raises InputError for an unknown world or an invalid agreement.
    """
    if name not in WORLDS:
        raise InputError(
            f"--agreement simulates people who know a world's truth ({', '.join(WORLDS)}), and {name} is none."
        )
    return Simulated(import_function(WORLDS[name]), agreement, seed)


def as_judge(judge: Any, policy: Model | None = None) -> Judge:
    """Build a judge from a Python argument: a name, a function of `firsts` and `seconds`, or a `Judge`.

    Raises InputError for anything else, or if it cannot be used.
    """
    if isinstance(judge, str | Path):
        return judge_named(str(judge), policy)
    if not callable(judge) or inspect.isclass(judge):
        raise InputError(f"{judge!r} is no judge: give a name, a function, or an object callable with comparisons")
    return FunctionJudge(judge) if _names(judge, "firsts") else judge


def as_measure(measure: Any, policy: Model | None = None) -> Reward | Judge:
    """A reward, or a judge if `measure` cannot score a single answer (`only_compares`).

    Raises InputError if it is neither, or cannot be used.
    """
    if isinstance(measure, str):
        match kind_of(measure):
            case "model" if len(terms(measure)) == 1:
                model = _loaded(load_classifier, measure, policy)
                return (LearnedJudge if isinstance(model, PreferenceNetwork) else LearnedReward)(model, policy)
            case "function":
                measure = import_function(measure)
            case "ai":
                measure = ai_judge(measure, dtype=_dtype(policy))
                measure = measure.rubric if isinstance(measure, RubricJudge) else measure
    return (as_judge if only_compares(measure) else as_reward)(measure, policy)


def models_in(judge: Any) -> Iterator[Learned | Local]:
    """Yield the components of a judge or reward that read texts through a chat template."""
    if isinstance(judge, Learned | Local):
        yield judge
    for part in getattr(judge, "made_of", ()):
        yield from models_in(part)


def give_template(judge: Any, name: str, options: TemplateOptions) -> None:
    """Set the chat template of all models in a newly built judge or reward.

    Raises InputError if it has no model, or the template cannot be used.
    """
    if not options.changes_template:
        return
    models = list(models_in(judge))
    if not models:
        raise InputError(f"--chat-template and --system are for models that read chats, and {name} is none.")
    for reader in models:
        reader.model = options.templated(reader.model)  # type: ignore[type-var]


def only_compares(measure: Any) -> bool:
    """Whether it can only compare: a preference model, people, an AI judge, a function of `firsts`, `seconds`."""
    if isinstance(measure, LearnedJudge):
        return isinstance(measure.model, PreferenceNetwork)
    return isinstance(measure, AIJudge | RankingJudge | FunctionJudge | Recorded) or (
        inspect.isroutine(measure) and _names(measure, "firsts")
    )


def _weighted(names: Sequence[str], weights: Sequence[tuple[float, Reward]], where: str) -> Combined:
    names = [without_secrets(name) for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} stands twice in {without_secrets(where)}; give it one weight")
    return weighted(dict(zip(names, weights, strict=True)))


def _dtype(policy: Model | None) -> str:
    """The dtype for a model loaded for this policy."""
    return "float32" if policy is None else str(policy.dtype).removeprefix("torch.")


def _loaded(load: Callable[..., AnyModel], name: str, policy: Model | None) -> AnyModel:
    """Load the model of a name. Raises InputError, with a similar name, if it cannot be a model's."""
    require_model(name)
    return for_leader(load, name, dtype=_dtype(policy))


def _folding(model: AnyModel) -> AnyModel:
    """The reward model, which reads a system message before the first question where its template has no place for
    one."""
    if model.tokenizer.chat_template is not None:
        model.tokenizer = with_template(model.tokenizer, None, "fold")
    return model


def _is_function(reward: Callable[..., Any]) -> bool:
    """Whether `reward` is a user's function, called with lists by name, rather than a `Reward`."""
    return inspect.isroutine(reward) or isinstance(reward, partial) or _names_completions(reward)


def _names_completions(function: Callable[..., Any]) -> bool:
    return any(_names(function, argument) for argument in ("completions", *ONE))


def _names(function: Callable[..., Any], argument: str) -> bool:
    return argument in signature_of(function, f"the function {getattr(function, '__name__', function)}")

"""Rewards and judges from what users give for them: the names of `accord.feedback.formula`, functions, objects.

Models that are loaded here compute in the precision of the policy they are given for, and in float32 without one.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
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
from accord.errors import InputError, UsersFault, nearest, users_code
from accord.feedback.ai import AIJudge, ai_judge, ai_reward
from accord.feedback.asking import with_progress
from accord.feedback.combine import Combined, ensemble, weighted
from accord.feedback.each import ONE, function_reward
from accord.feedback.formula import VERIFIERS, WORLDS, beats_of, kind_of, terms
from accord.feedback.functions import DEFAULT_TIMEOUT, FunctionJudge, signature_of
from accord.feedback.judge import Judge, JudgeReward, RewardJudge, ScoreJudge
from accord.feedback.learned import Learned, LearnedJudge, LearnedReward
from accord.feedback.options import JudgeOptions
from accord.feedback.people import Recorded, Simulated
from accord.feedback.ranking import RankingJudge
from accord.feedback.remote import RemoteReward
from accord.feedback.reward import Reward, TextReward
from accord.feedback.rubric import RubricJudge
from accord.feedback.verifiers import verifier_named
from accord.limits import within
from accord.prompting.local import Local


def reward_named(spec: str, policy: Model | None = None) -> Reward:
    """The reward that a name or a formula stands for, such as `number` or `runs/rm/model + 0.5 * rewards:brief`.

    `accord.feedback.formula` says what can be written. A reward model of the policy's vocabulary reads its samples'
    tokens. Raises InputError where a term has no meaning, or what it names is not there.
    """
    return formula(spec, partial(one_named, policy=policy))


def formula(spec: str, meaning: Callable[[str], Reward]) -> Reward:
    """The weighted sum that `spec` writes, or the one reward that it names, by the meaning of a name.

    Raises InputError where a term is empty, or one name stands twice.
    """
    parts = terms(spec)
    if len(parts) == 1 and parts[0][0] is None:
        return meaning(parts[0][1])
    weights = [(1.0 if weight is None else weight, meaning(name)) for weight, name in parts]
    return _weighted([name for _, name in parts], weights, f"the reward {spec!r}")


def one_named(name: str, policy: Model | None = None) -> Reward:
    """The reward that a single name stands for."""
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
            return TextReward(imported(WORLDS[name]))
        case "function":
            reward = imported(name)
            return function_reward(reward, name) if _is_function(reward) else as_reward(reward)
        case _:
            return LearnedReward(_loaded(load_reward_model, name, policy), policy)


def as_reward(reward: Any, policy: Model | None = None) -> Reward:
    """A reward from what Python's users give for one.

    That is a name or a formula (`reward_named`), a reward model's folder as a `Path`, a function (`FunctionReward`), a
    mapping of any of these to weights (`weighted`), a list of them, each of which weighs 1, or a `Reward`, which is
    returned as it is. Raises InputError where it is none of these, or cannot be used.
    """
    if isinstance(reward, str):
        return reward_named(reward, policy)
    if isinstance(reward, Path):
        return LearnedReward(for_leader(load_reward_model, str(reward), dtype=_dtype(policy)), policy)
    if isinstance(reward, Mapping | list | tuple) and reward:
        parts = reward.items() if isinstance(reward, Mapping) else [(r, 1.0) for r in reward]
        names = [str(getattr(r, "name", "") or getattr(r, "__name__", "") or r) for r, _ in parts]
        weights = [(float(weight), as_reward(r, policy)) for r, weight in parts]
        return _weighted(names, weights, f"the {'mapping' if isinstance(reward, Mapping) else 'list'} of rewards")
    if not callable(reward) or inspect.isclass(reward):
        raise InputError(f"{reward!r} is no reward: give a name, a function, or an object that is called with samples")
    return function_reward(reward) if _is_function(reward) else reward


def judge_named(name: str, policy: Model | None = None) -> Judge:
    """The judge that a name stands for: of a model's folder, its own; a Python function; or a reward's preference.

    A small world's is its gold reward's preference, which never errs; `labeler_named` errs as people do.
    `module:function` is a `FunctionJudge` unless it names the argument `completions`, as rewards do. A file of
    preferences or rankings is the people who gave them; `ai:MODEL` or a YAML file is a language model that is asked. A
    judge made of a reward prefers the higher one, and calls equal rewards a tie.

    Raises InputError where the name means nothing, or what it names is not there.
    """
    match kind_of(name):
        case "ai":
            return ai_judge(name, dtype=_dtype(policy))
        case "world":
            return ScoreJudge(imported(WORLDS[name]))
        case "function" if not _names_completions(function := imported(name)):
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
    """The judges that a command names, with what it gives of `JudgeOptions`, and a seed; they show how far they are.

    Language models keep journals, which of several judges are numbered as they are named. With an `agreement` they are
    simulated labelers. Raises InputError where what is given is for others, or a judge is named twice.
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
            judges[name] = ai_judge(name, given=own, journal=f"{journal}{end}")
        elif agreement is None:
            judges[name] = judge_named(name)
        else:
            judges[name] = labeler_named(name, agreement, given.get("seed", 0))
        if name not in ai:
            give_template(judges[name], name, options)
    return {name: with_progress(judge) for name, judge in judges.items()}


def labeler_named(name: str, agreement: float, seed: int = 0) -> Simulated:
    """A simulated labeler who agrees with the gold reward of a small world only so often.

    Raises InputError where there is no world of that name, or the agreement is none.
    """
    if name not in WORLDS:
        raise InputError(
            f"--agreement simulates people who know a world's truth ({', '.join(WORLDS)}), and {name} is none."
        )
    return Simulated(imported(WORLDS[name]), agreement, seed)


def as_judge(judge: Any, policy: Model | None = None) -> Judge:
    """A judge from what Python's users give for one: a name, a function of `firsts` and `seconds`, or a `Judge`.

    Raises InputError where it is none of these, or cannot be used.
    """
    if isinstance(judge, str | Path):
        return judge_named(str(judge), policy)
    if not callable(judge) or inspect.isclass(judge):
        raise InputError(
            f"{judge!r} is no judge: give a name, a function, or an object that is called with comparisons"
        )
    return FunctionJudge(judge) if _names(judge, "firsts") else judge


def as_measure(measure: Any, policy: Model | None = None) -> Reward | Judge:
    """What measures a policy: a reward, or a judge where that has no score for one answer alone (`only_compares`).

    Raises InputError where it is neither, or cannot be used.
    """
    if isinstance(measure, str):
        match kind_of(measure):
            case "model" if len(terms(measure)) == 1:
                model = _loaded(load_classifier, measure, policy)
                return (LearnedJudge if isinstance(model, PreferenceNetwork) else LearnedReward)(model, policy)
            case "function":
                measure = imported(measure)
            case "ai":
                measure = ai_judge(measure, dtype=_dtype(policy))
                measure = measure.rubric if isinstance(measure, RubricJudge) else measure
    return (as_judge if only_compares(measure) else as_reward)(measure, policy)


def models_in(judge: Any) -> Iterator[Learned | Local]:
    """What reads texts by a model's chat template, of all that a judge or a reward is made of."""
    if isinstance(judge, Learned | Local):
        yield judge
    for part in getattr(judge, "made_of", ()):
        yield from models_in(part)


def give_template(judge: Any, name: str, options: TemplateOptions) -> None:
    """Have the models of a judge or a reward that was just made read chats by another template.

    Raises InputError where it has none, or the template cannot be used.
    """
    if not options.changes_template:
        return
    models = list(models_in(judge))
    if not models:
        raise InputError(f"--chat-template and --system are for models that read chats, and {name} is none.")
    for reader in models:
        reader.model = options.templated(reader.model)  # type: ignore[type-var]


def only_compares(measure: Any) -> bool:
    """Whether it scores no answer alone: a preference model, people, an AI judge, a function of `firsts`, `seconds`."""
    if isinstance(measure, LearnedJudge):
        return isinstance(measure.model, PreferenceNetwork)
    return isinstance(measure, AIJudge | RankingJudge | FunctionJudge | Recorded) or (
        inspect.isroutine(measure) and _names(measure, "firsts")
    )


def imported(name: str) -> Any:
    """What `module:function` or `path/file.py:function` names.

    Modules are looked for in the working directory too, and what a file imports beside it.

    Raises InputError where the module is not there or cannot be imported, also in time, or has nothing of that name
    that is called.
    """
    module_name, _, attribute = name.rpartition(":")
    is_file = module_name.endswith(".py")
    what = f"the {'file' if is_file else 'module'} {module_name}"
    if is_file and not Path(module_name).expanduser().is_file():
        raise InputError(f"{name}: there is no file {module_name}")
    if not is_file and module_name.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"{name} is of Python's own library, which gives no rewards: write a function that calls it")
    _look_in(os.getcwd())
    try:
        with users_code(what), within(DEFAULT_TIMEOUT):
            module = _run(Path(module_name)) if is_file else importlib.import_module(module_name)
    except UsersFault as fault:
        if isinstance(fault.__cause__, ImportError | SyntaxError):
            raise InputError(f"{name}: {what} cannot be imported ({fault.__cause__})") from fault
        raise
    if not callable(getattr(module, attribute, None)):
        functions = [known for known in dir(module) if callable(getattr(module, known))]
        hint = nearest(attribute, functions, f"; did you mean {module_name}:{{}}?")
        raise InputError(f"{what} has no function {attribute}{hint}")
    return getattr(module, attribute)


def _look_in(folder: str) -> None:
    """Have modules be found in a folder, after all others."""
    if folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
        sys.path.append(folder)
        importlib.invalidate_caches()


def _run(file: Path) -> Any:
    """The module in a file, which runs once, whatever its name: that of another module may be the same."""
    file = file.expanduser().resolve()
    if (name := str(file)) not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None  # of a name that ends in .py
        sys.modules[name] = importlib.util.module_from_spec(spec)  # before it runs, as what it defines looks there
        _look_in(str(file.parent))
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _weighted(names: Sequence[str], weights: Sequence[tuple[float, Reward]], where: str) -> Combined:
    names = [without_secrets(name) for name in names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} stands twice in {without_secrets(where)}; give it one weight")
    return weighted(dict(zip(names, weights, strict=True)))


def _dtype(policy: Model | None) -> str:
    """The precision that a model loaded for the policy computes in."""
    return "float32" if policy is None else str(policy.dtype).removeprefix("torch.")


def _loaded(load: Callable[..., AnyModel], name: str, policy: Model | None) -> AnyModel:
    """The model of that name; InputError where the name cannot be a model's, and was perhaps meant to be another's."""
    if "/" in name or name == "smollm2" or os.path.exists(name):
        return for_leader(load, name, dtype=_dtype(policy))
    hint = nearest(name, [*VERIFIERS, *WORLDS]) or f"; the verifiers are {', '.join(VERIFIERS)}"
    raise InputError(f"{name!r} is neither a verifier, nor module:function, nor a URL, nor the folder of a model{hint}")


def _is_function(reward: Callable[..., Any]) -> bool:
    """Whether it is called with lists by name: a plain function, or an object that names the completions."""
    return inspect.isroutine(reward) or isinstance(reward, partial) or _names_completions(reward)


def _names_completions(function: Callable[..., Any]) -> bool:
    return any(_names(function, argument) for argument in ("completions", *ONE))


def _names(function: Callable[..., Any], argument: str) -> bool:
    return argument in signature_of(function, f"the function {getattr(function, '__name__', function)}")

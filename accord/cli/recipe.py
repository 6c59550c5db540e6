"""Reading recipes: YAML to stages, with blocks of rounds expanded, overrides applied and references replaced.

    stages:
      sft: {command: sft, model: smollm2, data: demonstrations.jsonl}
      rounds:
        repeat: 3
        carry: {policy: ["${sft}/model", "${ppo}/model"]}
        stages:
          samples: {command: sample, model: "${policy}", seed: "${round}", ...}
          ppo: {command: ppo, model: "${policy}", ...}
      evaluation: {command: evaluate models, models: {round-*: "${ppo-*}/model"}, ...}

A block expands to the stages samples-1, ppo-1, samples-2, ... Within it `${ppo}` is the stage of the same round,
`${round}` the round's number, and a carried name has one value in the first round and another, which refers to the
round before, in the others. After the block `${ppo}` is the last round's. An entry with * stands for one per round.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accord.cli.option import in_python
from accord.errors import InputError
from accord.parsing import read_yaml

REFERENCE = re.compile(r"\$\{([\w*-]+)\}")
MISWRITTEN = re.compile(r"\$\{\s*([\w-]+)[^}]*\}|^\$\(?([\w-]+)\)?(?:/|$)|^\{\{\s*([\w-]+)\s*\}\}")
"""Spellings of references in other languages: ${ name }, ${name.model}, $name/model, $(name), {{ name }}."""
BLOCK = {"repeat", "carry", "stages"}
"""The keys of a block of stages."""

MOST_ROUNDS = 1000
"""The most rounds of a block."""

MOST_RANKS = 64
"""The most ranks (processes on this machine) of a stage."""

ROUND = "round"
"""The reference to a round's number within a block."""

Stages = dict[str, dict[str, Any]]
Rounds = dict[str, list[str]]
"""The names of a block's stage in the rounds so far, by its name in the block."""


@dataclass
class Stage:
    """A stage with its resolved options, the earlier stages that each option refers to, and the state of its folder.

    `fingerprint` is that of the settings with which its folder was made, "" where unknown; `stopped` is why its
    training stopped itself; `ranks` is the number of processes that share its work, which changes results only by
    rounding.
    """

    name: str
    command: str
    options: dict[str, Any]
    inputs: dict[str, list[str]] = field(default_factory=dict)
    fingerprint: str = ""
    status: str = "waiting"
    seconds: float = 0.0
    stopped: str = ""
    ranks: int = 1

    def as_json(self) -> dict[str, Any]:
        state = {**asdict(self), "folder": self.name}
        return {name: value for name, value in state.items() if name != "options"}


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe's YAML with a name, its keys checked. Raises InputError where it cannot be read or is not a recipe."""
    recipe = read_yaml(path, "the recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("stages"), dict):
        raise InputError(
            f"the recipe {path} has no `stages`, each a name with a command and its options; a file with the options "
            "of one command is given to that command, as --config."
        )
    unknown = set(recipe) - {"name", "description", "variables", "stages"}
    if unknown:
        raise InputError(
            f"the recipe {path} has an unknown key {sorted(unknown)[0]}; it takes name, description, variables, stages."
        )
    return {"name": path.stem, **recipe}


def resolve(recipe: Mapping[str, Any], folder: Path, overrides: Mapping[str, Any]) -> list[Stage]:
    """The recipe's stages with blocks expanded, overrides applied and references replaced.

    Raises InputError where a block is malformed, an override or a reference names nothing, a name is used twice, or a
    stage has no command, has an `out`, or has `ranks` that are not a number.
    """
    assigned = {key.replace("-", "_"): value for key, value in overrides.items() if "." not in key}
    variables = {name: assigned.get(name, value) for name, value in _variables(recipe).items()}
    stages, rounds = expanded(recipe["stages"], variables)
    _override(stages, rounds, variables, overrides)
    resolved: list[Stage] = []
    for name, options in stages.items():
        if "command" not in options:
            raise InputError(f"stage {name} of the recipe has no command.")
        if "out" in options:
            raise InputError(f"stage {name} of the recipe has an `out`; its results go to a folder of its name.")
        if "overwrite" in options:
            raise InputError(f"stage {name} of the recipe has `overwrite`; give `accord run` --overwrite.")
        folders = {s.name: str(folder / s.name) for s in resolved}
        ranks = _counted(f"`ranks` of stage {name}", options.pop("ranks", 1), variables, MOST_RANKS)
        made = Stage(name, str(options.pop("command")), {}, ranks=ranks)
        for option, value in options.items():
            _require_known(value, {*variables, *folders}, f"stage {name} refers to")
            _require_references(value, {*variables, *folders}, f"stage {name}: {option}")
            made.options[option] = _replaced(value, variables | folders)
            used = [s for s in _references(value) if s in folders]
            if used:
                made.inputs[option] = list(dict.fromkeys(used))
        resolved.append(made)
    return resolved


def _variables(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    variables = recipe.get("variables") or {}
    if not isinstance(variables, Mapping):
        raise InputError(f"`variables` of the recipe must be names with values, not {variables!r}.")
    for name, value in variables.items():
        if _references(value):
            raise InputError(f"variable {name} of the recipe refers to another ({value}): write its value.")
    return variables


def _override(stages: Stages, rounds: Rounds, variables: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Apply overrides to stages: `ppo.seed` sets every round, `ppo-2.seed` one round, which takes precedence."""
    singly = {name: [name] for name in stages}
    for key in overrides:
        stage, dot, _ = key.partition(".")
        is_option = key.rstrip(".") != stage and (stage in rounds or stage in singly)
        if not (is_option if dot else key.replace("-", "_") in variables):
            known = [*variables, *(f"{name}.OPTION" for name in [*rounds, *singly])]
            raise InputError(f"the recipe has no variable or stage option {key}; it has {', '.join(known)}.")
    of_stages = {key: value for key, value in overrides.items() if "." in key}
    for names in (rounds, singly):
        for key, value in of_stages.items():
            stage, option, *inner = key.split(".", 2)
            option = option.replace("-", "_")
            for name in names.get(stage, ()):
                named = stages[name].get(option) or {}
                if inner and not isinstance(named, Mapping):
                    raise InputError(f"--{key}: {option} of stage {name} has no values by name, but is {named}.")
                stages[name][option] = {**named, inner[0]: value} if inner else value


def expanded(stages: Mapping[str, Any], variables: Mapping[str, Any]) -> tuple[Stages, Rounds]:
    """The recipe's stages with blocks expanded into the stages of their rounds, and the names of those.

    Raises InputError where a block is malformed, or a name is used twice.
    """
    plain: Stages = {}
    rounds: Rounds = {}
    for name, options in _checked(stages, "the recipe").items():
        if BLOCK.isdisjoint(options):
            _claim([name], {*variables, *plain, *rounds})
            plain[name] = _written(options, {}, rounds)
        else:
            _write_block(f"block {name} of the recipe", options, variables, plain, rounds)
    return plain, rounds


def _write_block(
    block: str, options: Mapping[str, Any], variables: Mapping[str, Any], plain: Stages, rounds: Rounds
) -> None:
    """Expand a block: add its stages, round by round, to `plain` and `rounds`."""
    unknown = set(options) - BLOCK
    if unknown:
        raise InputError(f"{block} has an unknown key {min(map(str, unknown))}; it takes repeat, carry, stages.")
    stages = _checked(options.get("stages"), block)
    repeat = _counted(f"`repeat` of {block}", options.get("repeat"), variables, MOST_ROUNDS)
    nested = [name for name, inner in stages.items() if not BLOCK.isdisjoint(inner)]
    if nested:
        raise InputError(f"{block} holds the block {nested[0]}; blocks cannot be nested.")
    taken = {*variables, *plain, *rounds}
    carry = _carried(block, options.get("carry") or {}, taken, stages)
    _claim([*stages, *carry, ROUND, *(f"{name}-{k + 1}" for name in stages for k in range(repeat))], taken)
    for k in range(1, repeat + 1):
        carried = {name: _written(first if k == 1 else later, {}, rounds) for name, (first, later) in carry.items()}
        for name in stages:
            rounds[name] = [*rounds.get(name, []), f"{name}-{k}"]
        for name, inner in stages.items():
            plain[f"{name}-{k}"] = _written(inner, {**carried, ROUND: k}, rounds)


def _counted(what: str, count: Any, variables: Mapping[str, Any], most: int) -> int:
    """A count in a recipe, such as `repeat`, from 1 to `most`; on the command line it is a string."""
    _require_known(count, set(variables), f"{what} names")
    text = str(_replaced(count, variables))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InputError(f"{what} must be a whole number from 1 to {most:,}, not {text}.")
    return int(text)


def _carried(block: str, carry: Any, outside: Set[str], inside: Iterable[str]) -> dict[str, list[str]]:
    """The names that a block carries from round to round, each with its value in the first round and in the others."""
    if not isinstance(carry, Mapping):
        raise InputError(f"`carry` of {block} must be names with two values each, not {carry!r}.")
    for name, values in carry.items():
        if not (isinstance(values, list) and len(values) == 2 and set(_references(values[1])) & set(inside)):
            raise InputError(
                f"{block} must carry two values as {name}: one for the first round, and one for the others that refers "
                "to a stage of the round before."
            )
        _require_known(values[0], outside, f"{block} carries")
        _require_known(values[1], {*outside, *inside}, f"{block} carries")
    return {str(name): values for name, values in carry.items()}


def _checked(stages: Any, where: str) -> Stages:
    if not isinstance(stages, Mapping) or not stages:
        raise InputError(f"{where} has no `stages`, each a name with a command and its options.")
    for name, options in stages.items():
        if not re.fullmatch(r"[\w-]+", str(name)):
            raise InputError(f"{where}: a stage's name has letters, digits, - and _ alone, unlike {name!r}; rename it.")
        if not isinstance(options, Mapping):
            shown = "nothing" if options is None else repr(options)
            raise InputError(f"{where}: stage {name} must have a `command` and its options, and has {shown}.")
    if len(set(map(str, stages))) < len(stages):
        raise InputError(f"{where} has two stages of one name, as a number and as a text; rename one of them.")
    return {str(name): in_python(options, f"{where}: stage {name}") for name, options in stages.items()}


def _claim(names: Iterable[str], taken: Set[str]) -> None:
    seen = set(taken)
    for name in names:
        if name in seen:
            raise InputError(f"{name} names two things in the recipe; rename one of them.")
        seen.add(name)


def _written(value: Any, names: Mapping[str, Any], rounds: Rounds) -> Any:
    """Options with `names` replaced, and stages of blocks replaced by those of the last round so far."""
    latest = {stage: f"${{{written[-1]}}}" for stage, written in rounds.items()}
    return _replaced(_spread(value, rounds), {**latest, **names})


def _spread(value: Any, rounds: Rounds) -> Any:
    """Expand entries such as `round-*: ${ppo-*}/model` to one for each round so far."""
    if not isinstance(value, Mapping):
        return value
    spread: dict[str, Any] = {}
    for key, entry in value.items():
        stars = [name for name in _references(entry) if name.endswith("-*") and name[:-2] in rounds]
        if stars and "*" in str(key) and isinstance(entry, str):
            for k, name in enumerate(rounds[stars[0][:-2]], 1):
                spread[str(key).replace("*", str(k))] = _replaced(entry, {stars[0]: f"${{{name}}}"})
        else:
            spread[key] = _spread(entry, rounds)
    return spread


def _references(value: Any) -> list[str]:
    return REFERENCE.findall(json.dumps(value, default=str))


def _require_known(value: Any, names: Set[str], who: str) -> None:
    for name in _references(value):
        if name not in names:
            raise InputError(f"{who} {name}, which is neither a variable nor an earlier stage.")


def _require_references(value: Any, names: Set[str], where: str) -> None:
    """Raise InputError where a text, or one in nested options, refers to a name in another spelling than ours."""
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            _require_references(one, names, where)
    if not isinstance(value, str):
        return
    for match in MISWRITTEN.finditer(REFERENCE.sub("", value)):
        name = next(filter(None, match.groups()))
        if name in names:
            raise InputError(
                f"{where} has {match[0]}, which refers to nothing: write ${{{name}}}, as in ${{{name}}}/model."
            )


def _replaced(value: Any, names: Mapping[str, Any]) -> Any:
    """The value with references to these names replaced; a reference that is the whole value keeps its type."""
    if isinstance(value, Mapping):
        return {_replaced(key, names): _replaced(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_replaced(entry, names) for entry in value]
    if not isinstance(value, str):
        return value
    whole = REFERENCE.fullmatch(value)
    if whole:
        return names.get(whole[1], value)
    return REFERENCE.sub(lambda match: str(names.get(match[1], match[0])), value)

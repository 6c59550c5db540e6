"""Recipes as they are read: references, overrides, and blocks written out round by round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.cli.recipe import Stage, expanded, resolve
from accord.errors import InputError

BLOCK: dict[str, Any] = {
    "repeat": 3,
    "carry": {"policy": ["${sft}/model", "${ppo}/model"], "judge": ["cafe", "${reward}/model"]},
    "stages": {
        "samples": {"command": "sample", "model": "${policy}", "seed": "${round}"},
        "reward": {"command": "reward", "model": "${judge}", "data": "${samples}/samples.jsonl", "name": "r${round}"},
        "ppo": {"command": "ppo", "model": "${policy}", "reward": "${reward}/model", "data": "${data}"},
    },
}
RECIPE: dict[str, Any] = {
    "variables": {"data": "d.jsonl", "rounds": 2},
    "stages": {
        "sft": {"command": "sft", "model": "m", "data": "${data}"},
        "block": BLOCK,
        "evaluation": {
            "command": "evaluate models",
            "models": {"sft": "${sft}/model", "round-*": "${ppo-*}/model", "last": "${ppo}/model"},
            "reward": "${reward-1}/model",
        },
    },
}


def stages(overrides: dict[str, Any] | None = None, **changes: Any) -> dict[str, Stage]:
    """The recipe's stages by name, the block changed."""
    recipe = {**RECIPE, "stages": {**RECIPE["stages"], "block": {**BLOCK, **changes}}}
    return {stage.name: stage for stage in resolve(recipe, Path("o"), overrides or {})}


def test_references_by_hand() -> None:
    recipe = {
        "variables": {"n": 4, "name": "x"},
        "stages": {
            "a": {"command": "sft", "batch-size": "${n}", "data": "${name}-${n}.jsonl"},
            "b": {
                "command": "evaluate models",
                "models": {"one": "${a}/model", "two": ["m", "${a}/n"]},
                "data": "${a}/${name}",
            },
        },
    }
    first, second = resolve(recipe, Path("o"), {"name": "y", "b.limit": "3"})
    assert first.options == {"batch_size": 4, "data": "y-4.jsonl"}  # a whole reference keeps its type
    models = {"one": "o/a/model", "two": ["m", "o/a/n"]}
    assert second.options == {"models": models, "data": "o/a/y", "limit": "3"}
    assert (first.inputs, second.inputs) == ({}, {"models": ["a"], "data": ["a"]})


def test_a_block_by_hand() -> None:
    """It is the recipe that one would have written without it."""
    block = {**BLOCK, "repeat": 2}
    plain, _ = expanded({**RECIPE["stages"], "block": block}, RECIPE["variables"])
    assert list(plain) == ["sft", "samples-1", "reward-1", "ppo-1", "samples-2", "reward-2", "ppo-2", "evaluation"]
    assert plain["samples-1"] == {"command": "sample", "model": "${sft}/model", "seed": 1}
    assert plain["reward-1"] == {
        "command": "reward",
        "model": "cafe",
        "data": "${samples-1}/samples.jsonl",
        "name": "r1",
    }
    assert plain["ppo-1"] == {
        "command": "ppo",
        "model": "${sft}/model",
        "reward": "${reward-1}/model",
        "data": "${data}",
    }
    assert plain["samples-2"] == {"command": "sample", "model": "${ppo-1}/model", "seed": 2}
    assert plain["reward-2"]["model"] == "${reward-1}/model"
    assert plain["ppo-2"]["model"] == "${ppo-1}/model" and plain["ppo-2"]["reward"] == "${reward-2}/model"
    assert plain["evaluation"]["models"] == {
        "sft": "${sft}/model",
        "round-1": "${ppo-1}/model",
        "round-2": "${ppo-2}/model",
        "last": "${ppo-2}/model",
    }
    assert plain["evaluation"]["reward"] == "${reward-1}/model"


def test_stages_of_a_block_resolved() -> None:
    third = stages()["ppo-3"]
    assert third.options == {"model": "o/ppo-2/model", "reward": "o/reward-3/model", "data": "d.jsonl"}
    assert third.inputs == {"model": ["ppo-2"], "reward": ["reward-3"]}
    assert stages()["evaluation"].inputs["models"] == ["sft", "ppo-1", "ppo-2", "ppo-3"]


def test_in_a_block_a_star_stands_for_the_rounds_so_far() -> None:
    check = {"command": "evaluate models", "models": {"round-*": "${ppo-*}/model"}}
    made = stages(stages={**BLOCK["stages"], "check": check})
    assert made["check-1"].options["models"] == {"round-1": "o/ppo-1/model"}
    assert made["check-2"].options["models"] == {"round-1": "o/ppo-1/model", "round-2": "o/ppo-2/model"}


def test_two_blocks_follow_each_other() -> None:
    again = {
        "repeat": "${rounds}",
        "carry": {"policy": ["${ppo}/model", "${dpo}/model"]},
        "stages": {"dpo": {"command": "dpo", "model": "${policy}", "seed": "${round}"}},
    }
    recipe = {**RECIPE, "stages": {**RECIPE["stages"], "more": again}}
    made = {stage.name: stage.options for stage in resolve(recipe, Path("o"), {"rounds": "2"})}
    assert made["dpo-1"] == {"model": "o/ppo-3/model", "seed": 1}
    assert made["dpo-2"] == {"model": "o/dpo-1/model", "seed": 2}
    assert "dpo-3" not in made


def test_overrides_reach_every_round_or_one() -> None:
    for order in (("ppo.max-steps", "ppo-2.max_steps"), ("ppo-2.max_steps", "ppo.max-steps")):
        values = {"ppo.max-steps": 5, "ppo-2.max_steps": 9}
        made = stages({key: values[key] for key in order})
        assert [made[f"ppo-{k}"].options["max_steps"] for k in (1, 2, 3)] == [5, 9, 5]
    assert "max_steps" not in stages({"sft.max_steps": 1})["ppo-1"].options
    assert stages({"evaluation.models.sft": "x"})["evaluation"].options["models"]["sft"] == "x"


def test_a_block_repeats_as_often_as_a_variable_says() -> None:
    assert "ppo-2" in stages(repeat="${rounds}") and "ppo-3" not in stages(repeat="${rounds}")
    assert list(stages({"rounds": "4"}, repeat="${rounds}"))[-2] == "ppo-4"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeat": 0}, "`repeat` of block block of the recipe must be a whole number from 1 to 1,000, not 0"),
        ({"repeat": "-1"}, "from 1 to 1,000, not -1"),
        ({"repeat": 1.5}, "from 1 to 1,000, not 1.5"),
        ({"repeat": True}, "from 1 to 1,000, not True"),
        ({"repeat": None}, "from 1 to 1,000, not None"),
        ({"repeat": "${often}"}, "`repeat` of block block of the recipe names often, which is neither a variable nor"),
        ({"times": 3}, "block block of the recipe has an unknown key times; it takes repeat, carry, stages"),
        ({"stages": None}, "block block of the recipe has no `stages`"),
        ({"stages": {"ppo": "ppo"}}, "block block of the recipe: stage ppo must have a `command` and its options"),
        ({"stages": {"inner": BLOCK}}, "holds the block inner; blocks cannot be nested"),
        ({"stages": {"ppo": {"model": "x"}}, "carry": None}, "stage ppo-1 of the recipe has no command"),
        ({"carry": ["policy"]}, "`carry` of block block of the recipe must be names with two values each"),
        ({"carry": {"policy": "${ppo}/model"}}, "must carry two values as policy"),
        ({"carry": {"policy": ["sft", "ppo"]}}, "for the others that refers to a stage of the round before"),
        ({"carry": {"policy": ["${dpo}", "${ppo}"]}}, "block block of the recipe carries dpo, which is neither"),
        ({"carry": {"policy": ["${ppo}", "${ppo}"]}}, "carries ppo, which is neither a variable nor an earlier stage"),
        ({"carry": {"policy": ["${sft}", "${ppo}${dpo}"]}}, "carries dpo, which is neither"),
        ({"carry": {}}, "stage samples-1 refers to policy, which is neither a variable nor an earlier stage"),
        ({"carry": {"data": ["x", "${ppo}"]}}, "data names two things in the recipe"),
        ({"carry": {"ppo": ["x", "${ppo}"]}}, "ppo names two things"),
        ({"carry": {"round": ["x", "${ppo}"]}}, "round names two things"),
        ({"stages": {"sft": {"command": "sft"}}, "carry": None}, "sft names two things"),
        ({"stages": {"a": {"command": "sft"}, "a-2": {"command": "sft"}}, "carry": None}, "a-2 names two things"),
        ({"stages": {"evaluation": {"command": "sft"}}, "carry": None}, "evaluation names two things"),
        (
            {"stages": {"a": {"command": "sft", "model": "${b}"}, "b": {"command": "sft"}}, "carry": None},
            "stage a-1 refers to b-1, which is neither a variable nor an earlier stage",
        ),
    ],
)
def test_what_is_wrong_with_a_block(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        stages(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_overrides_and_stars_cannot_name() -> None:
    with pytest.raises(
        InputError, match=r"no variable or stage option ppo-4\.seed; it has data, rounds, samples\.OPTION"
    ):
        stages({"ppo-4.seed": 1})
    with pytest.raises(InputError, match="no variable or stage option block.repeat"):
        stages({"block.repeat": 1})
    recipe = {"stages": {"a": {"command": "evaluate models", "models": {"m-*": "${ppo-*}/model"}}}}
    with pytest.raises(InputError, match=r"stage a refers to ppo-\*, which is neither"):
        resolve(recipe, Path("o"), {})

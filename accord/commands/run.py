"""`accord run`: the stages of a recipe."""

from __future__ import annotations

from pathlib import Path

from accord.pipeline import run_pipeline


def run(recipe: str, *, out: str | None = None, overrides: dict[str, str] | None = None) -> Path:
    """Run the stages of a recipe in order, those whose inputs or settings have changed; then write the report.

    Every variable of the recipe and every option of a stage is an option here: --data pairs.jsonl sets the variable
    `data`, --sft.max-steps 10 the option of the stage `sft`.

    Args:
        recipe: the YAML file.
        out: the folder for the stages' results; by default runs/ and the recipe's name.
        overrides: values for variables and for stages' options, by name.
    """
    return run_pipeline(recipe, out or f"runs/{Path(recipe).stem}", overrides)

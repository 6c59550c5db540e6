"""What was answered, as the records of Argilla 2 or the tasks of Label Studio: one for each item, everybody's answers
in it.

Both name what is asked about and what is answered alike:

    compare     prompt, response_1, response_2          preference (response_1, response_2 or tie), strength
    rank        prompt, response_1, ... response_K      ranking
    rate        prompt, response                        a rating for every scale
    write       prompt                                  completion
    edit        prompt, rejected                        chosen, critique

and a `comment`. What the tools have no place for (the pseudonym, the order shown, the guideline's version ...) is JSON
in the column `accord`, by the tool's users, from which `accord.data.exports` has it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import NAMESPACE_OID, uuid5

from accord.annotate.export import Exported
from accord.console import without_halves
from accord.data.exports import ANSWERS_COLUMN
from accord.errors import InputError
from accord.files import line_of
from accord.outputs import save_rows, save_text

Form = Literal["accord", "argilla", "label-studio"]
ROWS: Form = "accord"

NATIVE = {"prompt", "chosen", "rejected", "completion", "completions", "ranks", "ratings", "tied"}
"""Columns that fields and questions hold, and from which they are read back."""


def _item_fields(task: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """An item's content, by field."""
    match task:
        case "compare" | "rank":
            answers = {f"response_{i}": answer for i, answer in enumerate(content["answers"], start=1)}
            return {"prompt": content["prompt"], **answers}
        case "rate":
            return {"prompt": content["prompt"], "response": content["completion"]}
        case "write":
            return {"prompt": content["prompt"]}
        case "edit":
            return {"prompt": content["prompt"], "rejected": content["original"]}
    raise InputError(f"items of the task {task} ask about nothing, so other tools have no form for them: use accord's.")


def _answer_values(task: str, content: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """One annotator's answer, by question; a ranking by field."""
    answers = {name: row[name] for name in ("strength", "critique", "comment") if row.get(name)}
    match task:
        case "compare":
            which = f"response_{1 + content['answers'].index(row['chosen'])}"
            return {"preference": "tie" if row.get("tied") else which, **answers}
        case "rank":
            return {"ranking": {f"response_{i}": rank for i, rank in enumerate(row["ranks"], start=1)}, **answers}
        case "rate":
            return {**row["ratings"], **answers}
    name = "completion" if task == "write" else "chosen"
    text = row[name] if isinstance(row[name], str) else row[name][0]["content"]
    return {name: text, **answers}


def _by_item(exported: Exported) -> dict[str, list[dict[str, Any]]]:
    items: dict[str, list[dict[str, Any]]] = {}
    for row in exported.rows:
        items.setdefault(row["item"], []).append(row)
    return items


def _rest(rows: Sequence[Mapping[str, Any]], user: Callable[[str], Any], questions: set[str]) -> str:
    """Everything that no field or question holds, as JSON by user."""
    kept = {str(user(r["annotator"])): {n: v for n, v in r.items() if n not in NATIVE | questions} for r in rows}
    return line_of(kept, allow_nan=True).rstrip()


def argilla(exported: Exported) -> list[dict[str, Any]]:
    """Records as read by `rg.Dataset.records.from_json` and `rg.Record.from_dict` of Argilla 2.8.

    Users are identified by UUIDs derived from the pseudonyms (`argilla_user`). A ranking has the rank of each field, so
    ties are kept. A model's suggestion is exported as one.

    Raises InputError for a task whose items have no content.
    """
    records = []
    for key, rows in _by_item(exported).items():
        content = exported.contents[key]
        fields = _item_fields(exported.task, content)
        responses: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            for question, value in _answer_values(exported.task, content, row).items():
                if isinstance(value, dict):
                    value = [{"value": field, "rank": rank + 1} for field, rank in value.items()]
                one = {"value": value, "user_id": argilla_user(row["annotator"])}
                responses.setdefault(question, []).append(one)
        suggested = content.get("suggestion")
        suggestion = {"value": suggested, "score": None, "agent": None}
        records.append(
            {
                "id": key,
                "fields": fields,
                "metadata": {ANSWERS_COLUMN: _rest(rows, argilla_user, set(responses))},
                "suggestions": {} if suggested is None else {"completion": suggestion},
                "responses": responses,
                "vectors": {},
            }
        )
    return records


def argilla_user(name: str) -> str:
    """The UUID of a user in Argilla."""
    return str(uuid5(NAMESPACE_OID, name))


def label_studio(exported: Exported) -> list[dict[str, Any]]:
    """Tasks with annotations, in Label Studio's JSON export format, which its import accepts too.

    `completed_by` numbers annotators from 1, in the order of their names. A comparison and its strength are choices,
    since a pairwise result cannot express a tie; a ranking has buckets rank_1, rank_2 ..., with unranked answers in the
    list itself. Seconds are `lead_time`, answers to gold questions `ground_truth`.

    Raises InputError for a task whose items have no content.
    """
    users = {name: number for number, name in enumerate(sorted({row["annotator"] for row in exported.rows}), start=1)}
    tasks, number = [], 0
    for index, (key, rows) in enumerate(_by_item(exported).items(), start=1):
        content = exported.contents[key]
        data = _item_fields(exported.task, content)
        if exported.task == "rank":
            items = [{"id": n, "body": text} for n, text in data.items() if n != "prompt"]
            data = {"prompt": data["prompt"], "items": items}
        annotations, questions = [], set[str]()
        for row in rows:
            number += 1
            values = _answer_values(exported.task, content, row)
            questions |= values.keys()
            annotations.append(
                {
                    "id": number,
                    "completed_by": users[row["annotator"]],
                    "result": [_result(f"{number}-{n}", n, v, row) for n, v in values.items()],
                    "was_cancelled": False,
                    "ground_truth": bool(row.get("gold")),
                    "lead_time": row["seconds"],
                }
            )
        data[ANSWERS_COLUMN] = _rest(rows, users.__getitem__, questions | {"seconds"})
        tasks.append({"id": index, "data": data, "annotations": annotations, "predictions": []})
    return tasks


def _result(key: str, name: str, value: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """One annotation result of a control."""
    kind: str
    held: dict[str, Any]
    kind, held = "textarea", {"text": [value]}
    if isinstance(value, dict):
        unranked = max(value.values()) if row["ranked"] < len(value) else None
        buckets: dict[str, list[str]] = {}
        for item, rank in sorted(value.items(), key=lambda one: one[1]):
            buckets.setdefault("_" if rank == unranked else f"rank_{rank + 1}", []).append(item)
        kind, held = "ranker", {"ranker": buckets}
    elif isinstance(value, int):
        kind, held = "rating", {"rating": value}
    elif name in ("preference", "strength"):
        kind, held = "choices", {"choices": [value]}
    to_name = "items" if kind == "ranker" else "prompt"
    return {"id": key, "from_name": name, "to_name": to_name, "type": kind, "value": held, "origin": "manual"}


def write_exported(out: str | Path, exported: Exported, form: Form) -> Exported:
    """Write the answers in a format, atomically; returns what was written.

    Raises InputError where a JSON format's file does not end in .json, or the format does not support the task.
    """
    if form == ROWS:
        save_rows(out, exported.rows)
        return exported
    if Path(out).suffix != ".json":
        raise InputError(f"--format {form} writes JSON: --out must end in .json, and {out} does not.")
    made = argilla(exported) if form == "argilla" else label_studio(exported)
    save_text(out, without_halves(json.dumps(made, ensure_ascii=False, indent=1)) + "\n")
    return exported

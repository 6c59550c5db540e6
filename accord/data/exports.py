"""Exports of annotation tools, expanded to one row per annotator.

    fields, responses; question.responses       Argilla 2: its records as JSON, nested or flat, and as a dataset
    data, annotations                           Label Studio: its JSON export

Each annotator's row has the item's columns, their answers by question name, and `annotator`. `accord.data.verdicts`
interprets the answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from accord.data.messages import parsed
from accord.data.verdicts import ANSWER, TEXTS, first_key
from accord.errors import InputError, located

Columns = Mapping[str, Any]

ANSWERS_COLUMN = "accord"
"""The column in which `accord annotate export` writes answers that a tool has no field for: JSON, by annotator."""


def expand_annotations(unit: str, rows: Iterator[tuple[int, Any]], notes: list[str]) -> Iterator[tuple[int, Any]]:
    """Expand an annotation tool's items to one row per annotator; other rows pass unchanged.

    Rows are (number, columns). Items nobody answered are left out, with a line added to `notes`; if nobody answered
    any, the items themselves are the rows. Raises InputError, naming the row by `unit` and number, for an object in
    another format than the first.
    """
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    with located(f"{unit} {first[0]}: "):
        parse = next((tool for tool in (_argilla, _argilla_flat, _label_studio) if tool(first[1]) is not None), None)
    if parse is None:
        yield from rows
        return
    read = []
    for number, row in rows:
        with located(f"{unit} {number}: "):
            parsed_item = parse(row)
            if parsed_item is None:
                raise InputError("the object is not in the annotation tool's format that the first one has")
            item, answers = parsed_item
            read.append((number, [_row(item, *answer) for answer in answers] or item))
    unanswered = sum(not isinstance(result, list) for _, result in read)
    if 0 < unanswered < len(read):
        notes.append(f"{unanswered:,} of {len(read):,} items left out, which nobody has answered")
    for number, result in read:
        if isinstance(result, list):
            yield from ((number, row) for row in result)
        elif unanswered == len(read):
            yield number, result


Item = tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]
"""The columns of an annotated item, and each annotator's name with their answers by question."""


def _argilla(record: Any) -> Item | None:
    """Parse a record of Argilla 2's `Record.to_dict`, None if it is none; drafts cannot be told from submissions."""
    if not isinstance(record, Mapping) or not all(isinstance(record.get(n), Mapping) for n in ("fields", "responses")):
        return None
    by_user: dict[str, dict[str, Any]] = {}
    for question, responses in record["responses"].items():
        for one in responses or ():
            if not isinstance(one, Mapping) or not {"value", "user_id"} <= one.keys():
                raise InputError(f"the responses to {question!r} must be objects with value and user_id")
            if one.get("status") in (None, "submitted"):
                by_user.setdefault(str(one["user_id"]), {})[question] = one["value"]
    known = {name: record[name] for name in ("id",) if record.get(name) is not None}
    return {**known, **(record.get("metadata") or {}), **record["fields"]}, list(by_user.items())


_OF_ARGILLA = re.compile(r"(.+)\.(responses(\.(users|status))?|suggestion(\.(score|agent))?)")


def _argilla_flat(record: Any) -> Item | None:
    """Parse a record of Argilla 2's `to_list(flatten=True)` or `to_datasets`, None if it is none."""
    if not isinstance(record, Mapping):
        return None
    questions = [n.removesuffix(".responses") for n in map(str, record) if f"{n}.users" in record]
    if not questions:
        return None
    by_user: dict[str, dict[str, Any]] = {}
    for question in questions:
        values, users = (record[f"{question}.responses{end}"] or [] for end in ("", ".users"))
        states = record.get(f"{question}.responses.status") or [None] * len(users)
        if not len(values) == len(users) == len(states):
            raise InputError(f"{question}.responses has {len(values)} values of {len(users)} users")
        for value, user, state in zip(values, users, states, strict=True):
            if state in (None, "submitted"):
                by_user.setdefault(str(user), {})[question] = value
    rest = {n: v for n, v in record.items() if n != "_server_id" and not _OF_ARGILLA.fullmatch(str(n))}
    return rest, list(by_user.items())


def _label_studio(task: Any) -> Item | None:
    """Parse a task of Label Studio's JSON export, None if it is none; cancelled annotations are skipped."""
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping) or "annotations" not in task:
        return None
    by_user = []
    for one in task["annotations"]:
        if not isinstance(one, Mapping) or not isinstance(one.get("result"), list):
            raise InputError("every one of its annotations must be an object with a result, a list")
        if one.get("was_cancelled"):
            continue
        who = one.get("completed_by")
        who = who.get("id", who.get("email")) if isinstance(who, Mapping) else who
        answers: dict[str, Any] = {}
        for result in one["result"]:
            name, value = _result(result, task["data"])
            if name in answers:
                raise InputError(f"an annotation has two results for {name!r}: leave one out of the export")
            answers[name] = value
        seconds = {} if one.get("lead_time") is None else {"seconds": one["lead_time"]}
        by_user.append(("" if who is None else str(who), {**answers, **seconds}))
    known = {"id": task["id"]} if task.get("id") is not None else {}
    return {**known, **task["data"]}, by_user


def _result(result: Any, data: Columns) -> tuple[str, Any]:
    """The name of a control and its answer; a pairwise answer names the chosen and the rejected object."""
    kind = result.get("type") if isinstance(result, Mapping) else None
    value = result["value"] if kind and isinstance(result.get("value"), Mapping) else {}
    name = str(result.get("from_name")) if kind else ""
    match kind, value:
        case "pairwise", {"selected": "left" | "right" as side}:
            names = result.get("to_name") or ""
            pair = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
            if len(pair) == 2 and all(one in data for one in pair):
                chosen, rejected = pair if side == "left" else pair[::-1]
                return name, {"chosen": chosen, "rejected": rejected}
            return "preference", side
        case "choices", {"choices": list(chosen)}:
            return name, chosen[0] if len(chosen) == 1 else chosen
        case "rating", {"rating": rating}:
            return name, rating
        case "number", {"number": number}:
            return name, number
        case "textarea", {"text": text}:
            return name, "\n".join(text) if isinstance(text, list) else text
        case "ranker", {"ranker": ranked}:
            return name, {"ranker": ranked}
    raise InputError(
        f"the result of {name or 'a control'!r} has type {kind!r}; the types that can be read are pairwise, choices, "
        "rating, number, textarea and ranker"
    )


def _row(asked: Columns, who: str, answers: Columns) -> dict[str, Any]:
    """One annotator's row: the item's columns, with those that a comparison used replaced by its preference."""
    row = {name: value for name, value in asked.items() if name != ANSWERS_COLUMN}
    ours = parsed(asked[ANSWERS_COLUMN]) if isinstance(asked.get(ANSWERS_COLUMN), str) else None
    twice = next((name for name in answers if name in asked), None)
    if twice is not None:
        raise InputError(f"{twice!r} names both a field of the item and a question: rename one")
    numbers = {n: v for n, v in answers.items() if type(v) in (int, float) and n != "seconds"}
    for name, value in answers.items():
        preference = _preference(asked, name, value)
        if preference is not None and {"ranks", "chosen"} & row.keys():
            raise InputError(f"{name!r} is a second comparison of the same answers: leave one out of the export")
        used, added = preference or ((), {name: value})
        row = {n: v for n, v in row.items() if n not in used} | added
    row |= {"annotator": who} if who else {}
    row |= {"ratings": numbers} if numbers else {}
    more = ours.get(who) if isinstance(ours, Mapping) else None
    return row | dict(more) if isinstance(more, Mapping) else row


def _preference(asked: Columns, name: str, value: Any) -> tuple[Sequence[str], dict[str, Any]] | None:
    """The columns a comparing answer used, and its chosen and rejected, or completions and ranks; else None."""
    match value:
        case {"chosen": chosen, "rejected": rejected}:
            return (chosen, rejected), {"chosen": asked[chosen], "rejected": asked[rejected]}
        case {"ranker": ranked}:
            listed = next((n for n, v in asked.items() if isinstance(v, list) and v and all(map(_has_id, v))), "")
            names = ("body", *TEXTS, "html", "title")
            texts = {str(one["id"]): one.get(first_key(one, names)) for one in asked.get(listed, ())}
            return (listed,), _ranking(name, texts, _buckets(name, ranked, texts))
        case [_, _, *_]:
            named = {_plain(column): column for column in asked}
            options = [one.get("value") if isinstance(one, Mapping) else one for one in value]
            columns = [named[_plain(option)] for option in options if _plain(option) in named]
            if len(columns) < len(value):
                return None
            stems = {match[1] for column in columns if (match := ANSWER.fullmatch(column))}
            texts = {n: v for n, v in asked.items() if n in columns or ((m := ANSWER.fullmatch(n)) and m[1] in stems)}
            places = [one.get("rank", i) if isinstance(one, Mapping) else i for i, one in enumerate(value)]
            return tuple(texts), _ranking(name, texts, dict(zip(columns, places, strict=True)))
    return None


def _ranking(name: str, texts: Columns, places: Mapping[str, int]) -> dict[str, Any]:
    """The texts with their places as ranks from 0. Raises InputError unless each text has exactly one place."""
    missing = sorted(texts.keys() ^ places.keys())
    if missing or len(texts) < 2:
        about = f"these do not match: {', '.join(missing)}" if missing else "there is only one"
        raise InputError(f"{name!r} must rank two or more answers, each once; {about}")
    order = sorted(set(places.values()))
    return {"completions": list(texts.values()), "ranks": [order.index(places[one]) for one in texts]}


def _buckets(name: str, ranked: Any, texts: Columns) -> dict[str, int]:
    """Each id's place in a ranker's list or numbered buckets; ids in no bucket share the last place."""
    if isinstance(ranked, list):
        return {str(one): position for position, one in enumerate(ranked)}
    numbers = {bucket: re.search(r"\d+$", bucket) for bucket in ranked if bucket != "_"}
    unordered = [bucket for bucket, number in numbers.items() if number is None]
    if unordered:
        which = ", ".join(unordered)
        raise InputError(f"{name!r} has buckets without an order, {which}: those of ranks end in numbers, as rank_1")
    places = {str(one): int(number[0]) for bucket, number in numbers.items() if number for one in ranked[bucket]}
    return {one: max(places.values(), default=0) + 1 for one in texts} | places


def _has_id(item: Any) -> bool:
    return isinstance(item, Mapping) and "id" in item


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower())

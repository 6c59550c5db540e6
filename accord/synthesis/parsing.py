"""Strict reading of what a model wrote: numbered lists, blocks of Input: and Output:, yes or no, a score.

A model is not trusted to keep to the form: what is not in it is no answer, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from accord.synthesis.tasks import Instance

_ITEM = re.compile(r"^[ \t]*(\d{1,4})[.)](?:[ \t]+|$)", re.MULTILINE)
_LABEL = re.compile(r"^[ \t]*(Input|Output):[ \t]*", re.MULTILINE)
_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_SCORE = re.compile(r"\s*(?:Score:)?\s*([1-5])(?![\d.]*\d)", re.IGNORECASE)
NOTHING = re.compile(r"[\[(<]?(?:none|no input|n/a)[\])>]?\.?", re.IGNORECASE)
"""What stands for no text."""


def on_one_line(text: str) -> str:
    """The text with single spaces in place of all white space."""
    return " ".join(text.split())


def numbered(text: str, firsts: Sequence[int], is_cut: bool = False) -> list[str]:
    """The items of a list that begins with one of these numbers and counts on.

    Nothing but white space may come before the list, which ends where a number is out of turn, an item is empty, or a
    paragraph follows that is no item. The last item of a text that was cut is left out.
    """
    marks = list(_ITEM.finditer(text))
    if not marks or int(marks[0][1]) not in firsts or text[: marks[0].start()].strip():
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    items: list[str] = []
    for i, (mark, end) in enumerate(zip(marks, ends, strict=True)):
        item, _, after = text[mark.end() : end].strip().partition("\n\n")
        is_torn = is_cut and end == len(text) and not after
        if int(mark[1]) != int(marks[0][1]) + i or not item or is_torn:
            break
        items.append(on_one_line(item))
        if after:
            break
    return items


def instances(text: str, order: Sequence[str] = ("Input", "Output"), is_cut: bool = False) -> list[Instance]:
    """The pairs in a text of blocks that begin with `Input:` and `Output:`, in this order.

    Nothing but white space may come before the first label. An input that says that there is none is empty. Where the
    first label is Output and the order has Input first, that instance has no input. The text ends where the labels are
    out of turn, or one follows another at once; the last block of a text that was cut is left out, and so is a pair
    without its second block.
    """
    marks = list(_LABEL.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    blocks = [(mark[1], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    if is_cut:
        blocks.pop()
    if blocks and blocks[0][0] == "Output" and order[0] == "Input":
        blocks.insert(0, ("Input", ""))
    found: list[Instance] = []
    for first, second in zip(blocks[::2], blocks[1::2], strict=False):
        if (first[0], second[0]) != tuple(order) or _LABEL.match(first[1]) or _LABEL.match(second[1]):
            break
        pair = dict((first, second))
        found.append(Instance("" if NOTHING.fullmatch(pair["Input"]) else pair["Input"], pair["Output"]))
    return found


def yes_or_no(text: str) -> bool | None:
    """Whether a text begins with yes or with no; None where it does with neither."""
    match = _YES_NO.match(text)
    return None if match is None else match[1].lower() == "yes"


def score(text: str) -> int | None:
    """The score from 1 to 5 that a text begins with; None where it does with none."""
    match = _SCORE.match(text)
    return None if match is None else int(match[1])

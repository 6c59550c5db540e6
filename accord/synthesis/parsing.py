"""Strict parsing of a model's text: numbered lists, blocks of Input: and Output:, yes or no, a score.

Models do not always follow the format: text outside it is rejected, never guessed.
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
"""Texts that stand for an empty one."""


def on_one_line(text: str) -> str:
    """The text with white space collapsed to single spaces."""
    return " ".join(text.split())


def numbered(text: str, firsts: Sequence[int], is_cut: bool = False) -> list[str]:
    """The items of a numbered list that begins with one of the numbers `firsts`.

    Only white space may precede the list, which ends at a number out of order, an empty item, or a paragraph that is no
    item. The last item of a text that was cut is left out.
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
    """The pairs in a text of alternating blocks `Input:` and `Output:`, in the given order.

    Only white space may precede the first label. An input that says there is none is empty. Where the first label is
    Output though Input should come first, that instance has no input. Parsing ends where labels are out of order or an
    empty block is followed by another label; the last block of a cut text is left out, as is a pair without its second
    block.
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
    read: list[Instance] = []
    for first, second in zip(blocks[::2], blocks[1::2], strict=False):
        if (first[0], second[0]) != tuple(order) or _LABEL.match(first[1]) or _LABEL.match(second[1]):
            break
        pair = dict((first, second))
        read.append(Instance("" if NOTHING.fullmatch(pair["Input"]) else pair["Input"], pair["Output"]))
    return read


def yes_or_no(text: str) -> bool | None:
    """Whether a text begins with yes or no; None for neither."""
    match = _YES_NO.match(text)
    return None if match is None else match[1].lower() == "yes"


def score(text: str) -> int | None:
    """The score from 1 to 5 that a text begins with; None without one."""
    match = _SCORE.match(text)
    return None if match is None else int(match[1])

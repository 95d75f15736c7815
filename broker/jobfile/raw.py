"""What the readers of Markdown and JSON share: a job as it stands in the text, and what is refused where."""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from broker.jobfile.values import shown

NESTING_MAX = 32
"""Levels of lists and mappings in one job, the job itself included."""
TOO_DEEP = f"is nested more than {NESTING_MAX} levels deep"
_DIGITS_MAX = 67
"""Of a whole number: a sign, `0b` and 64 digits."""


@dataclass(frozen=True, slots=True)
class RawJob:
    """The keys of one job, and the lines they stand on. `text` is the body of a Markdown file, None for JSON."""

    line: int
    fields: Mapping[str, JsonValue]
    lines: Mapping[str, int]
    text: str | None = None


class Faults(Exception):
    """(line, reason) of each fault of one job. A reader yields it in place of the job, and goes on where it can."""

    def __init__(self, *faults: tuple[int, str]) -> None:
        super().__init__(faults)
        self.faults = faults


class Refused(Exception):
    """What stands at this index of the text is not taken."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index, self.reason = index, reason


class Lines:
    """Line numbers of a text whose first line is line `first` of its file."""

    def __init__(self, text: str, first: int) -> None:
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._first = first

    def at(self, index: int) -> int:
        return self._first + bisect_left(self._breaks, index)


def whole(text: str) -> int:
    """The integer that `text` (decimal, `0x…` or `0b…`) writes, if any store and any language can hold it."""
    digits = text.replace("_", "")
    if len(digits) > _DIGITS_MAX or not -(2**63) <= (number := int(digits, 0)) < 2**63:
        raise ValueError(f"{shown(text)} does not fit into 64 bits")
    return number


def finite(text: str) -> float:
    """The number that `text` writes; not-a-number and the infinities are a `ValueError`, since JSON has none."""
    try:
        number = float(text.replace("_", ""))
    except ValueError:  # YAML's `.inf` and `.nan`
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{shown(text)} is not a finite number")
    return number

"""Environment variables as they are found: each also as NAME_FILE (a file that holds the value), unknown ones told.

A value that may hold a password never stands in a message.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from services.kernel.errors import PermanentError
from services.kernel.failpoint import VARIABLE as FAILPOINT

PREFIX = "SUBAK_"
TESTS = "SUBAK_TEST_"
"""Variables of the test suite: no service reads them."""


class Fault(NamedTuple):
    """One thing wrong with the environment: which variable, what is wrong, what to set."""

    variable: str
    what: str
    todo: str


class SettingsError(PermanentError):
    """Carries every fault, in the order of the variables' names."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = tuple(sorted(set(faults)))
        lines = "\n".join(f"  {fault.variable}: {fault.what} {fault.todo}" for fault in self.faults)
        super().__init__("setting", f"Wrong or missing settings ({len(self.faults)}):\n{lines}")


class Refused(ValueError):
    """What is wrong with one value, and what to set."""

    def __init__(self, what: str, todo: str) -> None:
        super().__init__(what)
        self.what = what
        self.todo = todo


def at_least(least: float, example: str) -> Callable[[Any], float]:
    """Reads a finite number that is `least` or more. Raises Refused."""

    def number(text: Any) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise Refused(
                f"{str(text)[:80]!r} is no number from {least:g} on.", f"Set it to a number, such as {example}."
            )
        return value

    return number


def given(environ: Mapping[str, str], variable: str, faults: list[Fault]) -> str | None:
    """The variable's value, or the content of the file that NAME_FILE names. An empty one counts as not set."""
    text, file = environ.get(variable, "").strip(), environ.get(f"{variable}_FILE", "").strip()
    if text and file:
        faults.append(Fault(variable, f"Both it and {variable}_FILE are set.", "Set one of them."))
        return None
    if not file:
        return text or None
    try:
        text = Path(file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        faults.append(
            Fault(f"{variable}_FILE", f"{file!r} cannot be read: {reason}.", "Name a file that holds the value.")
        )
        return None
    if not text:
        faults.append(Fault(f"{variable}_FILE", f"{file!r} is empty.", "Name a file that holds the value."))
    if text.startswith("-----BEGIN"):
        faults.append(
            Fault(
                f"{variable}_FILE",
                f"{file!r} is the certificate or key itself.",
                f"Set {variable} to its path instead.",
            )
        )
        return None
    return text or None


def unknown(environ: Mapping[str, str], variables: Iterable[str]) -> list[Fault]:
    """A fault for each variable of ours that means nothing, with the one that was meant."""
    known = {name.removeprefix(PREFIX): name for variable in variables for name in (variable, f"{variable}_FILE")}
    faults = []
    for variable in environ:
        if not variable.startswith(PREFIX) or variable in known.values():
            continue
        if variable == FAILPOINT or variable.startswith(TESTS):
            continue
        near = difflib.get_close_matches(variable.removeprefix(PREFIX), sorted(known), n=1)
        todo = f"Did you mean {known[near[0]]}?" if near else "Take it out of the environment."
        faults.append(Fault(variable, "There is no such setting.", todo))
    return faults

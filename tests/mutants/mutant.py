"""One way to break the product, and the tests that must notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.stack.network import REPOSITORY


class StaleMutantError(Exception):
    """The text that a mutant replaces is not there exactly once: the code has changed, and the mutant must follow."""


@dataclass(frozen=True)
class Mutant:
    """In `file`, `old` (which stands there exactly once) becomes `new`; then at least one of `tests` must fail.

    `needs`: an environment variable without which the tests are skipped, and the mutant is not tried.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    needs: str = ""

    def applied(self, root: Path = REPOSITORY) -> str:
        """The whole file's text with the replacement. Raises StaleMutantError."""
        text = (root / self.file).read_text("utf-8")
        if (found := text.count(self.old)) != 1:
            raise StaleMutantError(f"{self.name}: the text stands {found} times in {self.file}, and should once")
        return text.replace(self.old, self.new)

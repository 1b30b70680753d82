"""Every `subak ...` that a document of this project tells somebody to type is a command that there is, with the options that it takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from services.cli.__main__ import app
from tests.system import test_make

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("services/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    if ".venv" not in path.parts
)
INLINE = re.compile(r"`(subak [^`]+)`")
LINE = re.compile(r"^(?:docker compose run .*|)(subak [a-z][^#\n]*)", re.MULTILINE)
COMMAND = typer.main.get_command(app)


def _typed(document: Path) -> set[str]:
    text = document.read_text("utf-8")
    blocks = "\n".join(re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {found.strip() for found in [*INLINE.findall(prose), *LINE.findall(blocks)]}


def _fault(typed: str) -> str:
    """What is wrong with it; empty: nothing."""
    command: Any = COMMAND
    for word in shlex.split(re.sub(r"[\[\]|]", " ", typed))[1:]:
        if word.startswith("--"):
            known = [option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)]
            if word.partition("=")[0] not in (*known, "--help"):
                return f"{command.name} has no {word}"
        elif hasattr(command, "commands"):
            found = command.commands.get(word.rstrip(",."))
            if found is None:
                return f"there is no {word}" if re.fullmatch(r"[a-z-]+", word) else ""
            command = found
    return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_to_be_typed_can_be_typed(document: Path) -> None:
    wrong = {typed: fault for typed in _typed(document) if (fault := _fault(typed))}
    assert not wrong


OTHERS = {
    "git pull": "how a clone is renewed",
    "pip install mssql-python-odbc": "the tests on SQL Server use it where there is one; the images have it by its hash",
    "pip install pyodbc": "make setup",
    "apt-get install unixodbc": "tests/engines.sh",
    "source .venv/bin/activate": "tests/system/test_make.py",
}
"""Commands that no test types as they stand, and what runs instead."""


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    """Docker's are compared one by one where they are typed: tests/integration/test_readme.py."""
    text = (ROOT / "README.md").read_text("utf-8")
    fenced = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    programs = r"(?:\$ )?(?:\w+=\S+ )*(make|subak|docker|git|pip|apt-get|source) "
    lines = [line for block in fenced.findall(text) for line in block.splitlines()]
    found = [re.split(r"\s{2,}#", line)[0].removeprefix("$ ").strip() for line in lines if re.match(programs, line)]
    found += [span for span in re.findall(r"`([^`\n]+)`", fenced.sub("", text)) if re.match(programs, span)]
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    makes = set(test_make.TYPED) | test_make.IN_CI
    unrun = []
    for command in dict.fromkeys(found):
        words = shlex.split(re.sub(r"[\[\]|]", " ", command))
        if words[0] == "make":
            run = words[1] in makes
        elif words[0] == "subak":
            names = [word.strip(",.") for word in words[1:3] if re.fullmatch(r"[a-z]+,?", word)]
            run = any(
                re.search(pattern, tests)
                for pattern in (",\\s+".join(f'"{name}"' for name in names), f"subak {' '.join(names)}\\b")
            )
        else:
            run = "docker" in command or command in OTHERS
        unrun += [] if run else [command]
    assert len(found) > 60 and unrun == []


def test_the_readme_is_read() -> None:
    typed = _typed(ROOT / "README.md")
    assert {"subak doctor", "subak capture", "subak outlet adopt NAME [--keys-from N]"} <= typed
    assert _fault("subak outlet adopt NAME --keys-of 3") == "adopt has no --keys-of"
    assert _fault("subak outlets list") == "there is no outlets"

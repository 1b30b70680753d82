"""What the tests of an applier share: outlets without processes, each in a database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import FreshDatabase
from tests.contract.outlets import Lines, MakeOutlet, Outlet


@pytest.fixture
def make_outlet(fresh_database: FreshDatabase, engine_name: str) -> Iterator[MakeOutlet]:
    with ExitStack() as last:

        def make(name: str, lines: Lines) -> Outlet:
            outlet = Outlet(name, fresh_database(engine_name, name), lines)
            last.callback(outlet.close)
            return outlet

        yield make

"""Several applications writing at the same time: one thread per till, each with its own seeded writer."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tests.stack.workload import Writer, totals

AWAY_SECONDS = 0.3
"""Before the next try when a till's database does not answer."""

AWAY = frozenset((1053, 1927, 2003, 2006, 2013))
"""What MySQL, MariaDB and their driver call a server that is shutting down, or a connection that is not there or has ended."""


SQL_SERVER_AWAY = re.compile(r"\((904|922|4060|6005|17142|18401)\)|the database system is ")
"""SQL Server's numbers for one that is shutting down, or has not come up whole; and in words, what stands in for it."""


def is_away(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    said = error.orig.args if error.orig else ()
    return bool((said and said[0] in AWAY) or SQL_SERVER_AWAY.search(str(said)))


class Tills:
    """Context manager: tills write until `stop` (or the end of the block); an error of any of them is raised then."""

    def __init__(
        self,
        urls: Mapping[str, URL],
        seed: int | str,
        *,
        pause: float = 0.0,
        patient: bool = False,
        first: int = 1,
        **options: object,
    ) -> None:
        """`pause`: seconds between two transactions of a till. `patient`: one whose database is away tries again. `options`: of `Writer`.

        `first`: the number of the first till. Tills that write to a database after others need numbers of their own: keys and unique
        values come of them.
        """
        self.writers = {
            name: Writer(url, number, seed, peers=[other for other in urls.values() if other != url], **options)  # type: ignore[arg-type]
            for number, (name, url) in enumerate(urls.items(), start=first)
        }
        self._pause = pause
        self._patient = patient
        self.away: Counter[str] = Counter()
        """How often each till's database did not answer."""
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(name, writer), daemon=True)
            for name, writer in self.writers.items()
        ]

    def _work(self, name: str, writer: Writer) -> None:
        count = 0
        try:
            while not self._stop.wait(self._pause):
                try:
                    writer.step()
                    count += 1
                    if count % 25 == 0:
                        writer.refresh()
                except DBAPIError as error:
                    if not (self._patient and is_away(error)):
                        raise
                    self.away[name] += 1
                    self._stop.wait(AWAY_SECONDS)
        except BaseException as error:
            self._errors.append(error)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Counter[str]:
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for writer in self.writers.values():
            writer.close()
        if self._errors:
            raise self._errors[0]
        return totals(self.writers)

    @property
    def deadlocks(self) -> dict[str, int]:
        """How often each application was made a deadlock victim; with one till each, only Subak can be the other."""
        return {name: writer.deadlocks for name, writer in self.writers.items() if writer.deadlocks}

    def __enter__(self) -> Tills:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._stop.is_set():
            self.stop()

"""Several applications writing at the same time: one thread per till, each with its own seeded writer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from types import TracebackType

from sqlalchemy.engine import URL

from tests.stack.workload import Writer, totals


class Tills:
    """Context manager: tills write until `stop` (or the end of the block); an error of any of them is raised then."""

    def __init__(self, urls: Mapping[str, URL], seed: int, *, pause: float = 0.0, **options: object) -> None:
        """`pause`: seconds between two transactions of a till. `options`: of `Writer`."""
        self.writers = {
            name: Writer(url, number, seed, peers=[other for other in urls.values() if other != url], **options)  # type: ignore[arg-type]
            for number, (name, url) in enumerate(urls.items(), start=1)
        }
        self._pause = pause
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(writer,), daemon=True) for writer in self.writers.values()
        ]

    def _work(self, writer: Writer) -> None:
        count = 0
        try:
            while not self._stop.wait(self._pause):
                writer.step()
                count += 1
                if count % 25 == 0:
                    writer.refresh()
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

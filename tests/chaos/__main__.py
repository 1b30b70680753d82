"""`python -m tests.chaos --seconds 600 --seed 7`: one long run; exit code 1, and the line that repeats it, when something is wrong."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.running import ChaosError, replay, run
from tests.stack.network import REPOSITORY
from tests.stack.servers import ENGINES, MissingEngineError, Servers


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None, help="drawn when it is not given")
    parser.add_argument("--engines", default="", help="comma-separated; default: all that are here")
    return parser.parse_args()


def _here(servers: Servers, wanted: list[str]) -> list[str]:
    found = []
    for name in wanted:
        try:
            servers.server(name)
        except MissingEngineError as error:
            print(f"without {name}: {error}", flush=True)
        else:
            found.append(name)
    return found


def main() -> int:
    given = _arguments()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    begun = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - begun:6.1f}  {line}", flush=True)

    servers = Servers()
    (REPOSITORY / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir=REPOSITORY / "build"))
    try:
        engines = _here(servers, given.engines.split(",") if given.engines else list(ENGINES))
        print(replay(seed, given.seconds, engines), flush=True)
        result = run(servers, folder, seed, given.seconds, engines, tell)
    except ChaosError as error:
        print(f"\nFAILED\n{error}", flush=True)
        return 1
    finally:
        servers.stop()
    shutil.rmtree(folder)
    print(f"\nall is well: {result.journal}")
    print(f"{result.looks} looks at the outlets meanwhile; {result.damaged} chunks damaged on their way")
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(result.faults.items())))
    print("died at: " + ", ".join(f"{point} {count}" for point, count in sorted(result.hits.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Read by the python of a container: tries to connect to every address of argv[1] at every port of argv[2] (JSON); prints those that open."""

import asyncio
import json
import sys

SECONDS = 1.5
"""An engine that keeps networks apart drops what does not belong: no answer comes."""

AT_ONCE = 1500


async def is_open(gate: asyncio.Semaphore, address: str, port: int) -> bool:
    async with gate:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), SECONDS)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


async def scan(addresses: list[str], ports: list[int]) -> list[tuple[str, int]]:
    gate = asyncio.Semaphore(AT_ONCE)
    targets = [(address, port) for address in addresses for port in ports]
    found = await asyncio.gather(*(is_open(gate, *target) for target in targets))
    return [target for target, there in zip(targets, found, strict=True) if there]


print(json.dumps(asyncio.run(scan(json.loads(sys.argv[1]), json.loads(sys.argv[2])))))

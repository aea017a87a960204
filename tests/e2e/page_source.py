"""A status page whose numbers a test sets: each line on stdin is a JSON object of changed fields.

Prints its URL, then after each line how many snapshots were taken so far.
Lists in `circuits`, `reservations` and `grades` hold objects of the views' fields.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time

from pt.relayd.http import AdminServer
from pt.relayd.status import CircuitView, GradeView, ReservationView, Snapshot, Totals

VIEWS = {"circuits": CircuitView, "reservations": ReservationView, "grades": GradeView}


class Source:
    def __init__(self) -> None:
        self.started = time.time()
        self.taken = 0
        self.fields: dict[str, object] = {}

    def change(self, line: str) -> None:
        for name, value in json.loads(line).items():
            if name in VIEWS:
                self.fields[name] = tuple(VIEWS[name](**each) for each in value)
            elif name == "totals":
                self.fields[name] = Totals(**value)
            else:
                self.fields[name] = value

    def take(self) -> Snapshot:
        self.taken += 1
        first = Snapshot(
            taken=time.time(), started=self.started, version="0.0", peer_id="12D3KooWnobody"
        )
        return dataclasses.replace(first, **self.fields)


async def main(port: int) -> None:
    source = Source()
    server = AdminServer(source.take, listen=("127.0.0.1", port))
    await server.start()
    print(server.url, flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        source.change(line)
        print(source.taken, flush=True)
    await server.aclose()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))

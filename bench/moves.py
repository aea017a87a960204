"""How long a transfer stands still when its session leaves a relay for a direct path.

    python -m bench.moves [--relay MS ...] [--runs N]

Hosts a and b behind NATs of the laboratory, 50 ms from each other; a `pt relay` on s1, whose link
makes the round trip by way of it as long as `--relay` says.  Both sides send all the time.  Told is
the longest time in which nothing came, at either end, of all that overlap the second after the
move or the tenth before it.  Prints Markdown for RESULTS-lab.md.
"""

from __future__ import annotations

import argparse
import time

from bench import report
from bench.lab_rig import lab_rig
from pt.lab.report import duration
from pt.lab.stats import percentile
from tests.e2e.harness import MIB, local_port, take_waiting
from tests.e2e.relay_rig import SHORT, GapTransfer

SIDE = 12.5
"""One way on the links of a and b, ms."""
BEFORE, AFTER = 0.1, 1.0


def move(relay_rtt: float, seed: int) -> float:
    """Seconds of the longest gap when one session moves."""
    links = dict.fromkeys("ab", f"delay={SIDE:g}") | {"s1": f"delay={relay_rtt / 4 - SIDE:g}"}
    with lab_rig(links, seed=seed, a="eim-apdf", b="eim-apdf") as rig:
        rig.punches = True
        relay = rig.relay()
        listener = rig.listen(rig.a)
        exposer = rig.expose_through(listener.getsockname()[1], relay)
        take_waiting(listener)
        binder = rig.bind_through(exposer, relay)
        both = GapTransfer(rig.dial(local_port(binder)), rig.accept(listener), 1 << 40)
        both.start()
        binder.wait("connected", count=2)
        moved = time.monotonic()
        assert str(binder.matching("connected")[-1]["path"]).startswith("direct/")
        while time.monotonic() < moved + AFTER:  # the transfer goes on meanwhile
            both.wait_for(sum(both.received.values()) + MIB)
        gaps = list(both.gaps)
        both.stop()
    near = [(begin, end) for begin, end in gaps if end > moved - BEFORE]
    return max((end - begin for begin, end in near if begin < moved + AFTER), default=SHORT)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relay", type=float, nargs="+", default=[100.0, 200.0, 450.0])
    parser.add_argument("--runs", type=int, default=20)
    args = parser.parse_args()
    rows = []
    for rtt in args.relay:
        gaps = [move(rtt, seed) for seed in range(1, args.runs + 1)]
        shown = [duration(percentile(gaps, share)) for share in (0.5, 1.0)]
        rows.append([f"{rtt:g} ms", "50 ms", str(len(gaps)), *shown])
    print(report.table(["by the relay", "direct", "moves", "gap p50", "longest"], rows))


if __name__ == "__main__":
    main()

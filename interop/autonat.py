"""AutoNAT v2 with go-libp2p, client and server, over TCP and QUIC, through the laboratory's NATs.

    python -m interop.autonat

A line for each role and transport: of a NAT that lets in anybody the address can be dialed, of one
that lets in only whom was written to it cannot.  Our server is `pt relay`.  A last line for
`pt tcp` with two relays of go-libp2p, in the open and behind a NAT.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from interop.rig import BIN, ROOT, build
from pt.lab.lab import Lab
from pt.lab.machine import Machine

GO: Final = str(BIN / "goautonat-peer")
PT: Final = str(Path(sys.executable).with_name("pt"))
OURS: Final = (sys.executable, "-m", "tests.e2e.autonat_peer")
NATS: Final = (("eim-eif", True), ("eim-apdf", False))
OUTSIDE: Final = "11.100.0.1"
"""The client's NAT, as the internet sees it."""
TIMEOUT: Final = 40.0
ports: Final = itertools.count(5000)


def addresses(server: subprocess.Popen[bytes]) -> Iterator[str]:
    """Where a server serves, as it says."""
    assert server.stdout is not None
    for line in server.stdout:
        said = json.loads(line)
        if "multiaddr" in said and not said["multiaddr"].startswith("/p2p-circuit"):
            yield str(said["multiaddr"])
        elif said.get("event") == "relay_ready":
            yield from (str(each) for each in said["addresses"])


def fact(host: Machine, argv: Sequence[str]) -> dict[str, Any]:
    """The one fact that a client says."""
    done = host.run(argv, timeout=TIMEOUT, check=False, cwd=ROOT)
    if done.returncode:
        return {"error": done.stderr.decode(errors="replace")[-300:].strip()}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def asked(lab: Lab, client: str, server: str, transport: str) -> tuple[bool, str]:
    """Whether a client learns what is true of both NATs, and what it says."""
    right, said = True, []
    for spec, truth in NATS:
        lab.set_nat("a", spec)
        lab.flush("a")
        argv = [*OURS, server, transport]
        if client == "go":
            port = next(ports)
            own = f"udp/{port}/quic-v1" if transport == "quic-v1" else f"tcp/{port}"
            argv = [
                GO,
                "ask",
                "--to",
                server,
                "--own",
                f"/ip4/{OUTSIDE}/{own}",
                "--port",
                str(port),
            ]
            argv += ["--quic"] if transport == "quic-v1" else []
        found = fact(lab["a"], argv)
        right &= found.get("reachable") is truth
        said.append(f"{spec}: {found.get('error') or found['reachable']}")
    return right, ", ".join(said)


def exposed(host: Machine, home: Path, relays: Sequence[str], count: int) -> dict[str, bool]:
    """What `pt tcp` finds out about so many of its addresses."""
    listen = ("/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1")
    argv = [PT, "tcp", "--port", "22", "--id", f"autonat-interop-{host.name}", "--json", "--no-lan"]
    env = {**os.environ, "PT_HOME": str(home / host.name), "PT_NO_PUBLIC": "1"}
    process = host.popen(
        [*argv, "--no-portmap", "--listen", *listen, "--relay", *relays],
        stdout=subprocess.PIPE,
        env=env,
    )
    watchdog = threading.Timer(TIMEOUT, process.kill)
    watchdog.start()
    found: dict[str, bool] = {}
    assert process.stdout is not None
    for line in process.stdout:
        said = json.loads(line)
        if said["event"] == "address_reachability":
            found[said["address"]] = said["reachable"]
        if len(found) == count:
            break
    watchdog.cancel()
    process.terminate()
    process.wait()
    return found


def product(lab: Lab, home: Path, relays: Sequence[str]) -> bool:
    """Whether `pt tcp` learns what is true of a public address, and of one behind a NAT."""
    lab.set_nat("a", "eim-apdf")
    lab.flush("a")
    outside, inside = exposed(lab["b"], home, relays, 2), exposed(lab["a"], home, relays, 1)
    own = f"/ip4/{lab['b'].ip}"
    right = outside == {f"{own}/tcp/4001": True, f"{own}/udp/4001/quic-v1": True}
    right &= all(each.startswith(f"/ip4/{OUTSIDE}/") for each in inside)
    right &= list(inside.values()) == [False]
    print("ok  " if right else "FAIL", f"pt tcp asks go: {outside}, {inside}", flush=True)
    return right


def main() -> None:
    """Print a line a row; exit 1 if one is wrong."""
    build(["goautonat"])
    failed = False
    with (
        tempfile.TemporaryDirectory() as home,
        Lab(a="eim-eif", b="public", public=3, link="delay=5") as lab,
    ):
        ip = lab["s1"].ip
        listen = (f"/ip4/{ip}/tcp/4001", f"/ip4/{ip}/udp/4001/quic-v1")
        ours = lab["s1"].popen(
            [PT, "relay", "--json", "--no-overlay", "--no-stun", "--listen", *listen],
            stdout=subprocess.PIPE,
            env={**os.environ, "PT_HOME": home, "PT_NO_PUBLIC": "1"},
        )
        theirs, others = (
            lab[name].popen([GO, "serve", "--ip", lab[name].ip], stdout=subprocess.PIPE)
            for name in ("s2", "s3")
        )
        servers = {
            name: list(itertools.islice(addresses(process), 2))
            for name, process in (("pt", ours), ("go", theirs), ("go too", others))
        }
        for client, server in (("pt", "go"), ("go", "pt")):
            for transport in ("tcp", "quic-v1"):
                at = next(each for each in servers[server] if f"/{transport}" in each)
                right, detail = asked(lab, client, at, transport)
                failed |= not right
                mark = "ok  " if right else "FAIL"
                print(mark, f"{client} asks {server} {transport:8} {detail}", flush=True)
        relays = [
            next(each for each in servers[name] if "/tcp/" in each) for name in ("go", "go too")
        ]
        failed |= not product(lab, Path(home), relays)
    sys.exit(failed)


if __name__ == "__main__":
    main()

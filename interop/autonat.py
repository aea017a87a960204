"""AutoNAT v2 with go-libp2p, client and server, over TCP and QUIC, through the laboratory's NATs.

    python -m interop.autonat

A line for each role and transport: of a NAT that lets in anybody the address can be dialed, of one
that lets in only whom was written to it cannot.  Our server is `pt relay`.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
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
        if "multiaddr" in said:
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


def main() -> None:
    """Print a line a row; exit 1 if one is wrong."""
    build(["goautonat"])
    failed = False
    with tempfile.TemporaryDirectory() as home, Lab(a="eim-eif", link="delay=5") as lab:
        ip = lab["s1"].ip
        listen = (f"/ip4/{ip}/tcp/4001", f"/ip4/{ip}/udp/4001/quic-v1")
        ours = lab["s1"].popen(
            [PT, "relay", "--json", "--no-overlay", "--no-stun", "--listen", *listen],
            stdout=subprocess.PIPE,
            env={**os.environ, "PT_HOME": home, "PT_NO_PUBLIC": "1"},
        )
        theirs = lab["s2"].popen([GO, "serve", "--ip", lab["s2"].ip], stdout=subprocess.PIPE)
        servers = {
            name: list(itertools.islice(addresses(process), 2))
            for name, process in (("pt", ours), ("go", theirs))
        }
        for client, server in (("pt", "go"), ("go", "pt")):
            for transport in ("tcp", "quic-v1"):
                at = next(each for each in servers[server] if f"/{transport}" in each)
                right, detail = asked(lab, client, at, transport)
                failed |= not right
                mark = "ok  " if right else "FAIL"
                print(mark, f"{client} asks {server} {transport:8} {detail}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()

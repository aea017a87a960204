"""kubo's own daemon and commands, with all that would leave the laboratory switched off.

    kubo = Kubo(host, "11.60.0.1", directory, bootstrap=["/ip4/11.20.0.1/tcp/4001/p2p/…"])
    kubo.ipfs("routing", "get", "/ipns/…")

The node is a server of the DHT like any public one.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from interop.rig import BIN, RigError
from pt.identity.peer_id import PeerId
from pt.kad.messages import PeerInfo
from pt.lab.netns import Host
from pt.wire.multiaddr import Multiaddr

BINARY: Final = BIN / "kubo-peer"
PORT: Final = 4001
API_PORT: Final = 5001
COMMAND_TIMEOUT: Final = 60.0
READY: Final = b"Daemon is ready"
START_TIMEOUT: Final = 30.0


class Kubo:
    """A daemon on a host, until the host is closed."""

    def __init__(
        self,
        host: Host,
        ip: str,
        directory: Path,
        *,
        bootstrap: Sequence[str],
        relay: bool = False,
    ) -> None:
        """`relay`: it relays for strangers with the limits that kubo has, as public nodes do.

        Raises: RigError.
        """
        self._host = host
        self._env = {
            **os.environ,
            "IPFS_PATH": str(directory / "repo"),
            "IPFS_TELEMETRY": "off",
            "HOME": str(directory),
        }
        directory.mkdir(parents=True, exist_ok=True)
        self.ipfs("init", "--empty-repo", "--profile=autoconf-off")
        config = directory / "repo" / "config"
        settings = json.loads(config.read_text())
        _restrict(settings, ip, bootstrap, relay=relay)
        config.write_text(json.dumps(settings))
        identity = PeerId.parse(settings["Identity"]["PeerID"])
        self.info: Final = PeerInfo(identity, (Multiaddr.parse(f"/ip4/{ip}/tcp/{PORT}"),))
        self._log = directory / "daemon.log"
        with self._log.open("wb") as log:
            self._daemon = host.popen(
                [str(BINARY), "daemon", "--migrate=false", "--enable-gc=false"],
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._env,
            )
        self._await_ready()

    @property
    def address(self) -> str:
        """Its multiaddr with its peer id."""
        return str(self.info.addresses[0].with_peer(self.info.id.raw))

    def ipfs(self, *words: str, feed: bytes | None = None, check: bool = True) -> bytes:
        """Run a command of kubo; what it prints.

        Raises: RigError with its complaint, if `check`; subprocess.TimeoutExpired.
        """
        done = self._host.run(
            [str(BINARY), *words], feed=feed, check=False, timeout=COMMAND_TIMEOUT, env=self._env
        )
        if check and done.returncode:
            complaint = (done.stdout + done.stderr).decode(errors="replace")
            raise RigError(f"ipfs {' '.join(words)}: {complaint}")
        return done.stdout + (b"" if check else done.stderr)

    def _await_ready(self) -> None:
        late = threading.Timer(START_TIMEOUT, self._daemon.kill)
        late.start()
        try:
            assert self._daemon.stdout is not None
            said = b""
            while READY not in said:
                line = self._daemon.stdout.readline()
                if not line:
                    complaint = said + self._log.read_bytes()
                    raise RigError(f"kubo does not start: {complaint.decode(errors='replace')}")
                said += line
        finally:
            late.cancel()
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        """Take what it prints, so that it never waits for us."""
        assert self._daemon.stdout is not None
        try:
            while self._daemon.stdout.readline():
                pass
        except ValueError:  # the host was closed
            pass


def _restrict(settings: dict[str, Any], ip: str, bootstrap: Sequence[str], *, relay: bool) -> None:
    """Kad over TCP with those in the laboratory, and nothing else."""
    settings["Addresses"] |= {
        "Swarm": [f"/ip4/{ip}/tcp/{PORT}"],
        "API": f"/ip4/127.0.0.1/tcp/{API_PORT}",
        "Gateway": [],
    }
    settings["Bootstrap"] = list(bootstrap)
    settings["Discovery"]["MDNS"]["Enabled"] = False
    settings["Routing"] = {"Type": "dhtserver", "DelegatedRouters": []}
    settings["Ipns"]["DelegatedPublishers"] = []
    settings["Provide"] = {"Enabled": False}
    settings["AutoNAT"] = {"ServiceMode": "disabled"}
    settings["AutoTLS"] = {"Enabled": False}
    settings["HTTPRetrieval"] = {"Enabled": False}
    settings["Version"] = {"SwarmCheckEnabled": False}
    settings["Plugins"] = {"Plugins": {"telemetry": {"Disabled": True}}}
    settings["Internal"] = {"Libp2pForceReachability": "public"}
    settings["Swarm"] |= {
        "DisableNatPortMap": True,
        "RelayClient": {"Enabled": False},
        "RelayService": {"Enabled": relay},
        "EnableHolePunching": False,
        "Transports": {
            "Network": dict.fromkeys(("QUIC", "WebTransport", "WebRTCDirect"), False),
            "Security": {},
            "Multiplexers": {},
        },
    }

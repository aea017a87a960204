"""miniupnpd on the router of a laboratory's site: PCP, NAT-PMP and UPnP-IGD of a real gateway."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

from pt.lab.nat import INNER, Internet
from pt.lab.netns import DEVICE, Host

__all__ = ["Gateway"]

TABLES = """
table inet filter {
  chain forward { type filter hook forward priority filter; policy accept; jump miniupnpd; }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
add rule inet wall pass ct status dnat accept
"""


class Gateway:
    """The router of `site`, with the daemon on it."""

    def __init__(self, net: Internet, site: str, tmp: Path, *options: str) -> None:
        self.router: Host = net.router(site)
        self._config = tmp / f"miniupnpd-{site}.conf"
        self._log = tmp / f"miniupnpd-{site}.log"
        self._pid = tmp / f"miniupnpd-{site}.pid"
        lines = [f"ext_ifname={DEVICE}", f"listening_ip={INNER}", "enable_natpmp=yes"]
        lines += ["enable_upnp=yes", "secure_mode=yes", "system_uptime=no", f"uuid={uuid.uuid4()}"]
        lines += ["min_lifetime=60", "max_lifetime=86400", *options]
        lines += ["allow 1024-65535 192.168.0.0/16 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
        self._config.write_text("\n".join(lines) + "\n")
        self.router.nft(TABLES)
        self._process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start the daemon; it remembers nothing of an earlier one."""
        argv = ["miniupnpd", "-d", "-f", str(self._config), "-P", str(self._pid)]
        with self._log.open("ab") as log:
            self._process = self.router.popen(argv, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        """Stop it, as if the power failed."""
        self._process.kill()
        self._process.wait()
        self._pid.unlink(missing_ok=True)
        for chain in ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"):
            self.router.nft(f"flush chain inet filter {chain}\n")

    def reboot(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    @property
    def rules(self) -> str:
        """What it has made, as nft tells."""
        done = self.router.run(["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"])
        return done.stdout.decode()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

"""miniupnpd on the router of a laboratory's site: PCP, NAT-PMP and UPnP-IGD of a real gateway."""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path

from pt.lab.nat import INNER, Internet
from pt.lab.netns import DEVICE, Host
from pt.portmap.mapping import Service
from tests.e2e.harness import TIMEOUT

__all__ = ["Gateway"]

TABLES = """
table inet igd {
  chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
  chain postrouting { type nat hook postrouting priority srcnat; jump postrouting_miniupnpd; }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
table inet wall {
  chain miniupnpd { }
}
insert rule inet wall pass jump miniupnpd
table inet deaf {
  chain own { type filter hook input priority filter - 1; }
}
"""
CHAINS = ("igd prerouting_miniupnpd", "igd postrouting_miniupnpd", "wall miniupnpd")
SILENT = {
    Service.PCP: "udp dport 5351 @th,64,8 2",  # the version: the first byte after UDP's header
    Service.NAT_PMP: "udp dport 5351 @th,64,8 0",
    Service.UPNP: "udp dport 1900",
}
READY = "Listening for NAT-PMP/PCP traffic"


class Gateway:
    """The router of `site`, with the daemon on it."""

    def __init__(self, net: Internet, site: str, tmp: Path, *options: str) -> None:
        self.router: Host = net.router(site)
        self._config = tmp / f"miniupnpd-{site}.conf"
        self._log = tmp / f"miniupnpd-{site}.log"
        self._pid = tmp / f"miniupnpd-{site}.pid"
        lines = [f"ext_ifname={DEVICE}", f"listening_ip={INNER}", "enable_natpmp=yes"]
        lines += ["enable_upnp=yes", "secure_mode=yes", "system_uptime=no", f"uuid={uuid.uuid4()}"]
        lines += ["upnp_table_name=wall", "upnp_nat_table_name=igd"]
        lines += ["min_lifetime=1", "max_lifetime=86400", *options]
        lines += ["allow 1024-65535 192.168.0.0/16 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"]
        self._config.write_text("\n".join(lines) + "\n")
        self.router.nft(TABLES)
        self._process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        """Start the daemon, which remembers nothing of an earlier one, and wait until it serves."""
        argv = ["miniupnpd", "-d", "-f", str(self._config), "-P", str(self._pid)]
        with self._log.open("wb") as log:
            self._process = self.router.popen(argv, stdout=log, stderr=subprocess.STDOUT)
        self._started = time.monotonic()
        deadline = self._started + TIMEOUT
        while READY not in self.log:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"miniupnpd does not serve\n{self.log[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, as if the power failed."""
        self._process.kill()
        self._process.wait()
        self._pid.unlink(missing_ok=True)
        self.router.nft("".join(f"flush chain inet {each}\n" for each in CHAINS))

    def reboot(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def only(self, *services: Service) -> None:
        """Have it hear requests of these services alone."""
        deaf = [each for each in Service if each not in services]
        rules = "".join(f"add rule inet deaf own {SILENT[each]} drop\n" for each in deaf)
        self.router.nft(f"flush chain inet deaf own\n{rules}")

    @property
    def rules(self) -> list[str]:
        """What it has made, as nft tells: one rule a mapping, or pinhole."""
        found = []
        for chain in CHAINS[::2]:
            told = self.router.run(["nft", "list", "chain", "inet", *chain.split()]).stdout.decode()
            found += [each.strip() for each in told.splitlines() if " dport " in each]
        return found

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

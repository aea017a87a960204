"""What is measured: each row is a way from a client's loopback to a service on the other host.

Every forwarder has two ends: `exposer` beside the service on host `far`, `binder` on host `near`
listening on 127.0.0.1. Raw TCP has none: its client dials the service.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp

from pt.lab.netns import Host

__all__ = ["SERVICE_PORT", "Forwarder", "Go", "Pt", "PtChaCha", "Raw", "Socat", "Ssh"]

SERVICE_PORT = 9001
START_TIMEOUT = 20.0
NAME = "bench-of-a-tunnel-0417"
GO_PEER = Path(__file__).parent.parent / "interop" / "bin" / "go-peer"


class Forwarder:
    """A row. `binder_argv` is what a start-up measurement starts again on another port."""

    name: str
    note = ""

    def __init__(self, far: Host, near: Host, far_ip: str, port: int) -> None:
        self.far, self.near, self.far_ip, self.port = far, near, far_ip, port
        self.home = Path(mkdtemp(prefix="pt-bench-"))
        self.extra_env: Mapping[str, str] = {}
        self.exposer: subprocess.Popen[bytes] | None = None
        self.binder: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where the client connects."""
        return f"127.0.0.1:{self.port}"

    @property
    def pids(self) -> list[int]:
        return [end.pid for end in (self.exposer, self.binder) if end is not None]

    def missing(self) -> str | None:
        """Why this row cannot be measured here."""
        return None

    def exposer_argv(self) -> list[str]:
        raise NotImplementedError

    def binder_argv(self, port: int, home: str = "near") -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, **self.extra_env}

    def spawn(self, host: Host, argv: list[str], log: str) -> subprocess.Popen[bytes]:
        with open(self.home / log, "wb") as out, open(self.home / f"{log}.err", "wb") as err:
            return host.popen(argv, stdout=out, stderr=err, env=self.environment())

    def log(self, name: str) -> str:
        return (self.home / name).read_text(errors="replace")

    def wait_for(self, what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not what():
            if process.poll() is not None or time.monotonic() > deadline:
                tails = [f"{p.name}: {self.log(p.name)[-800:]}" for p in self.home.glob("*er*")]
                raise RuntimeError(f"{self.name} did not start; " + "\n".join(tails))
            time.sleep(0.02)

    def listening(self, host: Host, port: int) -> Callable[[], bool]:
        return lambda: bool(host.run(["ss", "-Hltn", f"sport = :{port}"]).stdout.strip())

    def start(self) -> None:
        self.start_exposer()
        self.start_binder()

    def start_exposer(self) -> None:
        raise NotImplementedError

    def start_binder(self) -> None:
        self.binder = self.spawn(self.near, self.binder_argv(self.port), "binder")
        self.wait_for(self.listening(self.near, self.port), self.binder)

    def stop(self) -> None:
        for end in (self.binder, self.exposer):
            if end is not None:
                end.terminate()
                try:
                    end.wait(3)
                except subprocess.TimeoutExpired:
                    end.kill()
                    end.wait()
        self.exposer = self.binder = None
        shutil.rmtree(self.home, ignore_errors=True)


class Raw(Forwarder):
    name = "raw TCP"
    note = "no forwarder: the limit of this machine with this load generator"

    @property
    def address(self) -> str:
        return f"{self.far_ip}:{SERVICE_PORT}"

    def start(self) -> None:
        pass


class Socat(Forwarder):
    name = "socat"
    note = "two ends, plain text, 64 KiB buffers"

    def missing(self) -> str | None:
        return None if shutil.which("socat") else "socat is not installed"

    @property
    def far_port(self) -> int:
        return self.port + 1000

    def _argv(self, listen: str, target: str) -> list[str]:
        listen = f"TCP4-LISTEN:{listen},fork,reuseaddr,backlog=512"
        return ["socat", "-b", "65536", listen, f"TCP4:{target}"]

    def exposer_argv(self) -> list[str]:
        return self._argv(str(self.far_port), f"127.0.0.1:{SERVICE_PORT}")

    def binder_argv(self, port: int, home: str = "near") -> list[str]:
        return self._argv(f"{port},bind=127.0.0.1", f"{self.far_ip}:{self.far_port}")

    def start_exposer(self) -> None:
        self.exposer = self.spawn(self.far, self.exposer_argv(), "exposer")
        self.wait_for(self.listening(self.far, self.far_port), self.exposer)


class Ssh(Socat):
    name = "ssh -L"

    def missing(self) -> str | None:
        ok = shutil.which("ssh") and shutil.which("sshd")
        return None if ok else "OpenSSH client and server are not installed"

    def exposer_argv(self) -> list[str]:
        config = self.home / "sshd_config"
        config.write_text(
            f"ListenAddress {self.far_ip}\nPort {self.far_port}\nHostKey {self.home}/host\n"
            f"AuthorizedKeysFile {self.home}/user.pub\nStrictModes no\nUsePAM no\nUseDNS no\n"
            f"PasswordAuthentication no\nPermitRootLogin yes\nPidFile none\nMaxStartups 100\n"
        )
        return [shutil.which("sshd") or "sshd", "-D", "-e", "-f", str(config)]

    def binder_argv(self, port: int, home: str = "near") -> list[str]:
        options = [f"IdentityFile={self.home}/user", "IdentitiesOnly=yes", "BatchMode=yes"]
        options += ["StrictHostKeyChecking=no", f"UserKnownHostsFile={self.home}/known"]
        options += ["ExitOnForwardFailure=yes", "LogLevel=VERBOSE"]
        flags = [part for option in options for part in ("-o", option)]
        forward = f"127.0.0.1:{port}:127.0.0.1:{SERVICE_PORT}"
        target = ["-p", str(self.far_port), f"root@{self.far_ip}"]
        return ["ssh", "-F", "none", "-N", *flags, "-L", forward, *target]

    def start_exposer(self) -> None:
        for key in ("host", "user"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / key)]
            subprocess.run(argv, check=True)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd drops its privileges
        super().start_exposer()

    def start_binder(self) -> None:
        super().start_binder()
        probe = [*self.binder_argv(0)[:-3], "-v", "-p", str(self.far_port), f"root@{self.far_ip}"]
        probe = [part for part in probe if part != "-N"]
        del probe[probe.index("-L") : probe.index("-L") + 2]
        said = self.near.run([*probe, "true"], env=os.environ).stderr.decode(errors="replace")
        ciphers = [
            line.split("cipher: ")[1].split()[0] for line in said.splitlines() if "cipher: " in line
        ]
        self.note = f"OpenSSH, {ciphers[0]}" if ciphers else "OpenSSH"


class Go(Forwarder):
    program = str(GO_PEER)
    name = "go-libp2p"
    note = "go-libp2p forwarder, TCP + Noise + yamux, defaults (interop/peers/go)"

    def missing(self) -> str | None:
        return None if GO_PEER.exists() else f"{GO_PEER} is not built (make interop)"

    def exposer_argv(self) -> list[str]:
        target = f"127.0.0.1:{SERVICE_PORT}"
        listen = f"/ip4/{self.far_ip}/tcp/{self.port + 1000}"
        return [self.program, "forward-expose", "--listen", listen, "--target", target]

    def binder_argv(self, port: int, home: str = "near") -> list[str]:
        return [
            self.program, "forward-bind", "--peer", self.peer, "--listen", f"127.0.0.1:{port}",
        ]  # fmt: skip

    @property
    def peer(self) -> str:
        for line in self.log("exposer").splitlines():
            for word in line.replace('"', " ").split():
                if word.startswith("/ip4/") and "/p2p/" in word:
                    return word
        return ""

    def start_exposer(self) -> None:
        self.exposer = self.spawn(self.far, self.exposer_argv(), "exposer")
        self.wait_for(lambda: bool(self.peer), self.exposer)


class Pt(Forwarder):
    name = "pt"
    note = "as shipped: AES-GCM suite between two pt"
    suite = ""
    transport = "tcp"
    """Over which the binder dials."""
    program = Path(sys.executable).with_name("pt")

    def missing(self) -> str | None:
        return None if self.program.exists() else "pt is not installed beside this Python"

    def environment(self) -> Mapping[str, str]:
        suite = {"PT_SUITE": self.suite} if self.suite else {}
        return {**super().environment(), **suite}

    def command(self) -> list[str]:
        return [str(self.program)]

    def listen(self) -> str:
        """Multiaddrs, comma between them."""
        return f"/ip4/{self.far_ip}/tcp/{self.port + 1000}"

    def exposer_argv(self) -> list[str]:
        listening = [word for at in self.listen().split(",") for word in ("--listen", at)]
        return [
            *self.command(), "tcp", "--port", str(SERVICE_PORT), "--id", NAME,
            "--no-lan", "--no-public", "--json", "--home", str(self.home / "far"),
            *listening,
        ]  # fmt: skip

    def binder_argv(self, port: int, home: str = "near") -> list[str]:
        return [
            *self.command(), "bind", "-p", f"{port}:{SERVICE_PORT}", "--id", NAME,
            "--no-lan", "--no-public", "--json", "--home", str(self.home / home),
            "--peer", self.peer,
        ]  # fmt: skip

    def ready(self, log: str) -> dict[str, object] | None:
        for line in self.log(log).splitlines():
            if line.startswith("{") and line.endswith("}"):
                event: dict[str, object] = json.loads(line)
                if event.get("event") == "ready":
                    return event
        return None

    @property
    def peer(self) -> str:
        event = self.ready("exposer") or {}
        addresses = event.get("addresses")
        wanted, over = f"/ip4/{self.far_ip}/", f"/{self.transport}/"
        found = (
            [a for a in addresses if wanted in a and over in a]
            if isinstance(addresses, list)
            else []
        )
        return found[0] if found else ""

    def start_exposer(self) -> None:
        self.exposer = self.spawn(self.far, self.exposer_argv(), "exposer")
        self.wait_for(lambda: bool(self.peer), self.exposer)

    def start_binder(self) -> None:
        self.binder = self.spawn(self.near, self.binder_argv(self.port), "binder")
        self.wait_for(lambda: self.ready("binder") is not None, self.binder)


class PtChaCha(Pt):
    name = "pt chacha"
    note = "the libp2p suite, Noise_XX_25519_ChaChaPoly_SHA256"
    suite = "chachapoly"

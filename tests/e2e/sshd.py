"""An sshd on host a, with keys of its own, for tests that reach it through a tunnel."""

from __future__ import annotations

import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.harness import Rig, need

SSH_PORT = 2222


@dataclass
class Ssh:
    """A tunnel to the sshd, from host b."""

    rig: Rig
    directory: Path
    port: int
    address: str = ""

    def options(self, *more: str) -> list[str]:
        facts = {
            "IdentityFile": str(self.directory / "user_key"),
            "UserKnownHostsFile": str(self.directory / "known_hosts"),
            "StrictHostKeyChecking": "accept-new",
            "HostKeyAlias": "tunnelled",
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
        }
        return ["-F", "none", *(f"-o{key}={value}" for key, value in facts.items()), *more]

    def command(self, *more: str) -> list[str]:
        return ["ssh", *self.options("-p", str(self.port)), "root@127.0.0.1", *more]

    def dial(self, port: int) -> socket.socket:
        """A connection to a port of the sshd's host, which ssh carries; closed with the rig."""
        ours, theirs = socket.socketpair()
        with theirs:
            argv = self.command("-W", f"127.0.0.1:{port}")
            self.rig.b.popen(argv, stdin=theirs.fileno(), stdout=theirs.fileno())
        return self.rig.keep(ours)


def start_sshd(rig: Rig) -> Path:
    """Start it and wait until it listens; the directory of its keys."""
    need("sshd", "ssh", "ssh-keygen", "scp")
    directory = rig.tmp / "sshd"
    directory.mkdir()
    for key in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)], check=True
        )
    (directory / "authorized_keys").write_bytes((directory / "user_key.pub").read_bytes())
    config = directory / "sshd_config"
    config.write_text(
        f"Port {SSH_PORT}\nListenAddress 127.0.0.1\nHostKey {directory}/host_key\n"
        f"PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
        f"PasswordAuthentication no\nAuthorizedKeysFile {directory}/authorized_keys\n"
        f"Subsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where Debian's sshd confines its unprivileged half
    sshd = shutil.which("sshd")
    assert sshd is not None
    rig.daemon(rig.a, [sshd, "-D", "-e", "-f", str(config)], SSH_PORT)
    return directory

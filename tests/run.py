"""Set up what the tests need, then run every check and every test: `python -m tests.run [ARG …]`.

System packages are installed when we are root and apt-get is there; the interop peers are built
when their toolchains are there. What is missing is named, with what will be skipped for it; under
CI=true nothing may be skipped, so it is an error there. Arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pt.lab import unavailable

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
APT_TIMEOUT = 600
BUILD_TIMEOUT = 1800
AT_ONCE = ("-n", "3", "--dist", "loadfile", "--no-loadscope-reorder")
"""Most tests wait for a network: three files at a time keep two cores busy.  Those with few tests
that take long begin first (`e2e`, `interop`), so that none is left to run alone at the end."""


@dataclass(frozen=True)
class Tool:
    """A program the tests start, where it comes from and what is skipped without it."""

    program: str
    package: str
    used_by: str


TOOLS = (
    Tool("ip", "iproute2", "every end-to-end test"),
    Tool("nft", "nftables", "every end-to-end test"),
    Tool("nsenter", "util-linux", "every end-to-end test"),
    Tool("sshd", "openssh-server", "ssh, scp and rsync through the tunnel"),
    Tool("ssh", "openssh-client", "ssh, scp and rsync through the tunnel"),
    Tool("rsync", "rsync", "rsync through the tunnel"),
    Tool("curl", "curl", "HTTP through the tunnel"),
    Tool("socat", "socat", "the benchmark"),
    Tool("redis-server", "redis-server", "redis through the tunnel"),
    Tool("psql", "postgresql-client", "PostgreSQL through the tunnel"),
    Tool("initdb", "postgresql", "PostgreSQL through the tunnel"),
    Tool("mount", "mount", "the full state directory"),
    Tool("turnserver", "coturn", "interop with coturn"),
    Tool("turnutils_natdiscovery", "coturn", "interop with coturn"),
    Tool("miniupnpd", "miniupnpd-nftables", "port mappings of a real daemon"),
    Tool("chromium", "chromium", "the relay's status page in a browser"),
    Tool("chromedriver", "chromium-driver", "the relay's status page in a browser"),
)
TOOLCHAINS = (
    Tool("go", "golang", "interop with go-libp2p"),
    Tool("cargo", "rustup", "interop with rust-libp2p"),
    Tool("node", "nodejs", "interop with js-libp2p"),
    Tool("npm", "npm", "interop with js-libp2p"),
)
EXTRA_PATHS = ("/usr/sbin", "/sbin", "/usr/local/go/bin", str(Path.home() / ".cargo/bin"))
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("lint-imports",),
    ("mypy",),
)


def say(text: str) -> None:
    print(text, flush=True)


def search_path() -> str:
    """The PATH with the places Debian and the toolchains keep out of a user's."""
    pg = sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
    return os.pathsep.join([os.environ.get("PATH", ""), *EXTRA_PATHS, *pg])


def missing(tools: Sequence[Tool]) -> list[Tool]:
    return [tool for tool in tools if shutil.which(tool.program) is None]


def run(argv: Sequence[str], timeout: float, **env: str) -> bool:
    """Run a step, showing its output only if it fails."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=timeout,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, output = -1, (error.output or b"") + b"\n(timed out)"
    except OSError as error:
        code, output = -1, str(error).encode()
    verdict = "ok" if code == 0 else "FAILED"
    say(f"{verdict:7}{' '.join(argv)}  ({time.monotonic() - started:.1f} s)")
    if code:
        say(output.decode(errors="replace"))
    return code == 0


def install_packages() -> None:
    wanted = sorted({tool.package for tool in missing(TOOLS)})
    if not wanted or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted]
    if not run(apt, APT_TIMEOUT, **quiet) and run(["apt-get", "update", "-qq"], APT_TIMEOUT):
        run(apt, APT_TIMEOUT, **quiet)
    os.environ["PATH"] = search_path()  # a new PostgreSQL brings a directory of its own


def build_peers() -> list[str]:
    """Build the interop peers; return what will be skipped."""
    script = ROOT / "interop" / "build.sh"
    lacking = [f"{tool.used_by}: no {tool.program}" for tool in missing(TOOLCHAINS)]
    if not script.exists():
        return [*lacking, "interop: interop/build.sh is not there"]
    if not run([str(script)], BUILD_TIMEOUT):
        return [*lacking, "interop: interop/build.sh failed"]
    return lacking


def main() -> int:
    os.chdir(ROOT)
    os.environ["PATH"] = search_path()
    install_packages()
    skipped = [f"{tool.used_by}: no {tool.program} ({tool.package})" for tool in missing(TOOLS)]
    if reason := unavailable():
        skipped.append(f"every end-to-end test: {reason}")
    skipped += build_peers()
    for line in skipped:
        say(f"skipped  {line}")
    if skipped and CI:
        say("CI=true: nothing may be skipped")
        return 1
    failed = [
        " ".join(check) for check in CHECKS if not run([str(BIN / check[0]), *check[1:]], 600)
    ]
    if failed:
        say(f"checks failed: {', '.join(failed)}; the tests run all the same")
    pytest = [str(BIN / "pytest"), "-q", *AT_ONCE, *sys.argv[1:]]
    tests = subprocess.run(pytest, cwd=ROOT, check=False)
    if failed and tests.returncode == 0:
        print(f"checks failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())

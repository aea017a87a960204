"""The load generator (bench/load, Go): built on demand and driven through its JSON lines."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pt.lab.netns import Host

__all__ = ["OUT", "Marked", "build", "one_shot"]

HERE = Path(__file__).parent
OUT = HERE / "out"
BINARY = OUT / "load"


def build() -> None:
    """Compile bench/load unless the binary is newer than its source."""
    source = HERE / "load"
    newest = max(path.stat().st_mtime for path in source.iterdir())
    if BINARY.exists() and BINARY.stat().st_mtime > newest:
        return
    OUT.mkdir(exist_ok=True)
    env = {**os.environ, "GOFLAGS": "-trimpath", "GOWORK": "off", "CGO_ENABLED": "0"}
    subprocess.run(["go", "build", "-o", str(BINARY), "."], cwd=source, env=env, check=True)


class Marked:
    """A long-running load command; `mark` returns its counters with the time they were read."""

    def __init__(self, host: Host, *args: str) -> None:
        self.args = args
        self.process = host.popen(
            [str(BINARY), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.hello = self.read()
        except BaseException:
            self.close()
            raise

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"load {self.args} ended; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def mark(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.read()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def one_shot(host: Host, *args: str, timeout: float = 60.0) -> dict[str, Any]:
    """Run a load command to its end and return its one answer."""
    done = host.run([str(BINARY), *args], timeout=timeout)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer

"""Peers of the matrix, started on the hosts of a laboratory and asked to run tests."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pt.lab.netns import Host

ROOT: Final = Path(__file__).resolve().parent.parent
BIN: Final = ROOT / "interop" / "bin"
FOREIGN: Final = ("go", "rust", "js")
TESTS: Final = ("ping", "identify", "echo64", "streams1000", "halfclose", "reset", "idle")
UNSIGNED: Final = frozenset({"rust"})
"""Peers without a signed record: rust-libp2p's is of a form that nobody else accepts."""
BUILD_TIMEOUT: Final = 1800
START_TIMEOUT: Final = 30.0
TEST_TIMEOUT: Final = 60.0
RELAY_PORT: Final = 4001
OUR_RELAYS: Final = ("pt", "pt/ws")
SLACK: Final = 20.0
"""Seconds a dialer gets beyond its own time limit: to start, to say that it failed, and to end."""

QUIC_STREAMS: Final = 200
"""Streams of the test of many: go-libp2p lets a peer have 256 on a QUIC connection."""

Pair = tuple[str, str]
"""Listener and dialer."""


OURS: Final = ("pt", "pt/aioquic")
"""As it is, and with the engine of QUIC that is in Python."""


class RigError(Exception):
    """A peer does not start or does not answer as agreed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One test of one pair."""

    listener: str
    dialer: str
    test: str
    ok: bool
    detail: str
    seconds: float
    relay: str = ""
    quic: bool = False


def argv(peer: str) -> list[str]:
    """The command of a peer, without its subcommand."""
    if peer in OURS:
        return [sys.executable, "-m", "interop.ptpeer"]
    return [str(BIN / f"{peer}-peer")]


def setting(peer: str) -> dict[str, str]:
    """What a peer has in its environment."""
    engine = {"PT_QUIC_ENGINE": "aioquic"} if peer == OURS[1] else {}
    return {**os.environ, **engine}


def version(peer: str) -> tuple[str, str]:
    """Implementation and version, as the peer says.

    Raises: RigError.
    """
    said = subprocess.run(
        [*argv(peer), "version"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if said.returncode:
        raise RigError(f"{peer} version: {said.stderr.strip()}")
    facts = json.loads(said.stdout)
    return facts["implementation"], facts["version"]


class Server:
    """A process that says where it serves, one JSON line a fact, until its host is closed."""

    def __init__(
        self,
        peer: str,
        host: Host,
        log: Path,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.peer: Final = peer
        self._log = log
        self._facts: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # go-libp2p says why it has no reservation in its log only.
        logged = {"GOLOG_LOG_LEVEL": "error,autorelay=debug"}
        with log.open("wb") as sink:
            self._process = host.popen(
                words,
                stdout=subprocess.PIPE,
                stderr=sink,
                cwd=ROOT,
                env={**setting(peer), **logged, **(environment or {})},
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """Take all it says, so that it never waits for us."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._facts.put(line)
        self._facts.put(b"")

    def fact(self) -> dict[str, object]:
        """The next thing it says.

        Raises: RigError when it does not come in time.
        """
        try:
            line = self._facts.get(timeout=START_TIMEOUT)
        except queue.Empty:
            raise RigError(
                f"{self.peer}: nothing within {START_TIMEOUT:g} s\n{self.tail()}"
            ) from None
        if not line:
            raise RigError(f"{self.peer} ended\n{self.tail()}")
        said = json.loads(line)
        assert isinstance(said, dict)
        return said

    def address(self) -> str:
        """The multiaddr it serves on.

        Raises: RigError.
        """
        return str(self.fact()["multiaddr"])

    def tail(self) -> str:
        """The end of what it complained about."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Listener(Server):
    """A peer that serves the interop protocols: on a host, or through the relay at `relay` only."""

    def __init__(
        self, peer: str, host: Host, log: Path, relay: str = "", *, quic: bool = False
    ) -> None:
        self.quic: Final = quic
        how = ["--no-listen", "--relay", relay] if relay else ["--quic"] if quic else []
        super().__init__(peer, host, log, [*argv(peer), "listen", "--ip", host.ip, *how])


class Relay(Server):
    """A relay: libp2p's usual limits for a circuit, or none.

    `pt` and `pt/ws` are the command `pt relay`, on TCP and on WebSocket alone.
    """

    def __init__(self, peer: str, host: Host, log: Path, *, unlimited: bool = False) -> None:
        words = [*argv(peer), "relay", "--ip", host.ip, *(["--unlimited"] if unlimited else [])]
        self._is_ours = peer in OUR_RELAYS
        if self._is_ours:
            transport = "/ws" if peer == "pt/ws" else ""
            words = [
                sys.executable, "-m", "pt", "relay", "--json", "--home", str(log.with_suffix("")),
                "--listen", f"/ip4/{host.ip}/tcp/{RELAY_PORT}{transport}",
                *(["--stranger-data", "0", "--stranger-duration", "0"] if unlimited else []),
            ]  # fmt: skip
        super().__init__(peer, host, log, words)

    def address(self) -> str:
        """See `Server.address`."""
        if not self._is_ours:
            return super().address()
        while (said := self.fact())["event"] != "relay_ready":
            pass
        addresses = said["addresses"]
        assert isinstance(addresses, list)
        return str(addresses[0])


class Dialer:
    """A peer that runs one test against a listener; started by the constructor."""

    def __init__(
        self,
        peer: str,
        host: Host,
        listener: Listener,
        to: str,
        test: str,
        flags: Sequence[str],
        *,
        relay: Relay | None = None,
    ) -> None:
        self._peer = peer
        self._relay = relay
        self._listener = listener
        self._test = test
        self._began = time.monotonic()
        unsigned = ["--unsigned"] if listener.peer in UNSIGNED else []
        if listener.quic and test == "streams1000":
            flags = [*flags, "--streams", str(QUIC_STREAMS)]
        if listener.quic and test == "echo64" and OURS[1] in (peer, listener.peer):
            flags = [*flags, "--bytes", str(SLOW_BYTES)]
        self._process = host.popen(
            [
                *argv(peer), "dial", "--to", to, "--test", test,
                "--timeout", f"{TEST_TIMEOUT:g}", *unsigned, *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=setting(peer),
        )  # fmt: skip

    def outcome(self) -> Outcome:
        """Wait for its end."""
        try:
            out, err = self._process.communicate(timeout=TEST_TIMEOUT + SLACK)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        try:
            facts = json.loads(out)
            ok = facts["ok"] is True and self._process.returncode == 0
            detail = str(facts["detail"])
        except (ValueError, KeyError, TypeError):
            ok, detail = False, f"no verdict, exit code {self._process.returncode}"
        if not ok:
            servers = (self._listener, *([self._relay] if self._relay else []))
            said = (detail, err.decode(errors="replace")[-2000:], *(one.tail() for one in servers))
            detail = "\n".join(text.strip() for text in said if text.strip())
        return Outcome(
            listener=self._listener.peer,
            dialer=self._peer,
            test=shown(self._test, quic=self._listener.quic),
            quic=self._listener.quic,
            ok=ok,
            detail=detail,
            seconds=time.monotonic() - self._began,
            relay=self._relay.peer if self._relay else "",
        )


def build(wanted: Sequence[str]) -> list[str]:
    """Build the foreign peers; return those that are there."""
    done = subprocess.run(
        [str(ROOT / "interop" / "build.sh"), *wanted], timeout=BUILD_TIMEOUT, check=False
    )
    there = [peer for peer in wanted if (BIN / f"{peer}-peer").exists()]
    if done.returncode:
        raise RigError("the interop peers cannot be built; see above")
    return there


SLOW_BYTES: Final = 8 << 20
"""Bytes of the echo with the engine in Python."""


def shown(test: str, *, quic: bool) -> str:
    """What the tables call a test."""
    return f"streams{QUIC_STREAMS}" if quic and test == "streams1000" else test


def pairs_with_us(foreign: Iterable[str], ours: str = "pt") -> list[Pair]:
    pairs = [(ours, ours)]
    for peer in foreign:
        pairs += [(peer, ours), (ours, peer)]
    return pairs


def pairs_among(foreign: Sequence[str]) -> list[Pair]:
    return [(listener, dialer) for listener in foreign for dialer in foreign]


def say(outcome: Outcome) -> None:
    mark = "ok  " if outcome.ok else "FAIL"
    pair = f"{outcome.dialer} dials {outcome.listener}"
    via = f" via {outcome.relay}" if outcome.relay else " on QUIC" if outcome.quic else ""
    print(f"{mark} {pair + via:24} {outcome.test:22} {outcome.detail}", flush=True)


def table(title: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [title, ["---"] * len(title), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# --- libp2p's transport contract -----------------------------------------------------------------


def contract_argv(peer: str) -> list[str]:
    if peer == "pt":
        return [sys.executable, str(ROOT / "interop" / "transport_test.py")]
    return [str(BIN / f"{peer}-peer"), "transport-test"]


def contract_environment(*, modern: bool, dialer: bool, redis: str, key: str) -> dict[str, str]:
    flag = "true" if dialer else "false"
    asked: Mapping[str, str]
    if modern:
        asked = {
            "IS_DIALER": flag, "REDIS_ADDR": redis, "TEST_KEY": key, "TRANSPORT": "tcp",
            "SECURE_CHANNEL": "noise", "MUXER": "yamux", "LISTENER_IP": "0.0.0.0", "DEBUG": "false",
        }  # fmt: skip
    else:
        asked = {
            "is_dialer": flag, "redis_addr": redis, "transport": "tcp", "security": "noise",
            "muxer": "yamux", "ip": "0.0.0.0", "test_timeout_seconds": "30",
        }  # fmt: skip
    return {**os.environ, **asked}


class Redis:
    """A redis-server on a host, empty and for this run only."""

    PORT: Final = 6379

    def __init__(self, host: Host, directory: Path) -> None:
        self.address: Final = f"{host.ip}:{self.PORT}"
        self._host = host
        host.popen(
            [
                "redis-server", "--bind", host.ip, "--port", str(self.PORT), "--save", "",
                "--appendonly", "no", "--protected-mode", "no", "--dir", str(directory),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _client(self, *words: str) -> str:
        return self._host.run(
            ["redis-cli", "-h", self._host.ip, "-p", str(self.PORT), *words], check=False
        ).stdout.decode()

    def wait(self) -> None:
        """Wait until it answers.

        Raises: RigError.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while self._client("ping").strip() != "PONG":
            if time.monotonic() > deadline:
                raise RigError("redis-server does not answer")
            time.sleep(0.05)  # a process of others: there is no handle to wait on

    def clear(self) -> None:
        self._client("flushall")


def run_contract(
    listener: str, dialer: str, *, modern: bool, near: Host, far: Host, store: Redis
) -> Outcome:
    """One pair through the contract; the store and the listener are on `far`."""
    store.clear()
    began = time.monotonic()
    key = "5ca1ab1e"
    server = far.popen(
        contract_argv(listener),
        env=contract_environment(modern=modern, dialer=False, redis=store.address, key=key),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        done = near.run(
            contract_argv(dialer),
            env=contract_environment(modern=modern, dialer=True, redis=store.address, key=key),
            cwd=ROOT,
            check=False,
            timeout=TEST_TIMEOUT,
        )
        text, code = done.stdout.decode(), done.returncode
        problem = done.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired:
        text, code, problem = "", -1, "no result in time"
    finally:
        server.terminate()
        _, complaint = server.communicate()
    try:
        total, ping = read_latencies(text, modern=modern)
        ok = code == 0 and total > ping > 0
        detail = f"handshake + 1 RTT {total:.1f} ms, ping {ping:.2f} ms"
    except (ValueError, KeyError) as error:
        ok, detail = False, f"{text!r}: {error}"
    if not ok:
        detail += f"\n{problem[-1000:]}\n{complaint.decode(errors='replace')[-1000:]}"
    return Outcome(
        listener=listener,
        dialer=dialer,
        test="transport, upper case" if modern else "transport, lower case",
        ok=ok,
        detail=detail.strip(),
        seconds=time.monotonic() - began,
    )


def read_latencies(text: str, *, modern: bool) -> tuple[float, float]:
    """Milliseconds of handshake plus ping, and of the ping.

    Raises: ValueError, KeyError.
    """
    if not modern:
        facts = json.loads(text)
        return float(facts["handshakePlusOneRTTMillis"]), float(facts["pingRTTMilllis"])
    lines = [line.split(":") for line in text.splitlines()]
    pairs = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2}
    if text.splitlines()[:1] != ["latency:"] or pairs.get("unit") != "ms":
        raise ValueError("not the YAML of the contract")
    return float(pairs["handshake_plus_one_rtt"]), float(pairs["ping_rtt"])

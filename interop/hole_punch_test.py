"""Our answer to libp2p's hole punch contract: one process, configured by its environment.

The unified suite names its variables in upper case, `IS_DIALER REDIS_ADDR TEST_KEY TRANSPORT
SECURE_CHANNEL MUXER`, sets and gets `KEY_relay_multiaddr` and `KEY_listener_peer_id` in Redis and
reads YAML; with `IS_RELAY=true` we are the relay.  The older suite says `MODE TRANSPORT`, has Redis
at `redis:6379`, pops lists there and reads JSON.

The listener reserves at the relay, says so in Redis and waits to be killed; the dialer connects
through the relay, waits for a direct connection, pings once over it, prints the latencies in
milliseconds and exits 0.  Everything else goes to standard error.  Routes are made by who starts
us; addresses that are not public, such as those of 10/8, are not dialed.

Source: libp2p/unified-testing and libp2p/test-plans, hole-punch suites.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import redis

from interop.punchpeer import new_node
from pt.errors import PtError
from pt.node.circuits import Circuits
from pt.node.dcutr import Dcutr, direct_of
from pt.node.node import Node
from pt.node.relays import Relays
from pt.wire.multiaddr import Multiaddr

TIMEOUT: Final = 60.0
TRANSPORTS: Final = {"tcp": False, "quic-v1": True, "quic": True}
PEER_KEY: Final = "LISTEN_CLIENT_PEER_ID"
RELAY_KEYS: Final = {False: "RELAY_TCP_ADDRESS", True: "RELAY_QUIC_ADDRESS"}
POLL: Final = 0.1


class ContractError(Exception):
    """The environment asks for what we do not have, or is incomplete."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the environment asks for: the relay's part, the listener's or the dialer's."""

    part: str
    modern: bool
    quic: bool
    redis_host: str
    redis_port: int
    relay_key: str
    peer_key: str
    ip: str


def read_job(environ: Mapping[str, str]) -> Job:
    """Read either spelling of the environment.

    Raises: ContractError.
    """
    modern = "TEST_KEY" in environ or "MODE" not in environ
    transport = environ.get("TRANSPORT", "")
    if transport not in TRANSPORTS:
        raise ContractError(f"TRANSPORT={transport!r} is not supported, only tcp and quic-v1")
    quic = TRANSPORTS[transport]
    for name, ours in (("SECURE_CHANNEL", "noise"), ("MUXER", "yamux")):
        if environ.get(name, ours) != ours:
            raise ContractError(f"{name}={environ[name]!r} is not supported, only {ours}")
    host, _, port = environ.get("REDIS_ADDR", "redis:6379").rpartition(":")
    if not host or not port.isdecimal():
        raise ContractError("REDIS_ADDR must be HOST:PORT")
    key = environ.get("TEST_KEY", "")
    if modern and not key:
        raise ContractError("TEST_KEY is missing")
    return Job(
        part=_part(environ, modern=modern),
        modern=modern,
        quic=quic,
        redis_host=host,
        redis_port=int(port),
        relay_key=f"{key}_relay_multiaddr" if modern else RELAY_KEYS[quic],
        peer_key=f"{key}_listener_peer_id" if modern else PEER_KEY,
        ip=environ.get("RELAY_IP", "0.0.0.0"),
    )


def _part(environ: Mapping[str, str], *, modern: bool) -> str:
    if not modern:
        if environ["MODE"] not in ("dial", "listen"):
            raise ContractError(f"MODE={environ['MODE']!r} is neither dial nor listen")
        return "dialer" if environ["MODE"] == "dial" else "listener"
    if environ.get("IS_RELAY") == "true":
        return "relay"
    if environ.get("IS_DIALER") not in ("true", "false"):
        raise ContractError("IS_DIALER must be true or false")
    return "dialer" if environ["IS_DIALER"] == "true" else "listener"


class Store:
    """The suite's Redis; one short command at a time, between which the loop runs."""

    def __init__(self, job: Job) -> None:
        self._modern = job.modern
        self._redis = redis.Redis(
            host=job.redis_host,
            port=job.redis_port,
            socket_connect_timeout=10,
            decode_responses=True,
        )

    def put(self, key: str, value: str) -> None:
        if self._modern:
            self._redis.set(key, value)
        else:
            self._redis.rpush(key, value)

    async def take(self, key: str) -> str:
        """Wait until somebody has put it there."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                found = self._redis.get(key) if self._modern else self._redis.lpop(key)
                if found is not None:
                    return str(found)
                await asyncio.sleep(POLL)


async def relay(job: Job, store: Store) -> None:
    """The command `pt relay`, whose address everybody is told."""
    with tempfile.TemporaryDirectory() as home:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pt", "relay", "--json", "--home", home,
            "--listen", f"/ip4/{job.ip}/tcp/4001",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                said = json.loads(line)
                if said["event"] == "relay_ready":
                    wanted = "/udp/" if job.quic else "/tcp/"
                    address = next(each for each in said["addresses"] if wanted in each)
                    store.put(job.relay_key, address)
                    await _killed()
                    return
            raise ContractError("pt relay ended")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _killed() -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()


async def listen(job: Job, store: Store, node: Node, through: Multiaddr) -> None:
    relays = Relays(node, given=(through,), want=1, meet=False)
    relays.start()
    if not await relays.wait_first(TIMEOUT):
        raise ContractError("the relay gives no reservation")
    store.put(job.peer_key, str(node.peer_id))
    await _killed()
    await relays.close()


async def dial(job: Job, store: Store, node: Node, through: Multiaddr) -> tuple[float, float]:
    """Return the milliseconds from the dial to the direct connection and a ping, and the ping's."""
    circuits = Circuits(node)
    arrived = asyncio.Event()
    async with asyncio.timeout(TIMEOUT):
        met = await node.connect(through)
        await met.identify()
        peer = await store.take(job.peer_key)
        node.on_connection.append(lambda each: arrived.set() if each.relay is None else None)
        began = time.monotonic()
        relayed = await node.connect(Multiaddr.parse(f"{through.through_circuit()}/p2p/{peer}"))
        while (found := direct_of(node, relayed.peer_id)) is None:
            arrived.clear()
            await arrived.wait()
        ping = await found.ping()
        total = time.monotonic() - began
    await circuits.close()
    return total * 1000, ping * 1000


async def take_part(job: Job, store: Store) -> tuple[float, float] | None:
    """Raises: PtError, TimeoutError, ContractError."""
    if job.part == "relay":
        await relay(job, store)
        return None
    through = Multiaddr.parse(await store.take(job.relay_key))
    node = new_node(quic=job.quic)
    dcutr = Dcutr(node, on_failed=lambda _, reason: print(reason, file=sys.stderr, flush=True))
    await node.start()
    try:
        if job.part == "dialer":
            return await dial(job, store, node, through)
        await listen(job, store, node, through)
    finally:
        await dcutr.close()
        await node.close()
    return None


def told(latencies: tuple[float, float], *, modern: bool) -> str:
    """As the suite reads it."""
    total, ping = latencies
    if not modern:
        return json.dumps({"rtt_to_holepunched_peer_millis": round(ping)})
    return f"latency:\n  handshake_plus_one_rtt: {total:.2f}\n  ping_rtt: {ping:.2f}\n  unit: ms"


def main() -> int:
    try:
        job = read_job(os.environ)
        latencies = asyncio.run(take_part(job, Store(job)))
    except (ContractError, PtError, redis.RedisError, TimeoutError, ValueError) as error:
        print(f"hole_punch_test: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if latencies is not None:
        print(told(latencies, modern=job.modern))
    return 0


if __name__ == "__main__":
    sys.exit(main())

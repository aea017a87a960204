#!/usr/bin/env python3
"""Our answer to libp2p's transport interop contract: one process, configured by its environment.

The unified suite names its variables in upper case, `IS_DIALER REDIS_ADDR TEST_KEY TRANSPORT
SECURE_CHANNEL MUXER LISTENER_IP`, and reads YAML; the older suite in lower case, `is_dialer
redis_addr transport security muxer ip test_timeout_seconds`, and reads JSON.

The listener pushes its multiaddr to a Redis list and waits to be killed; the dialer takes it from
there, connects, pings once, prints two latencies in milliseconds and exits 0.  Everything else goes
to standard error.

Source: libp2p/test-plans and libp2p/unified-testing, transport suites.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import redis

from pt.errors import PtError
from pt.identity.keys import PrivateKey
from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr

DEFAULT_TIMEOUT: Final = 180
SUPPORTED: Final = {"transport": "tcp", "security": "noise", "muxer": "yamux"}


class ContractError(Exception):
    """The environment asks for what we do not have, or is incomplete."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the environment asks for."""

    dialer: bool
    modern: bool
    redis_host: str
    redis_port: int
    key: str
    ip: str
    timeout: int


def read_job(environ: Mapping[str, str]) -> Job:
    """Read either spelling of the environment.

    Raises: ContractError.
    """
    modern = "IS_DIALER" in environ
    names = {
        "dialer": "IS_DIALER" if modern else "is_dialer",
        "redis": "REDIS_ADDR" if modern else "redis_addr",
        "transport": "TRANSPORT" if modern else "transport",
        "security": "SECURE_CHANNEL" if modern else "security",
        "muxer": "MUXER" if modern else "muxer",
        "ip": "LISTENER_IP" if modern else "ip",
    }
    for part, ours in SUPPORTED.items():
        if (asked := environ.get(names[part], "")) != ours:
            raise ContractError(f"{names[part]}={asked!r} is not supported, only {ours}")
    host, _, port = environ.get(names["redis"], "redis:6379").rpartition(":")
    if not host or not port.isdecimal():
        raise ContractError(f"{names['redis']} must be HOST:PORT")
    if modern and not environ.get("TEST_KEY"):
        raise ContractError("TEST_KEY is missing")
    return Job(
        dialer=environ.get(names["dialer"]) == "true",
        modern=modern,
        redis_host=host,
        redis_port=int(port),
        key=f"{environ['TEST_KEY']}_listener_multiaddr" if modern else "listenerAddr",
        ip=environ.get(names["ip"]) or "0.0.0.0",
        timeout=int(environ.get("test_timeout_seconds") or DEFAULT_TIMEOUT),
    )


def new_node(listen: tuple[Multiaddr, ...] = ()) -> Node:
    return Node(identity=PrivateKey.generate(secrets.token_bytes(32)), listen=listen)


async def listen(job: Job, store: redis.Redis) -> None:
    node = new_node((Multiaddr.tcp(job.ip, 0),))
    await node.start()
    usable = [address for address in node.addresses if not address.is_loopback]
    if not usable:
        raise ContractError(f"{job.ip} has no address that is not loopback")
    # A single short command: the loop has nothing else to do meanwhile.
    store.rpush(job.key, str(usable[0].with_peer(node.peer_id.raw)))
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await node.close()


async def dial(address: Multiaddr, timeout: float) -> tuple[float, float]:
    """Return the milliseconds of connect plus one ping, and of the ping alone."""
    node = new_node()
    await node.start()
    try:
        async with asyncio.timeout(timeout):
            began = time.monotonic()
            connection = await node.connect(address)
            ping = await connection.ping()
            total = time.monotonic() - began
    finally:
        await node.close()
    return total * 1000, ping * 1000


def main() -> int:
    try:
        job = read_job(os.environ)
        store = redis.Redis(
            host=job.redis_host,
            port=job.redis_port,
            socket_connect_timeout=10,
            decode_responses=True,
        )
        if not job.dialer:
            asyncio.run(listen(job, store))
            return 0
        found = store.blpop([job.key], timeout=job.timeout)
        if not isinstance(found, list | tuple):
            raise ContractError(f"no listener within {job.timeout} s")
        address = Multiaddr.parse(str(found[1]))
        total, ping = asyncio.run(dial(address, job.timeout))
    except (ContractError, PtError, redis.RedisError, TimeoutError, ValueError) as error:
        print(f"transport_test: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    if job.modern:
        print(
            f"latency:\n  handshake_plus_one_rtt: {total:.3f}\n  ping_rtt: {ping:.3f}\n  unit: ms"
        )
    else:
        # The third l is the contract's.
        print(json.dumps({"handshakePlusOneRTTMillis": total, "pingRTTMilllis": ping}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Nothing in this repository starts a node on the host's network by accident.

At run time `tests.guard` watches the sockets of the tests' own process. Here the sources are read:
whoever starts a node or a `pt` command says where it may talk, or hands it to a namespace.
"""

from __future__ import annotations

import ast
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guard import HostNetworkError, take_hits

ROOT = Path(__file__).resolve().parents[2]
TREES = ("tests", "examples", "bench", "interop")
SKIPPED = {"node_modules", "target", "out", "__pycache__"}

# Programs that are themselves started in a namespace, never in the host's.
IN_NAMESPACE = {"tests/e2e/lan_peer.py"}

# Tests of the configuration's own rules, and of a search all of whose media are in memory: they
# import nothing that could start a node.
VALUES_ONLY = {"tests/unit/tunnel/test_config.py", "tests/unit/tunnel/test_seeker.py"}
STARTING_MODULES = {"pt.tunnel.exposer", "pt.tunnel.binder", "pt.api", "pt"}

# What starts a node, and how a call says that it stays here.
NODES = {"ExposeConfig", "BindConfig", "expose", "connect"}
LAN = {"LanPublisher": 5, "LanBrowser": 2}  # with so many arguments the interfaces are given
STARTERS = {"run", "Popen", "call", "check_call", "check_output", "create_subprocess_exec", "main"}
COMMANDS = {"tcp", "bind"}


def sources() -> Iterator[Path]:
    for tree in TREES:
        for path in sorted((ROOT / tree).rglob("*.py")):
            if not SKIPPED & set(path.relative_to(ROOT).parts):
                yield path


def name_of(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def owner_of(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(value=ast.Name(id=owner)):
            return owner
        case _:
            return ""


def words(node: ast.AST) -> set[str]:
    """Every string in `node`."""
    return {
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def is_false(call: ast.Call, keyword: str) -> bool:
    return any(
        given.arg == keyword
        and isinstance(given.value, ast.Constant)
        and given.value.value is False
        for given in call.keywords
    )


def imports(source: str) -> set[str]:
    """Every module that `source` imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {each.name for each in names}
            case ast.ImportFrom(module=str(module)):
                found.add(module)
    return found


def offences(source: str) -> Iterator[tuple[int, str]]:
    """(line, reason) of each call in `source` that could reach the host's network."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, owner = name_of(node), owner_of(node)
        starts_node = name in NODES and (name.endswith("Config") or owner == "pt")
        if starts_node and not is_false(node, "lan"):
            yield node.lineno, f"{name}(…) without lan=False"
        public = name.endswith("Config") and not any(g.arg == "public" for g in node.keywords)
        if starts_node and not public and not is_false(node, "public"):
            yield node.lineno, f"{name}(…) without public=False"
        if starts_node and name in {"ExposeConfig", "expose"}:
            listen = [given for given in node.keywords if given.arg == "listen"]
            if not listen or "0.0.0.0" in " ".join(words(listen[0])):
                yield node.lineno, f"{name}(…) without listen= on loopback"
        if name == "Amino" and not any(given.arg == "bootstrap" for given in node.keywords):
            yield node.lineno, f"{name}(…) without its bootstrap peers asks the public DHT"
        if name in LAN and len(node.args) + len(node.keywords) < LAN[name]:
            yield node.lineno, f"{name}(…) without its interfaces"
        said = words(node)
        on_host = name in STARTERS and owner in {"subprocess", "asyncio", "main", "cli", ""}
        is_command = COMMANDS & said and any(word.startswith("--") for word in said)
        if (
            on_host
            and "nat" in said
            and {"--relay", "--stun"} & said
            and "--no-portmap" not in said
        ):
            yield node.lineno, "pt nat on the host without --no-portmap asks the router"
        if on_host and is_command and "--no-lan" not in said:
            yield node.lineno, "a pt command on the host without --no-lan"
        if on_host and is_command and "--no-public" not in said:
            yield node.lineno, "a pt command on the host without --no-public"


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_nodes_say_where_they_may_talk(path):
    name = str(path.relative_to(ROOT))
    if name in IN_NAMESPACE or path == Path(__file__):
        return
    if name in VALUES_ONLY:
        assert not imports(path.read_text()) & STARTING_MODULES
        return
    found = [f"{path.name}:{line}: {reason}" for line, reason in offences(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("ExposeConfig(name='x', services=s)", 2),
        ("ExposeConfig(name='x', services=s, lan=False)", 1),
        ("ExposeConfig(name='x', services=s, lan=False, listen=('/ip4/0.0.0.0/tcp/0',))", 1),
        ("ExposeConfig(name='x', services=s, lan=False, listen=('/ip4/127.0.0.1/tcp/0',))", 0),
        ("BindConfig(name='x', forwards=f, lan=True)", 1),
        ("BindConfig(name='x', forwards=f, lan=False)", 0),
        ("BindConfig(name='x', forwards=f, lan=False, public=True)", 1),
        ("pt.expose(22)", 3),
        ("await_(pt.connect('name', lan=False))", 1),
        ("await_(pt.connect('name', lan=False, public=False))", 0),
        ("sock.connect(('127.0.0.1', 1))", 0),
        ("Amino(node, cache=None)", 1),
        ("Amino(node, bootstrap=known, cache=None)", 0),
        ("LanBrowser(heard)", 1),
        ("LanBrowser(heard, LO)", 0),
        ("subprocess.run([PT, 'tcp', '--port', '22'])", 2),
        ("subprocess.Popen([PT, 'bind', '--port', '0', '--no-lan'])", 1),
        ("subprocess.Popen([PT, 'bind', '--port', '0', '--no-lan', '--no-public'])", 0),
        ("host.popen([PT, 'tcp', '--port', '22'])", 0),
        ("main(['tcp', '--port', '22'])", 2),
        ("main(['nat', '--stun', '127.0.0.1:1'])", 1),
        ("main(['nat', '--stun', '127.0.0.1:1', '--no-portmap'])", 0),
        ("host.run([PT, 'nat', '--relay', relay])", 0),
    ],
)
def test_the_rule_itself(source, count):
    assert len(list(offences(source))) == count


@pytest.mark.parametrize(
    "attempt",
    [
        lambda sock: sock.connect(("11.9.9.9", 9)),
        lambda sock: sock.bind(("0.0.0.0", 0)),
        lambda sock: sock.bind(("", 0)),
        lambda sock: sock.sendto(b"", ("11.9.9.9", 9)),
        lambda sock: sock.sendmsg([b""], [], 0, ("11.9.9.9", 9)),
        lambda sock: sock.sendto(b"", ("224.0.0.251", 5353)),
        lambda _: socket.getaddrinfo("example.com", 80),
    ],
)
def test_the_guard_stops_what_would_leave(attempt):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(HostNetworkError):
        attempt(sock)
    assert len(take_hits()) == 1  # or this test would fail


def test_the_guard_lets_loopback_be():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port)), server.accept()[0]:
            pass

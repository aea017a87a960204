"""Programs people really run, through the tunnel: ssh, scp, rsync, curl, psql, redis."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import (
    LISTEN,
    MIB,
    NAME,
    PT,
    Rig,
    big_file,
    direct_address,
    local_port,
    need,
    read_all,
    sha256,
    soak,
    wait_listening,
)
from tests.e2e.sshd import SSH_PORT, Ssh, start_sshd

pytestmark = [pytest.mark.netns, pytest.mark.timeout(240)]
FILE_SIZE = 1024 * MIB if soak() else 96 * MIB


@pytest.fixture(scope="module")
def ssh(shared_rig: Rig) -> Ssh:
    directory = start_sshd(shared_rig)
    exposer = shared_rig.expose("--port", str(SSH_PORT))
    binder = shared_rig.bind("--port", "0", to=exposer)
    return Ssh(shared_rig, directory, local_port(binder), direct_address(exposer))


def test_ssh_runs_a_command(ssh: Ssh) -> None:
    done = ssh.rig.b.run(ssh.command("echo out; echo err >&2; exit 7"), check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_ssh_is_interactive(ssh: Ssh) -> None:
    shell = ssh.rig.b.popen(
        ssh.command("-tt", "stty -echo; echo go; while read x; do echo got $x; done"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    assert shell.stdout.readline().strip() == b"go"
    for word in (b"one", b"two", b"three"):
        shell.stdin.write(word + b"\n")
        shell.stdin.flush()
        assert shell.stdout.readline().strip() == b"got " + word
    shell.stdin.write(b"\x04")
    shell.stdin.flush()
    assert shell.wait(60) in (0, 1)


def test_ssh_by_proxy_command(ssh: Ssh) -> None:
    home = ssh.rig.home("proxy")
    proxy = f"env PT_HOME={home} {PT} bind --port - --id {NAME} --no-lan --peer {ssh.address}"
    argv = ["ssh", *ssh.options(f"-oProxyCommand={proxy}"), "root@any", "cat; echo done"]
    data = os.urandom(3 * MIB)
    done = ssh.rig.b.run(argv, feed=data, timeout=120)
    assert done.stdout == data + b"done\n"


@pytest.mark.soak
def test_scp_both_ways(ssh: Ssh, tmp_path: Path) -> None:
    digest = big_file(tmp_path / "local", FILE_SIZE)
    options = ssh.options("-P", str(ssh.port))
    there, back = f"root@127.0.0.1:{tmp_path}/there", str(tmp_path / "back")
    ssh.rig.b.run(["scp", "-q", *options, str(tmp_path / "local"), there], timeout=200)
    assert sha256(tmp_path / "there") == digest
    ssh.rig.b.run(["scp", "-q", *options, there, back], timeout=200)
    assert sha256(tmp_path / "back") == digest


@pytest.mark.soak
def test_rsync(ssh: Ssh, tmp_path: Path) -> None:
    need("rsync")
    source = tmp_path / "source"
    source.mkdir()
    digests = {"big": big_file(source / "big", FILE_SIZE)}
    digests |= {f"f{i}": big_file(source / f"f{i}", i * 1000) for i in range(50)}
    shell = " ".join(["ssh", *ssh.options("-p", str(ssh.port))])
    target = f"root@127.0.0.1:{tmp_path}/target"
    ssh.rig.b.run(["rsync", "-a", "-e", shell, f"{source}/", target], timeout=200)
    assert {path.name: sha256(path) for path in (tmp_path / "target").iterdir()} == digests


def test_curl_of_a_directory(rig: Rig) -> None:
    need("curl")
    root = rig.tmp / "www"
    root.mkdir()
    digests = {f"file{i}": big_file(root / f"file{i}", i * 700_001) for i in range(12)}
    server = [sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1", "-d", str(root)]
    rig.daemon(rig.a, server, 8000)
    _, _, port = rig.tunnel(8000)
    listing = rig.b.run(["curl", "-sSf", f"http://127.0.0.1:{port}/"]).stdout.decode()
    assert all(f">{name}<" in listing for name in digests)
    out = rig.tmp / "out"
    out.mkdir()
    glob = f"http://127.0.0.1:{port}/file[0-11]"
    rig.b.run(["curl", "-sSf", "--parallel", glob, "-o", f"{out}/file#1"], timeout=120)
    assert {path.name: sha256(path) for path in out.iterdir()} == digests


def test_an_http_client_that_half_closes_gets_the_whole_reply(rig: Rig) -> None:
    root = rig.tmp / "www"
    root.mkdir()
    digest = big_file(root / "reply", 16 * MIB)
    server = [sys.executable, "-m", "http.server", "8000", "--bind", "127.0.0.1", "-d", str(root)]
    rig.daemon(rig.a, server, 8000)
    _, _, port = rig.tunnel(8000)
    client = rig.dial(port)
    client.sendall(b"GET /reply HTTP/1.0\r\n\r\n")
    client.shutdown(socket.SHUT_WR)
    head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert hashlib.sha256(body).hexdigest() == digest


@pytest.fixture
def postgres_data() -> Iterator[Path]:
    """A directory PostgreSQL's user may use: tmp_path is closed to it."""
    with tempfile.TemporaryDirectory(prefix="pt-e2e-pg-") as made:
        path = Path(made)
        path.chmod(0o755)
        (path / "data").mkdir(mode=0o700)
        shutil.chown(path / "data", "postgres")
        yield path / "data"


def test_psql(rig: Rig, postgres_data: Path) -> None:
    need("initdb", "postgres", "psql", "runuser")
    bin_dir = Path(str(shutil.which("initdb"))).resolve().parent
    as_user = ["runuser", "-u", "postgres", "--"]
    rig.a.run(
        [*as_user, str(bin_dir / "initdb"), "-D", str(postgres_data), "-A", "trust", "-N",
         "--no-instructions", "-E", "UTF8", "--locale", "C"],
        cwd="/",
    )  # fmt: skip
    server = [*as_user, str(bin_dir / "postgres"), "-D", str(postgres_data), "-F"]
    server += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    rig.daemon(rig.a, server, 5432, cwd="/")
    _, _, port = rig.tunnel(5432)
    psql = ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-At", "-d"]
    psql += [f"host=127.0.0.1 port={port} user=postgres dbname=postgres"]
    table = "".join(f"{i}\t{hashlib.sha256(b'%d' % i).hexdigest()}\n" for i in range(100_000))
    rig.b.run([*psql, "-c", "create table t (i int, h text)"])
    rig.b.run([*psql, "-c", "\\copy t from stdin"], feed=table.encode(), timeout=120)
    out = rig.b.run([*psql, "-c", "\\copy (select * from t order by i) to stdout"], timeout=120)
    assert out.stdout.decode() == table
    bad = rig.b.run([*psql, "-c", "select 1/0"], check=False)
    assert bad.returncode == 1
    assert b"division by zero" in bad.stderr
    assert rig.b.run([*psql, "-c", "select count(*) from t"]).stdout == b"100000\n"


def test_redis_pipeline(rig: Rig) -> None:
    need("redis-server")
    server = ["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir"]
    rig.daemon(rig.a, [*server, str(rig.tmp)], 6379)
    _, _, port = rig.tunnel(6379)
    client = rig.dial(port)
    count = 20_000
    pipeline = b"".join(b"SET k%d v%d\r\nGET k%d\r\n" % (i, i, i) for i in range(count))
    replies = b"".join(b"+OK\r\n$%d\r\nv%d\r\n" % (len(f"v{i}"), i) for i in range(count))
    client.sendall(pipeline)
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == replies


def test_wait_listening_tells_who_died(rig: Rig) -> None:
    dead = rig.a.popen(["false"])
    log = rig.tmp / "log"
    log.write_text("why")
    with pytest.raises(AssertionError, match=r"does not listen\nwhy"):
        wait_listening(rig.a, 1, dead, log)


def test_the_listen_address_is_the_one_published(rig: Rig) -> None:
    exposer = rig.expose("--port", "80", "--listen", LISTEN)
    assert direct_address(exposer).startswith(f"/ip4/{rig.a.ip}/tcp/4001/p2p/")

"""What is in packaging/ says what the real command understands."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from pt.cli import relay, supervise
from pt.cli.main import build_parser
from pt.cli.options import DEFAULT_DRAIN
from pt.relay.registry import STRANGERS, USERS
from pt.relayd.config import KEYS, QUOTA_KEYS, RelayConfig, default_listen, read_toml
from pt.relayd.http import AdminServer
from pt.relayd.metrics import exposition, registry_of
from tests.unit.relayd.samples import snapshot

ROOT = Path(__file__).resolve().parents[3]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "pt-relay.service"
EXAMPLE = PACKAGING / "relay.toml"
CONTAINER = PACKAGING / "Containerfile"
GUIDE = PACKAGING / "README.md"


def options(argv: list[str]) -> argparse.Namespace:
    """Parse with the parser of the command."""
    assert argv[:2] == ["pt", "relay"]
    return build_parser(("relay",)).parse_args(argv[1:])


# --- systemd -----------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """Every assignment of the unit, in order; systemd's files may repeat a key."""
    found = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


def only(key: str) -> str:
    (value,) = unit()[key]
    return value


def test_unit_starts_the_command_that_is():
    program, *argv = shlex.split(only("ExecStart"))
    assert program == "/usr/local/bin/pt"
    args = options(["pt", *argv])
    assert args.config == "/etc/pt/relay.toml"
    assert args.home == "${STATE_DIRECTORY}"
    assert only("StateDirectory") in GUIDE.read_text()


def test_unit_waits_for_readiness_and_for_the_drain():
    assert only("Type") == "notify"
    assert int(only("TimeoutStopSec")) > DEFAULT_DRAIN + supervise.CLOSE_TIMEOUT
    assert only("SuccessExitStatus") == "143"  # 128 + SIGTERM
    assert only("RestartPreventExitStatus") == "2"  # UsageError.exit_code
    assert only("ExecReload") == "/bin/kill -HUP $MAINPID"


def test_unit_has_room_for_all_connections():
    assert int(only("LimitNOFILE")) >= 4 * RelayConfig.connections + 1024


def test_unit_needs_no_root():
    assert only("DynamicUser") == "yes"
    assert only("CapabilityBoundingSet") == only("AmbientCapabilities") == "CAP_NET_BIND_SERVICE"
    assert only("ProtectSystem") == "strict"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_unit_in_the_eyes_of_systemd(tmp_path):
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/pt", sys.executable))
    for argv in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", "--no-pager", *argv, copy],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""


# --- configuration -----------------------------------------------------------------------------


def config(path: Path) -> RelayConfig:
    return relay.config_from(options(["pt", "relay", "--config", str(path)]))


def uncommented(*, without: str) -> str:
    """The example with every commented key in force, but those."""
    text = re.sub(r"^# ([a-z-]+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    return re.sub(rf"^({without}) = .*\n", "", text, flags=re.MULTILINE)


def test_example_is_the_defaults_and_a_page():
    default = RelayConfig(http=("127.0.0.1", 9090))
    assert config(EXAMPLE) == default


def test_example_tells_the_defaults(tmp_path):
    """What is commented out and no example of a file or name is the default indeed."""
    path = tmp_path / "relay.toml"
    path.write_text(
        uncommented(
            without="announce|tls-cert|tls-key|secret-file|allow-file|stun-peer|stun-secret-file"
        )
    )
    found = config(path)
    assert found.strangers == STRANGERS
    assert found.users == USERS
    assert set(found.listen) == set(default_listen())
    assert found.connections == RelayConfig.connections
    assert (found.stun, found.stun_port) == (True, 3479)
    assert (found.rate, found.circuit_rate, found.private) == (0, 0, False)


def test_example_names_every_key():
    found = tomllib.loads(uncommented(without="-"))
    assert set(found) == KEYS
    for table, quotas in (("strangers", STRANGERS), ("users", USERS)):
        assert set(found[table]) == QUOTA_KEYS
        fields = {field.name.replace("_", "-") for field in dataclasses.fields(quotas)}
        assert fields - {"limit"} <= set(found[table])


def test_example_with_its_examples(tmp_path):
    (tmp_path / "secret").write_text("a secret that is long enough\n")
    (tmp_path / "stun-secret").write_text("a secret of two relays\n")
    (tmp_path / "allow").write_text("")
    path = tmp_path / "relay.toml"
    path.write_text(uncommented(without="-").replace("/etc/pt", str(tmp_path)))
    read_toml(str(path))
    found = config(path)
    assert found.secret == "a secret that is long enough"
    assert [str(each) for each in found.announce] == ["/dns4/relay.example.org/tcp/443/tls/ws"]
    assert [str(each) for each in found.stun_peers] == ["/ip4/192.0.2.2/tcp/4001"]
    assert found.stun_secret == "a secret of two relays"
    assert found.tls_key == f"{tmp_path}/privkey.pem"


# --- container ---------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The container's recipe, comments gone and lines joined."""
    text = re.sub(r"^#.*\n", "", CONTAINER.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line]


def last(name: str) -> str:
    return [value for each, value in instructions() if each == name][-1]


def test_container_starts_the_command_that_is():
    assert options(json.loads(last("ENTRYPOINT"))).http == "127.0.0.1:9090"
    (port,) = {str(address.tcp_port) for address in default_listen()}
    second = str(RelayConfig.stun_port)
    assert last("EXPOSE").split() == [port, f"{port}/udp", second, f"{second}/udp"]


def test_container_does_not_run_as_root():
    user, group = last("USER").split(":")
    assert int(user) == int(group) > 1000
    home = last("VOLUME")
    assert f"--uid {user} --home-dir {home} --create-home" in last("RUN")
    assert f"PT_HOME={home}" in last("ENV")


def test_container_has_a_python_that_we_support():
    version = re.search(r"python:3\.(\d+)-slim", last("FROM"))
    assert version is not None
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert int(version[1]) >= int(wanted.removeprefix(">=3."))


def test_container_copies_what_the_build_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = {word for name, value in instructions() if name == "COPY" for word in value.split()}
    assert {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
    } <= copied
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied


@pytest.mark.parametrize("draining", [False, True])
def test_health_check_of_the_container(draining):
    flags, _, command = last("HEALTHCHECK").partition("CMD ")
    assert "--interval" in flags
    argv = json.loads(command)
    assert argv[0] == "python"

    async def check() -> int:
        server = AdminServer(lambda: snapshot(draining=draining), listen=("127.0.0.1", 0))
        await server.start()
        code = argv[2].replace("9090", str(server.address[1]))
        process = await asyncio.create_subprocess_exec(
            sys.executable, argv[1], code, stderr=asyncio.subprocess.DEVNULL
        )
        exit_code = await process.wait()
        await server.aclose()
        return exit_code

    assert (asyncio.run(check()) == 0) is not draining


# --- the guide ---------------------------------------------------------------------------------


def test_guide_names_what_is_there():
    text = GUIDE.read_text()
    parser = argparse.ArgumentParser()
    relay.add_arguments(parser)
    known = parser.format_help()
    for flag in ("--json", "--secret-file", "--make-secret"):
        assert flag in text
        assert flag in known
    for name in re.findall(r"packaging/([\w.-]+)", text):
        assert (PACKAGING / name).is_file(), name
    told = exposition(registry_of(snapshot), "")[0].decode()
    for metric in re.findall(r"`(pt_relay_\w+)`", text):
        assert f"\n{metric}{{" in told, metric

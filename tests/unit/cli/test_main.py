from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pt
from pt import errors
from pt.cli import main as cli
from pt.errors import ConnectError, Dial

ROOT = Path(__file__).parents[3]
DEAR = ("asyncio", "cryptography", "zeroconf", "dataclasses", "noise", "ssl", "logging")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_nothing_dear(argument: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['pt', {argument!r}]\n"
        "from pt.cli.main import entry\n"
        "try:\n    entry()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"found = [name for name in {DEAR!r} if name in sys.modules]\n"
        "assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=30, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pt" in done.stdout


def test_the_version_is_the_package_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert pt.__version__ == project["project"]["version"]


@pytest.mark.parametrize(
    "argv",
    [[], ["frobnicate"], ["key", "frobnicate"], ["key", "--frob"], ["completion"], ["--prot", "1"]],
)
def test_usage_errors_exit_2(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert "usage: pt" in capsys.readouterr().err


def test_an_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    class Module:
        @staticmethod
        def add_arguments(parser: object) -> None: ...

        @staticmethod
        def run(args: object) -> int:
            raise ConnectError("no path to x", (Dial("/ip4/11.0.0.1/tcp/1", "refused"),))

    monkeypatch.setattr(cli, "load", lambda command: Module)
    assert cli.main(["demo"]) == 5
    assert capsys.readouterr().err == "pt: no path to x\n    /ip4/11.0.0.1/tcp/1: refused\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def add_arguments(parser: object) -> None: ...

        @staticmethod
        def run(args: object) -> int:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", lambda command: Module)
    assert cli.main(["demo"]) == 130


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for command in cli.COMMANDS:
        assert f"`pt {command}`" in text, command


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    parser = cli.build_parser(tuple(cli.COMMANDS))
    (subparsers,) = [a for a in parser._actions if isinstance(a.choices, dict)]
    for command, sub in subparsers.choices.items():
        for action in sub._actions:
            for option in action.option_strings:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}" in text, (command, option)


def test_every_exit_code_is_documented_and_listed() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    table = text.partition("## Exit codes")[2].partition("##")[0]
    named = [getattr(errors, name) for name in errors.__all__]
    kinds = [each for each in named if isinstance(each, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.PtError)}
    assert {7, 12, 13} <= codes
    listed = re.findall(r"(\d+) [a-z]", cli.EPILOG.partition("exit codes:")[2])
    for code in codes:
        assert f"| {code} |" in table
        assert str(code) in listed

from __future__ import annotations

import json

import pytest

from pt.cli import selftest
from pt.cli.main import main
from pt.tunnel.selftest import CaseResult


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PT_JSON", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["--size", "0"], ["--through", "9"], ["--through", "h:x"]]
)
def test_bad_options(argv: list[str]) -> None:
    assert main(["selftest", "wire", *argv]) == 2


@pytest.mark.parametrize("name", ["half-close-client", "refused"])
def test_a_case_through_our_own_tunnel(name: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["selftest", "wire", name]) == 0
    row, total = capsys.readouterr().out.splitlines()
    assert row.startswith(f"pass  {name} ")
    assert total == "1 passed, 0 failed, 0 skipped"


RESULTS = {
    "fin": CaseResult(name="fin", title="t", ok=True, seconds=1, detail="good"),
    "duplex": CaseResult(name="duplex", title="t", ok=False, seconds=2, detail="byte 7"),
    "refused": CaseResult(name="refused", title="t", ok=True, seconds=0, detail="-", skipped=True),
}


def test_the_table_and_the_exit_code(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "run_case", lambda name, **_: RESULTS[name])
    argv = ["selftest", "wire", *RESULTS, "--through", "127.0.0.1:9"]
    assert main(argv) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:3]] == [
        ["pass", "fin"],
        ["FAIL", "duplex"],
        ["skip", "refused"],
    ]
    assert out[3] == "1 passed, 1 failed, 1 skipped"
    assert main([*argv, "--json"]) == 1
    *cases, total = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [case["ok"] for case in cases] == [True, False, True]
    assert (total["passed"], total["failed"], total["skipped"]) == (1, 1, 1)

"""The hosts of a test, and what `pt` said on them when the test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Rig, rig_at


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with rig_at(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One rig for the tests of a module that leave its processes as they are."""
    with rig_at(tmp_path_factory.mktemp("rig")) as made:
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.failed:
        funcargs = getattr(item, "funcargs", {})
        for name in ("rig", "shared_rig"):
            if isinstance(made := funcargs.get(name), Rig):
                report.sections.append((f"pt processes of {name}", made.describe()))
    return report

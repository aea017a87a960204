"""What every test shares: marks, the guard of the host's network, and that CI skips nothing."""

from __future__ import annotations

import os
import re

import hypothesis
import pytest

from pt.lab import unavailable
from tests import guard

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


guard.install()
hypothesis.settings.register_profile(
    "shared",
    deadline=None,  # a test that times is none
    derandomize=CI,  # there a change is judged by its own faults; new examples are looked for here
)
hypothesis.settings.load_profile("shared")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: has a long form, chosen by `-m soak` or PT_SOAK=1")
    if config.getoption("markexpr", "") == "soak":
        os.environ["PT_SOAK"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("netns")]
    if marked and (reason := unavailable()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"laboratory: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Fail a test that the guard stopped; under CI=true, one that is skipped, as nobody runs it."""
    report = yield
    if (hits := guard.take_hits()) and not report.failed:
        report.outcome = "failed"
        report.longrepr = "\n".join(hits)
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        reason = re.sub(r"^Skipped: ", "", str(reason))
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: nothing may be skipped under CI=true: {reason}"
    return report

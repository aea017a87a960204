"""The laboratory's report in a real browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pt.lab.lab import Lab
from pt.lab.report import render
from pt.lab.results import Cell
from tests.e2e.browser import browser_at
from tests.unit.lab.test_report import attempts

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
KINDS = ("public", "eim-eif", "eim-apdf", "adm-adf", "apdm-apdf", "linux")


def page() -> str:
    found = []
    for index, one in enumerate(KINDS):
        for other in KINDS[index:]:
            failures = [None] * (index if other == "apdm-apdf" else 0)
            times = [0.02 + 0.01 * index + 0.005 * run for run in range(8)]
            found += attempts(Cell(a=one, b=other, link="delay=5"), [*failures, *times])
    return render(found, "Hole punching in the laboratory", [("program", "pt")])


def test_it_is_readable_everywhere_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(), "utf-8")
    with Lab(a="public", public=0) as lab, lab["a"].inside(), browser_at(tmp_path) as browser:
        browser.look(width=1100)
        browser.driver.get(path.as_uri())
        assert browser.complaints() == []
        assert browser.script("return performance.getEntriesByType('resource').length") == 0
        assert browser.script("return document.querySelectorAll('table.heat td').length") == 36
        assert browser.script("return document.querySelectorAll('polyline').length") == 21
        assert browser.script("return document.querySelectorAll('circle').length") > 20
        for dark in (False, True):
            for width in (390, 1100):
                browser.look(width=width, dark=dark)
                poor = [found for found in browser.contrasts() if found[1] < 4.5]
                assert poor == []
                fits = "return document.documentElement.scrollWidth <= innerWidth"
                assert browser.script(fits), width
        browser.script("document.querySelector('details').open = true")
        assert "signal" in str(browser.script("return document.querySelector('ol').innerText"))
        if shots := os.environ.get("PT_SHOTS"):
            browser.look(width=1100, height=3200)
            browser.driver.save_screenshot(f"{shots}/report.png")

"""The page stands by itself, says what was measured, and lets nothing through unescaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from pt.lab.report import groups, render, summary
from pt.lab.results import Attempt, Cell

HARD = Cell(a="eim-apdf", b="apdm-apdf", link="delay=5")


def attempts(cell: Cell, times: list[float | None], **more) -> list[Attempt]:
    return [
        Attempt(
            cell=cell,
            run=run,
            seed=run,
            puncher="pt",
            direct=seconds is not None,
            seconds=seconds,
            winner="birthday" if seconds is not None else "",
            reason="" if seconds is not None else "no <direct> path",
            packets={"a": 10 + run},
            timeline=[
                {"side": "a", "event": "signal", "t": 0.1},
                {"side": "b", "event": "outcome", "t": 0.2 + run},
            ],
            **more,
        )
        for run, seconds in enumerate(times)
    ]


ALL = attempts(HARD, [0.1, 0.3, 0.2, None]) + attempts(Cell(a="public", b="public"), [0.01, 0.02])


class Reader(HTMLParser):
    """What a browser would see and load."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_it_holds_what_was_measured_and_loads_nothing() -> None:
    page = read(render(ALL, "A <title>", [("program", "pt 1")]))
    assert page.loads == []
    assert "script" not in page.tags
    assert not re.search(r"https?://", page.text)
    assert "A <title>" in page.text
    assert "6 attempts in 2 cells" in page.text
    assert "75%" in page.text
    assert "75.0%" in page.text
    assert "200 ms" in page.text
    assert "no <direct> path" in page.text
    assert page.tags.count("polyline") == 2
    assert {"table", "svg", "details"} <= set(page.tags)


def test_failures_come_first_among_the_timelines() -> None:
    page = render(ALL, "t")
    assert page.index("no &lt;direct&gt; path</figcaption>") < page.index("direct in 300 ms")


def test_a_campaign_of_failures_alone_or_of_nothing_has_a_page_too() -> None:
    assert "no &lt;direct&gt; path" in render(attempts(HARD, [None]), "t")
    assert "0 attempts" in render([], "t")


def test_groups_and_their_summary() -> None:
    first, second = groups(ALL)
    assert (len(first.attempts), first.successes, first.times) == (4, 3, [0.1, 0.3, 0.2])
    text = summary(first)
    assert text.startswith("3/4 direct (30% to 95% with 95 % confidence), time p50 200 ms, p99")
    assert text.endswith("by birthday 3; 1: no <direct> path")
    assert second.name == "public with public"

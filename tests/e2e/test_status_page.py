"""The relay's status page in a real browser, with numbers that the test sets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pt.lab import Host, Lan
from tests.e2e.browser import Browser, browser_at, until

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]
PEER_ID = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
ADDRESS = f"/ip4/203.0.113.7/tcp/443/p2p/{PEER_ID}"
USERS = {
    "grade": "user",
    "reservations": 3,
    "reservations_limit": 16384,
    "circuits": 2,
    "circuits_limit": 16384,
    "rate": 125e6,
}
STRANGERS = {
    "grade": "stranger",
    "reservations": 127,
    "reservations_limit": 128,
    "circuits": 1,
    "circuits_limit": 1024,
    "duration": 120,
    "data": 131072,
}
TOTALS = {
    "reservations": {"made": 1893},
    "circuits": {"raw": 7, "libp2p": 3},
    "bytes": {"raw": 2_000_000_000, "libp2p": 51_000},
    "refusals": {"no_reservation": 230, "resource_limit_exceeded": 17},
    "connections": 21,
}


def circuit(number: int, **fields: object) -> dict[str, object]:
    return {
        "number": number,
        "kind": "raw",
        "source": f"12D3…{number:04}",
        "target": "12D3…9fQe",
        "grade": "user",
        "age": 75.0,
        "sent": 1_500_000,
        "received": 999,
        "rate": 250_000.0,
        **fields,
    }


FULL: dict[str, object] = {
    "peer_id": PEER_ID,
    "version": "1.2.3",
    "addresses": [ADDRESS],
    "connections": 5,
    "memory": 71_000_000,
    "draining": False,
    "grades": [USERS, STRANGERS],
    "totals": TOTALS,
    "open_circuits": {"raw": 2, "libp2p": 1},
    "circuits": [
        circuit(1),
        circuit(2, age=3700.0),
        circuit(3, kind="libp2p", grade="stranger", rate=0.0),
    ],
    "reservations": [
        {"peer": "12D3…9fQe", "grade": "user", "expires_in": 3599.0, "circuits": 2},
        {"peer": "12D3…abcd", "grade": "stranger", "expires_in": 59.0, "circuits": 0},
    ],
}


class Page:
    """A page of settable numbers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.port = 0
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        argv = [sys.executable, "-m", "tests.e2e.page_source", str(self.port)]
        self.process = self._host.popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()
        self.port = urlsplit(self.url).port or 0

    def set(self, **fields: object) -> int:
        """Change what the page shows; return how many snapshots were taken until now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fields).encode() + b"\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Lan(hosts=1, names=["relay"]) as lan, lan.hosts[0].inside():
        yield lan.hosts[0]


@pytest.fixture(scope="module")
def browser(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser_at(tmp_path_factory.mktemp("browser")) as one:
        yield one


@pytest.fixture
def page(host: Host, browser: Browser) -> Iterator[Page]:
    one = Page(host)
    one.start()
    one.set(**FULL)
    browser.look(width=1200)
    browser.driver.get(one.url)
    until(browser, lambda: browser.text("state") == "live")
    yield one
    assert not [line for line in browser.complaints() if "ERR_CONNECTION_REFUSED" not in line]
    browser.driver.get("about:blank")
    one.process.kill()


def test_it_shows_what_the_relay_does(page: Page, browser: Browser) -> None:
    assert browser.driver.title == "3 circuits · pt relay"
    assert browser.text("peer") == "12D3…iDEp"
    assert "1.2.3" in browser.text("version")
    assert browser.text("circuits-open") == "3"
    assert browser.text("circuits-kinds") == "2 raw, 1 libp2p"
    assert browser.text("bytes-total") == "2.0 GB"
    assert browser.text("circuits-total") == "in 10 circuits"
    assert browser.text("reservations-held") == "130"
    assert browser.text("reservations-total") == "1,893 in all"
    assert browser.text("connections") == "5"
    assert browser.text("memory") == "71.0 MB of memory"
    assert browser.text("addresses").startswith(ADDRESS)
    assert browser.rows("circuits") == [
        ["raw", "12D3…0001", "12D3…9fQe", "user", "1 min 15 s", "1.5 MB", "999 B", "250 kB/s"],
        ["raw", "12D3…0002", "12D3…9fQe", "user", "1 h 1 min", "1.5 MB", "999 B", "250 kB/s"],
        ["libp2p", "12D3…0003", "12D3…9fQe", "stranger", "1 min 15 s", "1.5 MB", "999 B", "0 B/s"],
    ]
    assert browser.rows("reservations") == [
        ["12D3…9fQe", "user", "2", "59 min 59 s"],
        ["12D3…abcd", "stranger", "0", "59 s"],
    ]
    assert browser.rows("refusals") == [
        ["no reservation", "230"],
        ["resource limit exceeded", "17"],
    ]
    users, strangers = browser.text("grades").split("Strangers")
    assert "3 of 16,384" in users
    assert "125 MB/s, shared fairly" in users
    assert "127 of 128" in strangers
    assert "at most 2 min" in strangers
    assert "at most 128 KiB" in strangers


def test_it_is_live(page: Page, browser: Browser) -> None:
    browser.script("window.kept = true")
    page.set(
        open_circuits={"raw": 1},
        circuits=[circuit(9, rate=5e6, sent=7_000_000)],
        reservations=[],
        grades=[{**USERS, "reservations": 0}],
        connections=6,
        totals={**TOTALS, "bytes": {"raw": 3_000_000_000}, "refusals": {}},
    )
    until(browser, lambda: browser.text("circuits-open") == "1")
    assert browser.text("connections") == "6"
    assert browser.text("bytes-total") == "3.0 GB"
    assert [row[1] for row in browser.rows("circuits")] == ["12D3…0009"]
    assert browser.text("reservations-more") == "Nobody has a reservation."
    assert browser.text("refusals-more") == "Nothing was refused since the start."
    until(browser, lambda: "B/s" in browser.text("throughput"))
    assert browser.script("return document.querySelector('#spark .line').getAttribute('d')")
    assert browser.script("return window.kept") is True  # without loading again


def test_throughput_is_the_growth_of_the_bytes(page: Page, browser: Browser) -> None:
    totals = dict(TOTALS)
    now = time.time()
    for second in range(5):  # 4 MB/s on the relay's clock, however slow this machine is
        totals["bytes"] = {"raw": 10**9 + second * 4_000_000}
        page.set(taken=now + second, totals=totals, connections=1000 + second)
        until(browser, lambda: browser.text("connections") == f"1,00{second}")  # noqa: B023
    assert browser.text("throughput") == "4.0 MB/s"


def test_rows_that_stay_are_kept(page: Page, browser: Browser) -> None:
    browser.script("document.getElementById('circuits').tBodies[0].rows[1].mine = true")
    page.set(circuits=[circuit(2, rate=9e6), circuit(4)], connections=77)
    until(browser, lambda: browser.text("connections") == "77")
    assert [row[1] for row in browser.rows("circuits")] == ["12D3…0002", "12D3…0004"]
    assert browser.script("return document.getElementById('circuits').tBodies[0].rows[0].mine")


def test_more_than_it_shows(page: Page, browser: Browser) -> None:
    page.set(
        open_circuits={"raw": 900, "libp2p": 100},
        circuits=[circuit(i) for i in range(200)],
        grades=[{**USERS, "reservations": 5002}],
    )
    until(browser, lambda: browser.text("circuits-open") == "1,000")
    assert len(browser.rows("circuits")) == 200
    assert browser.text("circuits-more") == "… and 800 more"
    assert browser.text("reservations-more") == "… and 5,000 more"


def test_draining(page: Page, browser: Browser) -> None:
    page.set(draining=True)
    until(browser, lambda: browser.text("state") == "draining")


def test_private_relay(page: Page, browser: Browser) -> None:
    page.set(grades=[USERS, {"grade": "stranger", "served": False}])
    until(browser, lambda: "not served here" in browser.text("grades"))


def test_relay_lost_and_found(page: Page, browser: Browser) -> None:
    page.process.kill()
    page.process.wait()
    until(browser, lambda: browser.text("state") == "lost")
    assert "Connection to the relay lost" in browser.text("lost")
    assert browser.text("circuits-open") == "3"  # the last that was known
    page.start()
    page.set(**{**FULL, "open_circuits": {"raw": 4}})
    until(browser, lambda: browser.text("state") == "live")
    assert browser.text("circuits-open") == "4"
    assert browser.text("lost") == ""


def test_relay_that_hangs(page: Page, browser: Browser) -> None:
    page.process.send_signal(signal.SIGSTOP)
    until(browser, lambda: browser.text("state") == "lost")
    page.process.send_signal(signal.SIGCONT)
    until(browser, lambda: browser.text("state") == "live")


def test_nobody_looks_nobody_asks(page: Page, browser: Browser) -> None:
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    other = browser.driver.current_window_handle
    page.set()
    time.sleep(1.5)  # an answer on its way, and one more period
    before = page.set()
    time.sleep(3)  # three periods
    assert page.set() == before
    browser.driver.close()
    assert other != first
    browser.driver.switch_to.window(first)
    page.set(connections=4321)
    until(browser, lambda: browser.text("connections") == "4,321")


def test_text_stays_text(page: Page, browser: Browser) -> None:
    evil = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
    page.set(
        version=evil,
        addresses=[evil],
        circuits=[circuit(1, source=evil, kind="raw")],
        reservations=[{"peer": evil, "grade": evil, "expires_in": 1.0, "circuits": 1}],
        totals={**TOTALS, "refusals": {evil: 1}},
        connections=13,
    )
    until(browser, lambda: browser.text("connections") == "13")
    assert browser.rows("circuits")[0][1] == evil
    assert browser.rows("refusals")[0][0] == evil
    assert browser.script("return window.pwned === undefined")
    assert browser.script("return document.querySelectorAll('main img, main script').length") == 0


def test_nothing_comes_from_elsewhere(page: Page, browser: Browser) -> None:
    loaded = browser.script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert isinstance(loaded, list)
    paths = {urlsplit(name).path for name in loaded}
    assert {"/page.css", "/page.js", "/status.json"} <= paths
    assert {urlsplit(name).netloc for name in loaded} == {f"127.0.0.1:{page.port}"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [340, 768, 1200])
def test_it_fits_and_can_be_read(page: Page, browser: Browser, width: int, dark: bool) -> None:
    browser.look(width=width, dark=dark)
    page.set(draining=True)
    until(browser, lambda: browser.text("state") == "draining")
    wide = browser.script("return document.documentElement.scrollWidth")
    assert isinstance(wide, int)
    assert wide <= width
    contrasts = browser.contrasts()
    assert len(contrasts) > 50
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
    ground = browser.script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(14, 21, 25)") is dark


def test_others_than_eyes_can_read_it(page: Page, browser: Browser) -> None:
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored")
    ]
    names = {role: [name for each, name in nodes if each == role] for role, _ in nodes}
    assert "pt relay" in names["heading"]
    assert len(names["main"]) == len(names["banner"]) == len(names["contentinfo"]) == 1
    assert len(names["status"]) == 1
    assert len(names["table"]) == 3
    assert len(names["columnheader"]) == 14
    assert "Reservations of strangers" in names["meter"]
    assert f"Copy {ADDRESS}" in names["button"]
    assert all(name for role in ("button", "link", "meter", "region") for name in names[role])
    assert browser.script("return document.documentElement.lang") == "en"

"""A headless Chromium for tests, in whatever network namespace the calling thread is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from tests.e2e.harness import TIMEOUT, need

FLAGS = (
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
)
# Luminance and contrast as in WCAG 2.2; text over anything but plain colours is not looked at.
CONTRASTS = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => {
    c /= 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgb(getComputedStyle(e).backgroundColor);
    if (colour.length < 4 || colour[3] > 0.99) return colour;
  }
  return [255, 255, 255];
};
const found = [];
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
  const [a, b] = [light(rgb(getComputedStyle(element).color)), light(ground(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  found.push([texts.currentNode.data.trim(), contrast]);
}
return found;
"""


class Browser:
    """One tab."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def text(self, element: str) -> str:
        """What people read in the element with this id."""
        return str(self.script(f"return document.getElementById({element!r}).innerText"))

    def rows(self, table: str) -> list[list[str]]:
        """The cells of a table's body."""
        return self.script(  # type: ignore[no-any-return]
            f"return Array.from(document.getElementById({table!r}).tBodies[0].rows,"
            " (row) => Array.from(row.cells, (cell) => cell.innerText))"
        )

    def script(self, code: str) -> object:
        return self.driver.execute_script(code)

    def look(self, *, width: int, height: int = 1000, dark: bool = False) -> None:
        """Choose the window's size and the colour scheme."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, calm]})

    def contrasts(self) -> list[tuple[str, float]]:
        """Every visible text with its contrast to what is behind it."""
        return [(str(text), float(ratio)) for text, ratio in self.script(CONTRASTS)]  # type: ignore[attr-defined]

    def complaints(self) -> list[str]:
        """What the page did wrong, in the console's words, since the last call."""
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] in ("SEVERE", "WARNING")]


@contextlib.contextmanager
def browser_at(tmp: Path) -> Iterator[Browser]:
    """Start a Chromium that knows nothing yet, and end it."""
    need("chromium", "chromedriver")
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={tmp / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    env = {**os.environ, "HOME": str(tmp), "XDG_CONFIG_HOME": str(tmp), "XDG_CACHE_HOME": str(tmp)}
    service = Service(
        str(shutil.which("chromedriver")), log_output=str(tmp / "chromedriver.log"), env=env
    )
    driver = Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def until(browser: Browser, holds: Callable[[], bool]) -> None:
    """Wait until the page shows it."""
    WebDriverWait(browser.driver, TIMEOUT, poll_frequency=0.05).until(lambda _: holds())

"""These tests stay on loopback: see `tests.guard`."""

from __future__ import annotations

from tests import guard

guard.install()

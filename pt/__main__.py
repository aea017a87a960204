"""`python -m pt` is `pt`."""

from __future__ import annotations

from pt.cli.main import entry

entry()

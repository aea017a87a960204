"""Golden data of others, with its origin in each directory's README."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["load"]


def load(name):
    """The parsed JSON file `name`, as `libp2p/signed.json`."""
    return json.loads((Path(__file__).parent / name).read_text())

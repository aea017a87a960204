from __future__ import annotations

from typing import get_args

import pytest

from pt.quic import events
from pt.quic.events import Event


def test_the_union_has_all_events() -> None:
    kinds = {kind.__name__ for kind in get_args(Event)}
    assert kinds == set(events.__all__) - {"Address", "Event"}


@pytest.mark.parametrize("kind", get_args(Event))
def test_events_do_not_change(kind: type) -> None:
    with pytest.raises((AttributeError, TypeError)):
        kind(*range(20 if kind is events.Closed else 0)).code = 1

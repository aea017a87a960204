from __future__ import annotations

import inspect

import pytest

from pt.quic.engine import Engine, EngineFactory
from pt.quic.select import factories
from tests.contract.quic_world import Port, World

FACTORIES = factories()


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.name)
def test_engines_have_what_the_contract_lists(factory: EngineFactory) -> None:
    port = Port(World(), "client", factory, ("11.0.0.2", 1))
    engine = port.connect(("11.0.0.1", 1)).engine
    members = [name for name in vars(Engine) if not name.startswith("_")]
    members += list(inspect.get_annotations(Engine))
    assert {"receive", "trains", "next_event", "terminated", "name"} <= set(members)
    for name in members:
        assert hasattr(engine, name), name
        ours = inspect.getattr_static(Engine, name, None)
        if inspect.isfunction(ours):
            there = inspect.signature(getattr(type(engine), name))
            assert list(there.parameters) == list(inspect.signature(ours).parameters), name
    assert engine.name == factory.name

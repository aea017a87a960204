"""Whom a binder accepts, at first use and ever after."""

from __future__ import annotations

from pathlib import Path

import pytest

from pt.errors import IdentityChangedError, StateError
from pt.node.state import StateDir
from pt.tunnel import events
from pt.tunnel.config import BindConfig
from pt.tunnel.pinning import Pinning
from tests.unit.tunnel.media.memory import PEERS

NAME = "a-name-of-the-tests"
A, B, C = PEERS[:3]


def pinning(home: Path, **options: object) -> tuple[Pinning, StateDir, list[events.Event]]:
    seen: list[events.Event] = []
    options = {"name": NAME} | options
    state = StateDir(home)
    config = BindConfig(lan=False, **options)  # type: ignore[arg-type]
    return Pinning(config, state, seen.append), state, seen


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes nothing."""

    def fail(self: StateDir, name: str, data: bytes) -> None:
        raise StateError(f"cannot write {self.path / name}: no space left on device")

    monkeypatch.setattr(StateDir, "_write", fail)


def test_the_first_one_is_remembered_and_told_once(tmp_path: Path) -> None:
    pins, state, seen = pinning(tmp_path)
    assert pins.allowed() == frozenset()
    pins.remember(A)
    pins.remember(A)
    assert pins.allowed() == {A}
    assert state.pinned(NAME) == A
    assert seen == [events.Pinned(peer_id=A)]
    told = str(pins.changed(B))
    for word in (str(A), str(B), NAME, "pt key forget", "--pin", "--any"):
        assert word in told


def test_who_was_first_in_another_process_stays(tmp_path: Path) -> None:
    """Two binders use a name for the first time together, and two exposers answer."""
    ours, state, seen = pinning(tmp_path)
    theirs, _, _ = pinning(tmp_path)
    assert ours.allowed() == theirs.allowed() == frozenset()
    theirs.remember(A)
    with pytest.raises(IdentityChangedError, match=str(A)):
        ours.remember(B)
    assert state.pinned(NAME) == A
    assert seen == []


def test_a_pin_that_others_write_or_drop_counts_from_then_on(tmp_path: Path) -> None:
    pins, state, _ = pinning(tmp_path)
    pins.remember(A)
    state.forget(NAME)
    assert pins.allowed() == frozenset()
    state.pin(NAME, B)
    assert pins.allowed() == {B}


def test_on_a_full_disk_it_is_remembered_as_long_as_the_process_lives(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pins, state, seen = pinning(tmp_path)
    state.pin("another-name", C)  # the files are there
    request.getfixturevalue("full")
    pins.remember(A)
    pins.remember(A)
    assert pins.allowed() == {A}
    assert len(seen) == 1
    assert isinstance(seen[0], events.Warned)
    assert "no space left" in seen[0].message
    request.getfixturevalue("monkeypatch").undo()
    pins.remember(A)
    assert state.pinned(NAME) == A


@pytest.mark.parametrize(
    ("options", "allowed", "kept"),
    [
        ({"pins": (A,)}, {A}, A),
        ({"pins": (A, B)}, {A, B}, None),
        ({"any_exposer": True}, set(), None),
        ({"open": True}, set(), None),
        ({"open": True, "name": None}, set(), None),
    ],
)
def test_what_the_options_say(tmp_path: Path, options, allowed, kept) -> None:
    pins, state, _ = pinning(tmp_path, **options)
    assert pins.allowed() == allowed
    pins.remember(A)
    assert state.pinned(NAME) == kept
    assert pins.allowed() == allowed


def test_one_that_is_named_replaces_who_was_first(tmp_path: Path) -> None:
    StateDir(tmp_path).pin(NAME, A)
    pins, state, seen = pinning(tmp_path, pins=(B,))
    assert pins.allowed() == {B}
    assert "--pin demands" in str(pins.changed(A))
    pins.remember(B)
    assert state.pinned(NAME) == B
    assert seen == [events.Pinned(peer_id=B)]


def test_several_or_any_leave_who_was_first_alone(tmp_path: Path) -> None:
    StateDir(tmp_path).pin(NAME, A)
    for options in ({"pins": (B, C)}, {"any_exposer": True}):
        pins, state, seen = pinning(tmp_path, **options)
        pins.remember(B)
        assert state.pinned(NAME) == A
        assert seen == []


def test_a_damaged_file_is_no_reason_to_accept_anybody(tmp_path: Path) -> None:
    pins, state, _ = pinning(tmp_path)
    pins.remember(A)
    (tmp_path / "known_peers").write_text("nonsense\n")
    with pytest.raises(StateError, match="known_peers"):
        pins.allowed()
    with pytest.raises(StateError, match="known_peers"):
        pins.remember(B)
    del state

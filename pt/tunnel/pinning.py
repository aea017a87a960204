"""Whom a binder accepts as exposer of its name."""

from __future__ import annotations

from collections.abc import Callable

from pt.errors import IdentityChangedError, PtError
from pt.identity.peer_id import PeerId
from pt.node.state import StateDir
from pt.tunnel import events
from pt.tunnel.config import BindConfig

__all__ = ["Pinning"]


class Pinning:
    """`--pin`, else who it was at first use; anybody who proves the name with `--any`."""

    def __init__(
        self, config: BindConfig, state: StateDir, emit: Callable[[events.Event], None]
    ) -> None:
        self._config = config
        self._state = state
        self._emit = emit
        self._unsaved: PeerId | None = None
        """Who it was at first use, if that could not be written down."""

    def allowed(self) -> frozenset[PeerId]:
        """Who may answer; empty: anybody."""
        config = self._config
        if config.pins:
            return frozenset(config.pins)
        if config.any_exposer or config.open or config.name is None:
            return frozenset()
        known = self._state.pinned(config.name) or self._unsaved
        return frozenset() if known is None else frozenset({known})

    def check(self, peer: PeerId) -> None:
        """Accept a peer.

        Raises:
            IdentityChangedError: it is not the one that is remembered or pinned.

        """
        allowed = self.allowed()
        if allowed and peer not in allowed:
            raise self.changed(peer)

    def changed(self, actual: PeerId | None) -> IdentityChangedError:
        """Somebody else answers: what to tell the user."""
        allowed = ", ".join(sorted(str(peer) for peer in self.allowed()))
        if self._config.pins:
            return IdentityChangedError(
                f"the exposer is {actual}, not {allowed} as --pin demands: somebody else offers "
                "this name, or the exposer has a new key"
            )
        return IdentityChangedError(
            f"the exposer of {self._config.name!r} is {actual}, and it was {allowed} before: "
            "somebody else may offer this name. If its key changed on purpose: pt key forget "
            "--id NAME. If there are several exposers: --pin each of them, or --any"
        )

    def remember(self, peer: PeerId) -> None:
        """Take whoever proved the name at its first use for its exposer from now on.

        Raises:
            IdentityChangedError: another process was first, with somebody else.

        """
        config = self._config
        if config.name is None or config.any_exposer or config.open:
            return
        if len(config.pins) > 1 or self._state.pinned(config.name) == peer:
            return
        try:
            known = self._state.pin(config.name, peer, first=not config.pins)
        except PtError as error:
            if self._unsaved != peer:
                self._emit(events.Warned(message=f"the exposer's key was not remembered: {error}"))
            self._unsaved = peer
            return
        self._unsaved = None
        if known != peer:
            raise self.changed(peer)
        self._emit(events.Pinned(peer_id=peer))

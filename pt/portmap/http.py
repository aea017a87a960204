"""One HTTP/1.1 request to a gateway: bytes out, a bounded answer in; redirects are not followed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import h11

from pt.portmap.mapping import PortmapError

__all__ = ["MAX_BODY", "Exchange", "Reply"]

MAX_BODY: Final = 128 * 1024
MAX_HEAD: Final = 16 * 1024


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes


class Exchange:
    """Send `data_to_send` once, then give what comes to `receive_data` until it has the reply."""

    def __init__(
        self,
        method: str,
        authority: str,
        path: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._status = 0
        self._body = bytearray()
        self._out = b""
        fields = [("Host", authority), ("Connection", "close"), ("User-Agent", "UPnP/1.1 pt/0.1")]
        if body:
            fields.append(("Content-Length", str(len(body))))
        self._send(h11.Request(method=method, target=path, headers=[*fields, *headers]))
        if body:
            self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self._out += self._connection.send(event) or b""

    def data_to_send(self) -> bytes:
        """The request."""
        out, self._out = self._out, b""
        return out

    def receive_data(self, data: bytes) -> Reply | None:
        """Take bytes, none at the end of the stream; the reply, once it is whole.

        Raises:
            PortmapError: it is no HTTP, too long, or a redirect.

        """
        try:
            self._connection.receive_data(data)
            return self._events()
        except h11.RemoteProtocolError as error:
            raise PortmapError(f"the gateway does not answer in HTTP: {error}") from error

    def _events(self) -> Reply | None:
        while True:
            event = self._connection.next_event()
            match event:
                case h11.Response(status_code=status):
                    if 300 <= status < 400:
                        raise PortmapError(f"the gateway redirects (HTTP {status}): not followed")
                    self._status = status
                case h11.Data(data=data):
                    self._body += data
                    if len(self._body) > MAX_BODY:
                        raise PortmapError(f"the gateway's answer is over {MAX_BODY} bytes")
                case h11.EndOfMessage():
                    return Reply(self._status, bytes(self._body))
                case h11.ConnectionClosed():
                    raise PortmapError("the gateway closed the connection before its answer")
                case h11.InformationalResponse():
                    pass
                case _:
                    return None

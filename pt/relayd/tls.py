"""The certificate of /tls/ws listeners."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from pt.errors import UsageError

if TYPE_CHECKING:
    from pt.relayd.config import RelayConfig

__all__ = ["certificate"]


def certificate(config: RelayConfig) -> ssl.SSLContext:
    """The TLS context of a configuration.

    Raises:
        UsageError: the files cannot be used.

    """
    assert config.tls_cert is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot use the certificate {config.tls_cert} with the key {config.tls_key}: {reason}"
        ) from error
    return context

"""A server's certificate and key: whether they can be used. Asked before one listens, and before one is stopped."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from mlplatform.errors import UsageError


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer. Raises UsageError for files that cannot be used, and for a key that others can read."""
    _demand_private(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        hint = "Give a PEM certificate with its chain, and its PEM key without a password."
        cause = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UsageError(hint, what=f"certificate {cert} with key {key} cannot be used: {cause}") from None
    return context


def _demand_private(key: Path) -> None:
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise UsageError(what=f"the key {key} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        what = f"the key {key} can be read by others (mode {stat.S_IMODE(mode):04o})"
        raise UsageError(
            f"chmod 600 {key}, and ask for a new certificate if others may have seen it.", what=what
        )


def _no_password() -> str:
    """Instead of asking at a terminal that nobody looks at."""
    raise ValueError("it has a password")

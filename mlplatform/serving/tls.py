"""The server's certificate: checked before anything listens, and read again when its files change."""

from __future__ import annotations

import asyncio
import ssl
import stat
from pathlib import Path
from typing import Any

from mlplatform.errors import UsageError
from mlplatform.serving import logs
from mlplatform.serving.files import Stat, stat_of

LOOK_SECONDS = 1.0


class Certificate:
    """Certificate and key of one process. `context` is the listener's; new connections are shown what it holds."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises UsageError for files that cannot be used, and for a key that others can read."""
        self._cert, self._key = cert, key
        self._seen = self._stats()
        self._error = ""
        self.context = _context(cert, key)

    async def follow(self) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> bool:
        """Show the files' certificate if it is a new one that can be used; whether it is."""
        if (stats := self._stats()) == self._seen:
            return False
        self._seen = stats
        try:
            _context(self._cert, self._key)  # one in use must not be left with half a pair
            self.context.load_cert_chain(self._cert, self._key)
        except (UsageError, OSError) as error:
            self._error = f"the certificate before is shown: {error}"
            logs.event("certificate-rejected", f"tls: {self._error}", "error")
            return False
        self._error = ""
        logs.event("certificate-in-effect", f"tls: certificate {self._cert} read again")
        return True

    def health(self) -> dict[str, Any]:
        """Why a new certificate is not shown."""
        return {"tls": {"error": self._error}}

    def _stats(self) -> tuple[Stat | None, Stat | None]:
        return stat_of(self._cert), stat_of(self._key)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
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

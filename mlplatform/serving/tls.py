"""The server's certificate: checked before anything listens, and read again when its files change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mlplatform.errors import UsageError
from mlplatform.ports.tls import server_context
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
        self.context = server_context(cert, key)

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
            server_context(self._cert, self._key)  # one in use must not be left with half a pair
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

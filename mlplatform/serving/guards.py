"""What a server demands of its clients, as the parent hands it to its workers on their command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlplatform.serving.tls import Certificate


@dataclass(frozen=True)
class Guards:
    """Tokens and TLS. That tokens are demanded stands on the command line: no file can take it back."""

    auth: bool = False
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, given: argparse.Namespace) -> Guards:
        return cls(bool(given.auth), given.tls_cert, given.tls_key)

    def words(self) -> list[str]:
        """As options of a command."""
        files = ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)] if self.certificate else []
        return ["--auth" if self.auth else "--no-auth", *files]

    def load_certificate(self) -> Certificate | None:
        """None without TLS. Raises UsageError."""
        if self.certificate is None or self.key is None:
            return None
        from mlplatform.serving.tls import Certificate  # the parent of a server without TLS needs no ssl

        return Certificate(self.certificate, self.key)


def add_guards(parser: argparse.ArgumentParser) -> None:
    """The options that `Guards.of` reads."""
    parser.add_argument(
        "--auth",
        action=argparse.BooleanOptionalAction,
        help="demand tokens; without either: where other machines can reach the address",
    )
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate and chain; speak https")
    parser.add_argument("--tls-key", type=Path, help="its PEM key, mode 0600")

"""What a transport hands to the data plane, and what it gets back. Knows no transport and no protocol."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from mlplatform.serving.decode import Rows
from mlplatform.stats.batch import Outputs


class Call:
    """A request for predictions."""

    content_type = b""
    json_length: bytes | None = None
    """How many bytes of the body are JSON, as the client said; None where it did not."""
    model: str = ""
    """Whatever is in service, where no model is named."""
    version: str = ""

    def __init__(self, body: bytes = b"", content_type: bytes = b"") -> None:
        self.body = body
        if content_type:
            self.content_type = content_type


class Payload(NamedTuple):
    """The body of an answer."""

    body: bytes
    json_length: int = 0
    """How many bytes of it are JSON, where others follow; else 0."""


class Codec(Protocol):
    """A protocol's bodies for one model version. Decoding raises Problem, and so may encoding."""

    def decode(self, call: Call) -> tuple[Rows, Any]:
        """Checked rows, and whatever `encode` has to know of the request."""
        ...

    def encode(self, wanted: Any, outputs: Outputs, request_id: str) -> tuple[bytes, int]:
        """As `Payload`; a plain tuple is cheaper to make."""
        ...

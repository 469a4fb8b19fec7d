"""A registered version: the noun that everything else is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from mlplatform.errors import BadVersionRef


@dataclass(frozen=True)
class Version:
    """A registered version of a model, with where it came from. Never changes once registered."""

    model: str
    number: int
    digest: str
    """Digest of the bundle's manifest: what gates judge, people approve and servers run."""
    runtime: str
    """Which runtime answers with it: `sklearn`, `torch`, `onnx`."""
    run_id: str
    """The MLflow run that made it; for a compressed child the run of its parent."""
    created_at: datetime
    author: str
    size_bytes: int
    parent: int | None = None
    technique: str | None = None
    cause: str = "manual"
    """Why it was made: `manual`, `schedule:<name>`, `trigger:<rule>`, `compress`."""

    @property
    def ref(self) -> str:
        return f"{self.model}@{self.number}"


@dataclass(frozen=True)
class VersionRef:
    """`churn@7` or `churn@production`, as people write it."""

    model: str
    number: int | None = None
    stage: str | None = None

    @classmethod
    def parse(cls, text: str) -> VersionRef:
        """Read a reference; raises BadVersionRef.

        >>> VersionRef.parse("churn@7")
        VersionRef(model='churn', number=7, stage=None)
        """
        match = re.fullmatch(r"([^@\s]+)@(?:v?(\d+)|([\w\-]+))", text)
        if not match:
            raise BadVersionRef(ref=text)
        return cls(match[1], int(match[2]) if match[2] else None, match[3])

    def __str__(self) -> str:
        return f"{self.model}@{self.number if self.number is not None else self.stage}"

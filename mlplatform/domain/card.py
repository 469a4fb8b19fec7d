"""What a reviewer sees of a version: the facts behind the card in MLflow's UI and behind `show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlplatform.domain.approval import Tally
from mlplatform.domain.ledger import Entry
from mlplatform.domain.verdict import Evaluation, Finding
from mlplatform.domain.version import Version


@dataclass(frozen=True)
class CardFacts:
    version: Version
    place: str
    findings: Sequence[Finding] = ()
    """Of the newest judgement."""
    stage: str | None = None
    """The stage that was judged for."""
    tally: Tally | None = None
    evaluation: Evaluation | None = None
    entries: Sequence[Entry] = ()
    """The ledger's entries of this version, oldest first."""
    notes: Mapping[str, object] = field(default_factory=dict)
    """What the technique measured, for a compressed child."""

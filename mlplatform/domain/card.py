"""What a reviewer sees of a version: the facts behind the card in MLflow's UI and behind `show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlplatform.domain.approval import Tally
from mlplatform.domain.freeze import Frozen
from mlplatform.domain.ledger import Entry
from mlplatform.domain.lineage import Lineage
from mlplatform.domain.verdict import Evaluation, Finding
from mlplatform.domain.version import Version


@dataclass(frozen=True)
class Rival:
    """Who held the stage when the version was judged; its answers to the same rows."""

    version: Version
    evaluation: Evaluation


@dataclass(frozen=True)
class CardFacts:
    version: Version
    place: str
    findings: Sequence[Finding] = ()
    """Of the newest judgement."""
    stage: str | None = None
    """The stage that was judged for, or the next one when nobody judged yet."""
    approvals: Mapping[str, Tally] = field(default_factory=dict)
    """By stage, where any are wanted or were given."""
    answers: Mapping[str, str] = field(default_factory=dict)
    """What approvals by tags in MLflow are worth, by stage."""
    evaluation: Evaluation | None = None
    entries: Sequence[Entry] = ()
    """The ledger's entries of this version, oldest first."""
    notes: Mapping[str, object] = field(default_factory=dict)
    """What the technique measured, for a compressed child."""
    lineage: Lineage | None = None
    rival: Rival | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    """Addresses in MLflow's UI of what was drawn of this version, by file name."""
    frozen: Mapping[str, Frozen] = field(default_factory=dict)
    """Stages with an open freeze window, at the moment of looking."""

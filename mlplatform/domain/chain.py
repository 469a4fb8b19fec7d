"""A model's hash chain as it is stored, and whether it still holds. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring as _quoted
from typing import Any, NamedTuple

from mlplatform.domain.canonical import canonical
from mlplatform.domain.ladder import Replay, Standings
from mlplatform.domain.ledger import Draft, Entry
from mlplatform.domain.version import Version
from mlplatform.errors import IllegalMove

GENESIS = "0" * 64
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)
"""What looking at a row raises when somebody wrote nonsense into it."""

_decoder = json.JSONDecoder()
_WORD = {False: "false", True: "true"}


class Row(NamedTuple):
    """An entry as it is stored."""

    model: str
    seq: int
    at: str
    """ISO 8601, in UTC."""
    kind: str
    version: int
    actor: str
    verified: bool
    reason: str
    stage: str | None
    changes: str
    """Canonical JSON, as is `data`."""
    data: str
    key: str | None
    prev_hash: str
    hash: str


@dataclass(frozen=True)
class Head:
    """An entry by its number and hash: whoever kept it knows the chain up to there."""

    model: str
    seq: int
    hash: str


@dataclass(frozen=True)
class Break:
    """Where a chain does not hold."""

    model: str
    seq: int
    why: str


@dataclass(frozen=True)
class Beside:
    """What is kept beside a chain and has to agree with it."""

    end: tuple[int, str] = (0, GENESIS)
    """Number and hash of the last entry."""
    versions: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """By number, each as `facts` gives it."""
    places: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """What a look at whole chains found."""

    entries: int = 0
    heads: tuple[Head, ...] = ()
    breaks: tuple[Break, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.breaks


def seal(draft: Draft, seq: int, at: datetime, prev_hash: str) -> Entry:
    """Chain a draft behind the entry with `prev_hash`. `at` is in UTC; ValueError for data that JSON does not know."""
    entry = Entry(seq, at, draft, prev_hash, "")
    return replace(entry, hash=content_hash(row_of(entry)))


def sealing(version: Version, draft: Draft) -> Draft:
    """A registration's draft, with the whole version in its data: a later edit of the version's row is found."""
    return replace(draft, data={**draft.data, "version": facts(version)})


def facts(version: Version) -> dict[str, Any]:
    """A version as JSON, its time in UTC."""
    return {**vars(version), "created_at": version.created_at.astimezone(UTC).isoformat()}


def row_of(entry: Entry) -> Row:
    draft = entry.draft
    return Row(
        draft.model,
        entry.seq,
        entry.at.isoformat(),
        draft.kind.value,
        draft.version,
        draft.actor.name,
        draft.actor.verified,
        draft.reason,
        draft.stage,
        canonical(draft.changes).decode(),
        canonical(draft.data).decode(),
        draft.key,
        entry.prev_hash,
        entry.hash,
    )


def content_hash(row: Row) -> str:
    """SHA-256 over the canonical JSON of all that is stored and the previous hash; raises one of UNREADABLE.

    The text is put together from the columns, without decoding them. No two rows give the same text: strings are
    quoted, numbers are written as numbers, and `changes`, which the replay decodes, is one whole JSON value, so that
    it cannot share its end with `data`.
    """
    _, seq, at, kind, version, actor, verified, reason, stage, changes, data, key, prev, _ = row
    text = (
        f'{{"at":{_quoted(at)},"draft":{{"actor":{{"name":{_quoted(actor)},"verified":{_WORD[verified]}}},'
        f'"changes":{changes},"data":{data},"key":{"null" if key is None else _quoted(key)},'
        f'"kind":{_quoted(kind)},"model":{_quoted(row[0])},"reason":{_quoted(reason)},'
        f'"stage":{"null" if stage is None else _quoted(stage)},"version":{version:d}}},'
        f'"prev":{_quoted(prev)},"seq":{seq:d}}}'
    )
    return hashlib.sha256(text.encode()).hexdigest()


def verify_chain(
    model: str, rows: Iterable[Row], beside: Beside, recorded: Head | None = None
) -> Verification:
    """Every row that was edited, deleted, inserted or reordered, a cut tail, and what beside the chain differs from it.

    `rows`: in the order of their numbers. `recorded`: a head that was kept elsewhere and must be in the chain.
    """
    seq, prev, count, breaks = 0, GENESIS, 0, list[Break]()
    told, missing = _Told(model, beside), recorded
    for row in rows:
        count += 1
        why = _why_broken(row, seq, prev)
        told.hear(row)
        seq, prev = _whole(row.seq, seq + 1), row.hash
        if why:
            breaks.append(Break(model, seq, why))
        if missing and (seq, prev) == (missing.seq, missing.hash):
            missing = None
    if (seq, prev) != tuple(beside.end):
        end, hash = beside.end
        breaks.append(Break(model, seq, f"the chain should end with entry {end}, hash {hash[:12]}"))
    breaks += [Break(model, at or seq, why) for at, why in told.differences()]
    if missing:
        why = f"the chain no longer contains the recorded entry {missing.seq}, hash {missing.hash[:12]}"
        breaks.append(Break(model, min(seq, missing.seq), why))
    breaks.sort(key=lambda found: found.seq)
    return Verification(count, (Head(model, seq, prev),) if count else (), tuple(breaks))


def _whole(number: object, otherwise: int) -> int:
    """SQLite keeps text where a number should be."""
    return number if isinstance(number, int) else otherwise


def _why_broken(row: Row, seq_before: int, hash_before: str) -> str:
    if row.seq != seq_before + 1:
        return f"expected entry {seq_before + 1}"
    if row.prev_hash != hash_before:
        return "does not follow the entry before it"
    try:
        return "" if content_hash(row) == row.hash else "was changed after it was written"
    except UNREADABLE as error:
        return f"cannot be read: {error}"


@lru_cache(4096)
def _moves(changes: str) -> tuple[tuple[int, str | None, str], ...]:
    """Kept, because the same few come in every model: version 1 enters staging, version 2 follows it."""
    return tuple((one["version"], one["origin"], one["target"]) for one in _decoded(changes))


def _decoded(text: str) -> Any:
    """One JSON value and nothing around it."""
    value, end = _decoder.raw_decode(text)
    if end != len(text):
        raise ValueError(f"something follows after {end} characters")
    return value


class _Told:
    """What the entries say of versions and where they stand, against what is kept beside them."""

    def __init__(self, model: str, beside: Beside) -> None:
        self._beside, self._found = beside, list[tuple[int, str]]()
        self._replay, self._possible = Replay(Standings(model)), True

    def hear(self, row: Row) -> None:
        try:
            if row.changes != "[]" and self._possible:
                for version, origin, target in _moves(row.changes):
                    self._replay.move(version, origin, target)
                self._replay.settle()
            if row.kind == "registered":
                self._compare(row.seq, row.version, _decoded(row.data).get("version"))
        except IllegalMove as error:
            self._found.append((row.seq, f"cannot be replayed: {error}"))
            self._possible = False
        except UNREADABLE as error:
            self._found.append((row.seq, f"cannot be read: {error}"))
            self._possible = False

    def _compare(self, seq: int, number: int, told: Mapping[str, Any] | None) -> None:
        version = self._beside.versions.get(number)
        if version is None or told is None or version == told:
            return
        for name, value in version.items():
            if told.get(name) != value:
                why = f"registered version {number} with {name} {told.get(name)}, but its row says {value}"
                self._found.append((seq, why))

    def differences(self) -> list[tuple[int, str]]:
        if not self._possible:
            return self._found
        told, stands = self._replay.standings.places, self._beside.places
        moved = [n for n in sorted({*told, *stands}) if stands.get(n) != told.get(n)]
        return self._found + [(0, _moved(n, stands.get(n), told.get(n))) for n in moved]


def _moved(number: int, stands: str | None, told: str | None) -> str:
    return f"leaves version {number} in {told or 'no place'}, but it stands in {stands or 'no place'}"

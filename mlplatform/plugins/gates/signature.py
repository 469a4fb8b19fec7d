"""Does everybody who asks the incumbent today get an answer from the candidate, in words they know?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.bundle import Column, Dtype, Manifest
from mlplatform.domain.truth import label_key
from mlplatform.domain.verdict import Finding, Verdict
from mlplatform.plugins.gates.common import some
from mlplatform.ports.extensions import Need, Subject

WIDER: dict[Dtype, frozenset[Dtype]] = {
    "integer": frozenset({"long", "double"}),
    "long": frozenset({"double"}),
    "float": frozenset({"double"}),
}
"""Types that take every value of the type, but for whole numbers beyond 2^53 as doubles."""


@dataclass(frozen=True)
class SignatureGate:
    """`{ use = "signature" }`: whoever sends rows to the incumbent can send them to the candidate and read its answers.

    Inputs may widen: no column vanishes, a type becomes a wider one at most (integer, long, double; float, double), a
    new column is optional, a required one may become optional; parameters stay, or widen alike. Answers may not: kind
    of task, kind of output and classes stay, since a new class is a word that no caller has a branch for and a column
    more in every row of probabilities, and a class that is gone is one that its callers still wait for. Without an
    incumbent it passes.

    new_classes: whether a model that answers labels may know more classes than the incumbent; callers know then.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    new_classes: bool = False

    def judge(self, subject: Subject) -> Finding:
        before, after = subject.incumbent_manifest, subject.manifest
        if subject.incumbent is None or before is None:
            return Finding("signature", Verdict.PASS, "there is no incumbent whose callers could be let down")
        broken = [*_inputs(before, after), *self._answers(before, after)]
        if broken:
            because = f"callers of {subject.incumbent.ref} would break: {some(broken)}"
            return Finding("signature", Verdict.FAIL, because)
        because = f"takes what {subject.incumbent.ref} takes ({len(before.inputs)} columns) and answers alike"
        return Finding("signature", Verdict.PASS, because)

    def _answers(self, before: Manifest, after: Manifest) -> Iterator[str]:
        old, new = before.task, after.task
        if old.kind != new.kind:
            yield f"the task was {old.kind} and is {new.kind}"
        elif old.output != new.output:
            yield f"the answers were {old.output} and are {new.output}"
        elif old.classes and new.classes:
            yield from self._classes(before, after)

    def _classes(self, before: Manifest, after: Manifest) -> Iterator[str]:
        old, new = ([label_key(c) for c in manifest.task.classes] for manifest in (before, after))
        labels = after.task.output == "label"
        if gone := [name for name in old if name not in new]:
            yield f"the class(es) {some(gone, ', ')} are gone"
        if added := [name for name in new if name not in old]:
            if not (labels and self.new_classes):
                yield f"the class(es) {some(added, ', ')} are new"
        elif not gone and not labels and old != new:
            yield f"the {after.task.output} stand in another order of classes"


def _inputs(before: Manifest, after: Manifest) -> Iterator[str]:
    columns = {column.name: column for column in after.inputs}
    for old in before.inputs:
        if old.name not in columns:
            yield f"column {old.name} is gone"
        else:
            yield from _narrowed(old, columns.pop(old.name))
    for new in columns.values():
        if new.required:
            yield f"column {new.name} is new and required"
    yield from _parameters(before, after)


def _parameters(before: Manifest, after: Manifest) -> Iterator[str]:
    params = {param.name: param for param in after.params}
    for old in before.params:
        if (new := params.get(old.name)) is None:
            yield f"parameter {old.name} is gone"
        elif new.dtype != old.dtype and new.dtype not in WIDER.get(old.dtype, frozenset()):
            yield f"parameter {old.name} was {old.dtype} and is {new.dtype}"
        elif new.shape != old.shape:
            yield f"parameter {old.name} was {'a list' if old.shape else 'one value'} and is no longer"


def _narrowed(old: Column, new: Column) -> Iterator[str]:
    if new.dtype != old.dtype and new.dtype not in WIDER.get(old.dtype, frozenset()):
        yield f"column {old.name} was {old.dtype} and is {new.dtype}"
    if new.required and not old.required:
        yield f"column {old.name} was optional and is required"

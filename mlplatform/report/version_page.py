"""version_report: what the gates, the saved answers and the ledger say of one version, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlplatform.domain.card import CardFacts
from mlplatform.domain.verdict import slices_of, worst
from mlplatform.ports.report import Beside, CloseLook
from mlplatform.report.html import fill

PAGE, PICTURE = "report.html", "metrics.svg"
"""Names of the files; the card shows the picture and leads to the page."""


def version_report(facts: CardFacts, look: CloseLook) -> Mapping[str, str]:
    """The page, and the picture of the metrics where there are any. Equal facts give equal files."""
    from mlplatform.report import version_plots as plots
    from mlplatform.report.drawing import data_uri

    rival = facts.rival.version.ref if facts.rival else ""
    picture = plots.metrics_plot(facts.version.ref, rival, look.metrics) if look.metrics else ""
    slices = slices_of(facts.findings)
    page = fill(
        "version.html",
        v=facts.version,
        facts=facts,
        made_at=None,
        verdict=worst(facts.findings).value,
        rows=facts.evaluation.details.get("source", "") if facts.evaluation else "",
        size=f"{facts.version.size_bytes:,} bytes",
        tiles=[_tile(beside, rival) for beside in look.metrics[:4]],
        metrics_plot=data_uri(picture) if picture else "",
        metrics_said="; ".join(str(b.own) for b in look.metrics),
        slices_plot=data_uri(plots.slices_plot(slices)) if slices else "",
        slices_left=max(0, len(slices) - plots.MOST_SLICES),
        slices_said="; ".join(map(str, slices[: plots.MOST_SLICES])),
        errors=_errors(look),
    )
    return {PAGE: page, **({PICTURE: picture} if picture else {})}


def _tile(beside: Beside, rival: str) -> tuple[str, str, str]:
    own = beside.own
    note = f"[{own.low:.4g}, {own.high:.4g}]" if own.low is not None and own.high is not None else ""
    note += f", n={own.n}" if own.n is not None else ""
    if beside.rival:
        note += f"; {rival} {beside.rival.value:.4g}" + (f": {beside.said}" if beside.said else "")
    return own.name.replace("_", " "), f"{own.value:.4g}{own.unit}", note


def _errors(look: CloseLook) -> Sequence[tuple[str, str, str]]:
    """Name, picture, and the picture in words."""
    from mlplatform.report import version_plots as plots
    from mlplatform.report.drawing import data_uri

    found = []
    if look.confusion:
        found.append(("true class by answered class", plots.confusion_plot(look.confusion), _confused(look)))
    if look.reliability:
        said = "; ".join(f"given {b.predicted:.2f}, came true {b.observed:.2f}" for b in look.reliability)
        found.append(("calibration", plots.reliability_plot(look.reliability), said))
    if look.residuals:
        said = f"median error {look.residuals.median:.4g}; {look.residuals.outside} rows outside the plot"
        found.append(("errors", plots.residuals_plot(look.residuals), said))
    return [(name, data_uri(picture), said) for name, picture, said in found]


def _confused(look: CloseLook) -> str:
    assert look.confusion
    cells = [
        (count, f"{true} answered as {said}: {count}")
        for true, row in zip(look.confusion.classes, look.confusion.counts, strict=True)
        for said, count in zip(look.confusion.classes, row, strict=True)
        if true != said and count
    ]
    return (
        "; ".join(text for _, text in sorted(cells, reverse=True)[:5]) or "no class is mixed up with another"
    )

"""The one place where ports meet adapters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.config.policy_file import build
from mlplatform.config.project_policies import KeptPolicies, ProjectPolicies, read_policies
from mlplatform.config.settings import Settings
from mlplatform.config.token_text import read_token
from mlplatform.domain.card import CardFacts
from mlplatform.domain.duration import duration
from mlplatform.domain.ledger import Actor
from mlplatform.domain.policy import Policy
from mlplatform.domain.token import Identity
from mlplatform.domain.trend import Trend
from mlplatform.errors import BadPolicy
from mlplatform.flows.labelling import TruthRules
from mlplatform.flows.tokens import identify
from mlplatform.flows.world import World
from mlplatform.ports.clock import Progress
from mlplatform.ports.report import CloseLook
from mlplatform.ports.state import Schedules

if TYPE_CHECKING:
    from mlplatform.state.engine import Database


WINDOWS = 100
"""In a monitoring report."""


class SystemClock:
    """Port Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class Wiring:
    """Opens adapters as the settings say, each on first use."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings, self.progress, self.clock = settings, progress, SystemClock()
        self.broken_told = False

    @cached_property
    def read(self) -> ProjectPolicies:
        """The policy files, those too with mistakes."""
        return read_policies(self.settings.policies)

    @property
    def policies(self) -> Mapping[str, Policy]:
        """Policies by model. Files with mistakes are told and left out; BadPolicy or BadPolicies where none is good."""
        if not self.read.good:
            self.read.demand_all()
        self._tell_broken()
        return self.read.good

    def policy(self, model: str) -> Policy:
        """Raises BadPolicy for a model whose file has mistakes, UnknownName for one without a policy."""
        policy = self.read.of(model)
        self._tell_broken()
        return policy

    def policy_of_old(self, model: str) -> Policy:
        """Of a model whose file has mistakes the one that was kept when something of it was changed last."""
        try:
            return self.policy(model)
        except BadPolicy as error:
            if (kept := self._kept.of(model)) is None:
                raise
            self.progress(f"{error}; {model} is taken back by its policy as it was at its last change")
            return kept

    def keep(self, policy: Policy) -> None:
        """Something of the model is about to change, under this policy."""
        if (path := self.read.paths.get(policy.model)) is not None:
            with suppress(OSError):  # a rollback may need it; nothing else does
                self._kept.keep(policy, path)

    @property
    def _kept(self) -> KeptPolicies:
        return KeptPolicies(self.settings.home / "policies")

    def _tell_broken(self) -> None:
        if not self.broken_told:
            self.broken_told = True
            for broken in self.read.broken:
                self.progress(f"left out: {broken.error}")

    @cached_property
    def database(self) -> Database:
        from mlplatform.state.schema import open_database

        self.settings.make_home()
        return open_database(self.settings.database_url)

    @cached_property
    def world(self) -> World:
        from mlplatform.data.observations import FolderObservations
        from mlplatform.data.tables import ParquetTables
        from mlplatform.evaluation.evaluator import ChildEvaluator
        from mlplatform.state.deployments import SqlDeployments
        from mlplatform.state.evaluations import SqlEvaluations
        from mlplatform.state.intents import SqlIntents
        from mlplatform.state.leases import SqlLeases
        from mlplatform.state.ledger import SqlLedger
        from mlplatform.state.tokens import SqlTokens
        from mlplatform.state.windows import SqlRetrainings, SqlWindows
        from mlplatform.store.bundles import FolderBundles
        from mlplatform.store.documents import FolderDocuments
        from mlplatform.store.placements import FolderPlacements
        from mlplatform.tracking.card import render_card
        from mlplatform.tracking.client import Mlflow
        from mlplatform.tracking.registry import MlflowRegistry
        from mlplatform.tracking.runs import MlflowRuns
        from mlplatform.trust.manifest import Inspector

        settings, database = self.settings, self.database
        patience_s = duration(settings.mlflow_patience).total_seconds()
        mlflow = Mlflow(settings.tracking_uri, settings.artifact_root, patience_s, tell=self.progress)
        ledger = SqlLedger(database, self.clock)
        bundles, documents = FolderBundles(settings.home), FolderDocuments(settings.home / "servers")
        work = settings.home / "work"
        work.mkdir(parents=True, exist_ok=True)
        return World(
            clock=self.clock,
            ledger=ledger,
            outbox=ledger,
            evaluations=SqlEvaluations(database),
            deployments=SqlDeployments(database),
            windows=SqlWindows(database),
            retrainings=SqlRetrainings(database),
            leases=SqlLeases(database, self.clock),
            intents=SqlIntents(database),
            tokens=SqlTokens(database),
            registry=MlflowRegistry(mlflow),
            runs=MlflowRuns(mlflow, bundles.stage),
            bundles=bundles,
            documents=documents,
            placements=FolderPlacements(documents.folder),
            tables=ParquetTables(),
            observations=FolderObservations(
                documents.folder, TruthRules(ledger, bundles, self._takes_new_classes)
            ),
            evaluator=ChildEvaluator(stage=bundles.stage),
            trust=Inspector(),
            build=build,
            card=render_card,
            work=work,
            progress=self.progress,
            beside=self.beside,
            draw=_draw,
        )

    def _takes_new_classes(self, model: str) -> bool:
        policy = self.read.good.get(model)
        return policy is not None and policy.data.new_classes

    def identity(self) -> Identity:
        """Who acts. Looked up each time, so that a revoked token stops a process that runs. Raises MistypedToken,
        RefusedToken, OpenTokenFile."""
        given = self.token()
        if given is None:
            return Identity(Actor(self.settings.actor))
        return identify(self.world.tokens, self.clock.now(), *given)

    def token(self) -> tuple[str, str] | None:
        """The text of the token that was given, and where it stands. Raises OpenTokenFile."""
        return read_token(self.settings)

    @cached_property
    def schedules(self) -> Schedules:
        from mlplatform.state.schedules import SqlSchedules

        return SqlSchedules(self.database, self.clock)

    def project(self, policy: Policy) -> Path:
        """The folder of the policy's MLflow Project."""
        return self.beside(policy, policy.retrain.project)

    def beside(self, policy: Policy, name: str) -> Path:
        """A file or folder that a policy names, relative to the policy's own file."""
        return (self.read.path(policy.model).parent / name).resolve()

    def monitoring_page(self, policy: Policy) -> str:
        """The HTML report of the newest windows."""
        from mlplatform.report.page import monitor_report

        return monitor_report(self.world.windows.recent(policy.model, WINDOWS), policy.model)

    def plot_trend(self, trend: Trend, into: Path) -> Path:
        """A metric over versions as an image; its path. Raises UsageError for a kind of file that cannot be drawn."""
        from mlplatform.report.version_plots import trend_plot

        into.parent.mkdir(parents=True, exist_ok=True)
        trend_plot(trend, into)
        return into


def _draw(facts: CardFacts, look: CloseLook) -> Mapping[str, str]:
    from mlplatform.report.version_page import version_report

    return version_report(facts, look)

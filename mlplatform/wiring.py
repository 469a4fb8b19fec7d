"""The one place where ports meet adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.config.policy_file import build, load_policy
from mlplatform.config.settings import Settings
from mlplatform.domain.policy import Policy
from mlplatform.domain.watch import Decision, Window
from mlplatform.errors import BadPolicy, UnknownName
from mlplatform.flows.world import World
from mlplatform.ports.clock import Progress
from mlplatform.ports.state import Schedules

if TYPE_CHECKING:
    from mlplatform.state.engine import Database


class SystemClock:
    """Port Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class Wiring:
    """Opens adapters as the settings say, each on first use."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.settings, self.progress, self.clock = settings, progress, SystemClock()

    @cached_property
    def policies(self) -> Mapping[str, Policy]:
        """Policies by model; BadPolicy tells the mistakes."""
        found: dict[str, Policy] = {}
        for path in self.settings.policies:
            policy = load_policy(path)
            if policy.model in found:
                raise BadPolicy(str(path), [f"model {policy.model!r} has another policy already"])
            found[policy.model] = policy
        return found

    def policy(self, model: str) -> Policy:
        """Raises UnknownName for a model without a policy."""
        if model not in self.policies:
            raise UnknownName("model with a policy", model, self.policies)
        return self.policies[model]

    @cached_property
    def database(self) -> Database:
        from mlplatform.state.schema import open_database

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
        from mlplatform.state.windows import SqlRetrainings, SqlWindows
        from mlplatform.store.bundles import FolderBundles
        from mlplatform.store.documents import FolderDocuments
        from mlplatform.tracking.card import render_card
        from mlplatform.tracking.client import Mlflow
        from mlplatform.tracking.registry import MlflowRegistry
        from mlplatform.tracking.runs import MlflowRuns
        from mlplatform.trust.manifest import Inspector

        settings, database = self.settings, self.database
        mlflow = Mlflow(settings.tracking_uri, settings.artifact_root, tell=self.progress)
        ledger = SqlLedger(database, self.clock)
        documents = FolderDocuments(settings.home / "servers")
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
            registry=MlflowRegistry(mlflow),
            runs=MlflowRuns(mlflow),
            bundles=FolderBundles(settings.home),
            documents=documents,
            tables=ParquetTables(),
            observations=FolderObservations(documents.folder),
            evaluator=ChildEvaluator(),
            trust=Inspector(),
            build=build,
            card=render_card,
            work=work,
            progress=self.progress,
        )

    @cached_property
    def schedules(self) -> Schedules:
        from mlplatform.state.schedules import SqlSchedules

        return SqlSchedules(self.database, self.clock)

    def project(self, policy: Policy) -> Path:
        """The folder of the policy's MLflow Project."""
        path = next(p for p in self.settings.policies if load_policy(p).model == policy.model)
        return (path.parent / policy.retrain.project).resolve()

    def report(self, policy: Policy, windows: Sequence[tuple[Window, Decision]], into: Path) -> Path:
        """Write the HTML report; its path."""
        from mlplatform.report.page import monitor_report

        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_text(monitor_report(windows, policy.model))
        return into

"""Verbs of the servers: start, stop, ask, serve one version."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mlplatform import client
from mlplatform.control.looking import EndpointState, Looking
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.domain.use import Use
from mlplatform.errors import (
    UsageError,
    WorldError,
)
from mlplatform.flows import (
    deploy,
    placing,
    strays,
)
from mlplatform.flows.columns import asked_of, demand_dropped
from mlplatform.flows.probation import version_of
from mlplatform.flows.sound import demand_bytes, demand_permitted
from mlplatform.flows.strays import Stray
from mlplatform.stats.batch import Array, Columns, Outputs
from mlplatform.stats.labels import to_labels

if TYPE_CHECKING:
    from ssl import SSLContext


class Serving(Looking):
    """What `mlplatform` can do with endpoints and their servers."""

    def deploy(self, model: str, stage: str | None = None, target: Use | None = None) -> EndpointState:
        """Start the stage's server and let it serve the stage's holder; with `target` there, and from now on.

        Raises Refused where the policy names another target, UnknownColumns for a column that the policy keeps from
        the disk and that no version has.
        """
        with self._chains.changing(model) as policy:
            chosen = self._endpoint_stage(policy, stage)
            holder = version_of(self.world, model, self.world.ledger.standings(model).holder(chosen))
            if holder is None:
                raise UsageError(
                    what=f"no version of {model} is in {chosen}",
                    hint=f"Put one there: mlplatform promote {model}@N {chosen} --reason ...",
                )
            demand_dropped(self.world, policy, holder)
            if target is not None:
                deploy.move_server(self.world, policy, chosen, target, self.actor)
            deploy.serve_holder(self.world, policy, chosen, start=True)
        return next(e for e in self.endpoints() if (e.model, e.stage) == (model, chosen))

    def undeploy(self, model: str, stage: str | None = None) -> str:
        """Stop the stage's server, or take the model out of it where others answer there; the stage keeps its
        version."""
        policy = self.policy(model)
        chosen = self._endpoint_stage(policy, stage)
        endpoint = policy.stage(chosen).endpoint
        assert endpoint is not None
        if deploy.has_others(self.world, endpoint, model):
            with self._chains.changing(model) as policy:
                deploy.publish(self.world, policy, chosen, None, start=False)
            return endpoint.name
        placing.stop(self.world, endpoint)
        return endpoint.name

    def take_out(self, name: str) -> list[tuple[Stray, bool]]:
        """Take models out of endpoints that no policy gives them: one by its name or as `endpoint/model`, or all such
        models of an endpoint by its name; none where nothing of the name is such. With each, whether its server was
        stopped, because it answers for nobody else and no policy names it."""
        taken = []
        for stray in [stray for stray in self.strays() if name in (stray.model, stray.endpoint, stray.name)]:
            with self._chains.alone(stray.model):
                strays.take_out(self.world, stray)
            taken.append((stray, strays.end_if_empty(self.world, self._wiring.read.good, stray.endpoint)))
        return taken

    def predict(self, ref: str, columns: Columns) -> Outputs:
        """One version's answers to a table, in a sandboxed child; nothing is captured."""
        version = self.version(ref)
        demand_permitted(self.policy(version.model).trust, version.runtime, version.ref)
        demand_bytes(self.world, version)
        return self.world.evaluator.answer(self.world.bundles.path(version.digest), columns)

    def ask(self, target: str, columns: Columns) -> dict[str, Array]:
        """Answers of an endpoint over HTTP, with ids, or of a version (`churn@7`) offline. The policy's target and an
        index of pandas are left out of the table, and that is told."""
        if "@" in target:
            version = self.version(target)
            task = self.world.bundles.manifest(version.digest).task
            policy = self.policy(version.model)
            outputs = self.predict(target, asked_of(self.world, policy, columns, [version.ref]))
            return {"prediction": to_labels(outputs.predictions, task.output, task.classes or None)}
        state = self.endpoint(target)
        if not state.server.running:
            raise WorldError(
                what=f"the server of endpoint {target} does not run",
                hint=f"Start it: mlplatform deploy {state.model}",
            )
        path = self._invocations(state, target)
        policy = self.policy(state.model)
        rows = asked_of(self.world, policy, columns, state.serving)
        endpoint = policy.stage(state.stage).endpoint
        most = (endpoint.limits if endpoint else RequestLimits()).max_body_bytes
        return client.ask(state.server.url, rows, self._token_for(state), self._trusted(state), path, most)

    def _invocations(self, state: EndpointState, target: str) -> str:
        """The path that asks one model; UsageError where several answer and none is named."""
        if state.others and "/" not in target:
            raise UsageError(
                what=f"several models answer at endpoint {state.name}: {', '.join((state.model, *state.others))}",
                hint="Name one: "
                + ", ".join(f"{state.name}/{model}" for model in (state.model, *state.others))
                + ".",
            )
        return state.path

    def _token_for(self, state: EndpointState) -> str:
        """What a server is shown that demands a token; no other sees one."""
        given = self._wiring.token() if state.server.auth else None
        return given[0] if given else ""

    def _trusted(self, state: EndpointState) -> SSLContext | None:
        """What a server's certificate is checked by, which need not be the policy's any more; None where it has
        none."""
        policy = self.policy(state.model)
        endpoint = policy.stage(state.stage).endpoint
        wanted = deploy.tls_files(self.world, policy, endpoint.tls) if endpoint and endpoint.tls else None
        files = state.server.shown(wanted)
        try:
            return files.client_context() if files else None
        except OSError as error:
            what = f"the certificate of endpoint {state.name} cannot be used: {error}"
            raise UsageError(what=what) from None

    def serve(self, ref: str, host: str, port: int, workers: int, limits: RequestLimits) -> None:
        """Serve one version in this process's place until it is interrupted; no stage is touched."""
        version = self.version(ref)
        demand_bytes(self.world, version)
        name = f"serve-{version.model}-{version.number}"
        path, trust = str(self.world.bundles.path(version.digest)), self.policy(version.model).trust
        demand_permitted(trust, version.runtime, version.ref)
        route = Route(version.model, version.number, version.digest, path, runs_code=trust.code_models)
        self.world.documents.publish(Routes(name, 0, (route,), capture=CaptureRule(sample=0.0)))
        folder = self.world.documents.folder(name)
        options = {"--folder": folder, "--host": host, "--port": port, "--workers": workers}
        words = [*(str(word) for pair in options.items() for word in pair), *limits.words()]
        os.execv(sys.executable, [sys.executable, "-m", "mlplatform.serving.main", *words])

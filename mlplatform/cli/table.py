"""Every command: where it is, its line in the help. The help loads none of them."""

from __future__ import annotations

from mlplatform.cli.lazy import Lazy

_AT = "mlplatform.cli."

COMMANDS: dict[str, Lazy] = {
    "init": Lazy(_AT + "project:init", "Make a project here that trains.", "Start"),
    "demo": Lazy(_AT + "demo:demo", "The whole life of a model on real data, in about a minute.", "Start"),
    "up": Lazy(_AT + "project:up", "MLflow's UI, the model servers and the job runner.", "Start"),
    "doctor": Lazy(_AT + "project:doctor", "What is set, what differs, what to do about it.", "Start"),
    "list": Lazy(_AT + "versions:list_models", "The board: models by stages, and what waits.", "Versions"),
    "train": Lazy(_AT + "models:train", "Run the model's project and register what it logs.", "Versions"),
    "register": Lazy(_AT + "models:register", "Freeze what a run logged as a candidate.", "Versions"),
    "compress": Lazy(_AT + "models:compress", "Make a smaller or faster child.", "Versions"),
    "show": Lazy(_AT + "versions:show", "A version: findings, lineage, history.", "Versions"),
    "diff": Lazy(_AT + "versions:diff", "What differs between two versions.", "Versions"),
    "trend": Lazy(_AT + "versions:trend", "A metric over the versions of a model.", "Versions"),
    "check": Lazy(_AT + "models:check", "What promote would say.", "Stages"),
    "approve": Lazy(_AT + "approvals:approve", "Approve a version for a stage.", "Stages"),
    "reject": Lazy(_AT + "models:reject", "Take a version out before it goes live.", "Stages"),
    "promote": Lazy(_AT + "models:promote", "Put a version into a stage.", "Stages"),
    "rollback": Lazy(_AT + "models:rollback", "Bring the last good version back.", "Stages"),
    "retire": Lazy(_AT + "models:retire", "Take a version out that nobody needs.", "Stages"),
    "history": Lazy(_AT + "models:history", "What was live when, who put it there, and why.", "Stages"),
    "deploy": Lazy(_AT + "serving:deploy", "Start a stage's model server.", "Serving"),
    "endpoints": Lazy(_AT + "serving:endpoints", "Every endpoint and what it serves.", "Serving"),
    "undeploy": Lazy(_AT + "serving:undeploy", "Stop a stage's model server.", "Serving"),
    "serve": Lazy(_AT + "serving:serve", "Serve one version in the foreground.", "Serving"),
    "predict": Lazy(_AT + "serving:predict", "Ask an endpoint, or a version offline.", "Serving"),
    "monitor": Lazy(_AT + "watch:monitor", "Read the windows that are over and act on them.", "Loop"),
    "report": Lazy(_AT + "watch:report", "Quality and drift by window, as HTML.", "Loop"),
    "label": Lazy(_AT + "watch:label", "Join what came true to what was predicted.", "Loop"),
    "retrain": Lazy(_AT + "watch:retrain", "Train a challenger on what was captured.", "Loop"),
    "schedule": Lazy(_AT + "schedule:schedule", "Cron jobs: add, list, remove, run.", "Loop"),
    "reconcile": Lazy(_AT + "project:reconcile", "Repair what differs from the ledger.", "Keep"),
    "gc": Lazy(_AT + "upkeep:gc", "Free the bytes that nothing needs any more.", "Keep"),
    "token": Lazy(_AT + "approvals:token", "Who may act under a verified name: add, list, revoke.", "Keep"),
    "verify": Lazy(_AT + "ledger:verify", "Whether the ledger is what was written.", "Keep"),
    "policy": Lazy(_AT + "project:policy", "Check a policy, or print its schema.", "Keep"),
    "db": Lazy(_AT + "project:db", "Our own database: upgrade, status.", "Keep"),
    "plugins": Lazy(
        _AT + "project:plugins", "Gates, techniques, metrics and what else is installed.", "Keep"
    ),
}

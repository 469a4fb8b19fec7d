from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlplatform.config.policy_file import build, load_policy
from mlplatform.config.policy_schema import policy_schema
from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.freeze import Freeze
from mlplatform.domain.use import Use
from mlplatform.errors import BadPolicy, UnknownName, UsageError

GOOD = """
model  = "churn"
ladder = ["staging", "production"]

[data]
target = "churned"
evaluate = { use = "labelled_window", last = "30d" }

[stages.staging]
gates = [{ use = "metric", name = "auc", at_least = 0.80 }, "serving_check"]
auto  = true

[stages.production]
endpoint  = { name = "churn" }
probation = { lasts = "7d" }

[compress]
steps = ["onnx", { use = "dynamic_int8" }]

[retrain]
when = [{ use = "sustained", k = 3, of = 5 }]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return path

    return written


def mistakes(path: Path) -> list[str]:
    with pytest.raises(BadPolicy) as caught:
        load_policy(path)
    found = caught.value.facts["mistakes"]
    assert isinstance(found, list)
    return found


def test_a_policy_is_read_as_written(write: Any) -> None:
    policy = load_policy(write(GOOD))
    assert policy.ladder.stages == ("staging", "production")
    assert policy.stage("staging").gates == (
        Use("metric", {"name": "auc", "at_least": 0.8}),
        Use("serving_check"),
    )
    assert policy.stage("production").endpoint == Endpoint("churn")
    assert policy.stage("production").probation.lasts == "7d"
    assert policy.compress.steps == (Use("onnx"), Use("dynamic_int8"))
    assert policy.live_stage == "production"


def test_a_name_and_a_table_without_options_are_the_same_policy(write: Any) -> None:
    one = load_policy(write(GOOD)).digest
    assert load_policy(write(GOOD.replace('"serving_check"', '{ use = "serving_check" }'))).digest == one
    assert load_policy(write(GOOD.replace("0.80", "0.81"))).digest != one


def test_every_mistake_is_told_at_once_with_its_line(write: Any) -> None:
    text = """model = "churn"
ladder = ["staging", "production"]
colour = 1
[data]
evaluate = { use = "labeled_window", max_rows = "many" }
[stages.prodution]
auto = 1
gate = []
endpoint = { target = "loca", nam = "churn" }
[stages.staging]
gates = [
  { use = "metrc" },
  { use = "metric", nme = "auc" },
]
[watch]
window = "soon"
min_rows = 1.5
[compress]
steps = ["onnxx"]
[capture]
sample = nan
"""
    assert mistakes(write(text)) == [
        "line 3: colour: unknown key; known: capture, compress, data, gc, ladder, model, reconcile, retrain,"
        " stages, trust, watch",
        "line 5: data.evaluate.use: unknown value, did you mean 'labelled_window'?",
        'line 5: data.evaluate.max_rows: should be an integer, not "many"',
        "line 6: stages.prodution: unknown stage, did you mean 'production'?",
        "line 7: stages.prodution.auto: should be a boolean, not 1",
        "line 8: stages.prodution.gate: unknown key, did you mean 'gates'?",
        "line 9: stages.prodution.endpoint.name: missing",
        "line 9: stages.prodution.endpoint.nam: unknown key, did you mean 'name'?",
        "line 9: stages.prodution.endpoint.target: unknown target, did you mean 'local'?",
        "line 12: stages.staging.gates[0].use: unknown gate, did you mean 'metric'?",
        "line 13: stages.staging.gates[1].name: missing",
        "line 13: stages.staging.gates[1].nme: unknown key, did you mean 'name'?",
        "line 16: watch.window: 'soon' is not a duration; write for example 30s, 10m, 24h, 14d",
        "line 17: watch.min_rows: should be an integer, not 1.5",
        "line 19: compress.steps[0].use: unknown technique, did you mean 'onnx'?",
        "line 21: capture.sample: should be a finite number, not NaN",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("ladder = ['a']", "line 1: model: missing"),
        ("model = 'a'\nladder = []", "line 2: ladder: a ladder needs at least one stage"),
        ("model = 'a'\nladder = 'production'", 'line 2: ladder: should be an array, not "production"'),
        ("model = 'a/b'\nladder = ['a']", "model 'a/b': write letters, digits"),
        ("model = 'a'\nladder = ['s']\nstages = 3", "line 3: stages: should be a table, not 3"),
        ("model = 'a'\nladder = ['s']\n[stages]\ns = 3", "line 4: stages.s: should be a table, not 3"),
        ("model = 'a'\nladder = [3]", "line 2: ladder[0]: should be text in quotes, not 3"),
        (
            "model = 'a'\nladder = ['s']\n[watch]\nmetrics = [3]",
            "line 4: watch.metrics[0]: should be a table, not 3",
        ),
        ("model = 'a'\nladder = ['s']\n[stages.s.endpoint]\nname='../x'", "it names a folder"),
        (
            "model = 'a'\nladder = ['s', 't']\n[stages.s.endpoint]\nname='x'\n[stages.t.endpoint]\nname='x'",
            "line 6: stages.t.endpoint.name: two stages cannot share an endpoint",
        ),
    ],
)
def test_a_mistake_says_what_is_right(text: str, mistake: str, write: Any) -> None:
    assert mistake in "\n".join(mistakes(write(text)))


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a = 1\nb = = 2", "line 2: invalid value (column 5)"),
        ("a = ", "line 1: invalid value at the end of the file"),
        ("[a\nb = 1", "line 1: expected ']' at the end of a table declaration (column 3)"),
    ],
)
def test_a_syntax_error_is_one_line(text: str, mistake: str, write: Any) -> None:
    assert mistakes(write(text)) == [mistake]


def test_a_missing_file_and_a_binary_one_are_told(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.toml") == ["there is no such file"]
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    assert mistakes(tmp_path / "bytes.toml") == ["not UTF-8 text at byte 5"]


def test_an_option_of_several_types_says_all_of_them() -> None:
    with pytest.raises(UsageError) as caught:
        build("metric", Use("drift", {"columns": 3}))
    assert str(caught.value) == "metric 'drift': columns: should be text in quotes or an array, not 3"


def test_an_extension_is_built_with_its_options() -> None:
    gate = build("gate", Use("metric", {"name": "auc", "at_least": 0.8}))
    assert (gate.name, gate.at_least) == ("auc", 0.8)


def test_bad_options_and_unknown_names_are_refused() -> None:
    with pytest.raises(
        UsageError, match="gate 'metric': name: missing; nme: unknown key, did you mean 'name'"
    ):
        build("gate", Use("metric", {"nme": "auc"}))
    with pytest.raises(UnknownName, match="no gate named 'metrc'"):
        build("gate", Use("metrc"))


def test_the_schema_describes_the_file_as_people_write_it() -> None:
    schema = policy_schema()
    json.dumps(schema)
    gates = schema["$defs"]["gate"]["anyOf"]
    metric = next(g for g in gates if g.get("properties", {}).get("use") == {"const": "metric"})
    assert "at_least" in metric["properties"]
    assert schema["properties"]["ladder"] == {"$ref": "#/$defs/Ladder"}
    assert schema["$defs"]["Stage"]["properties"]["gates"]["items"] == {"$ref": "#/$defs/gate"}
    assert "#/$defs/Use" not in json.dumps(schema)


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = policy_schema()
    text = json.dumps(schema)
    wanted = {part.partition('"')[0] for part in text.split("#/$defs/")[1:]}
    assert wanted <= set(schema["$defs"])


def test_a_freeze_is_read_as_written_and_shown_so_in_the_schema(write: Any) -> None:
    text = GOOD.replace(
        'probation = { lasts = "7d" }',
        'freeze = [{ cron = "0 18 * * FRI", for = "62h", timezone = "Europe/Berlin" }]',
    )
    assert load_policy(write(text)).stage("production").freeze == (
        Freeze("0 18 * * FRI", "62h", "Europe/Berlin"),
    )
    schema = policy_schema()["$defs"]["Freeze"]
    assert set(schema["properties"]) == {"cron", "for", "timezone"}
    assert schema["required"] == ["cron", "for"]


def test_every_mistake_in_freezes_is_told_at_once(write: Any) -> None:
    text = """model = "churn"
ladder = ["staging", "production"]
[stages.staging]
freeze = { cron = "0 18 * * FRI", for = "62h" }
[stages.production]
freeze = [
  { cron = "0 18 * * FRI", for = "62h", timezone = "Europe/Berln" },
  { cron = "0 18 * * FRY", for = "62 hours" },
  { cron = "0 0 30 2 *", fr = "1h", zone = "UTC" },
  { cron = "0 0 * * *", for = "0s" },
  { cron = "0 0 * * *", for = "500d" },
]
"""
    example = "Write minute, hour, day of month, month, day of week: `0 3 * * MON` is every Monday at 3:00."
    assert mistakes(write(text)) == [
        'line 4: stages.staging.freeze: should be an array, not {"cron": "0 18 * * FRI", "for": "62h"}',
        "line 7: stages.production.freeze[0].timezone: there is no time zone named 'Europe/Berln'."
        " Did you mean 'Europe/Berlin'?",
        "line 8: stages.production.freeze[1].for: '62 hours' is not a duration; write for example 30s, 10m, 24h, 14d",
        f"line 8: stages.production.freeze[1].cron: '0 18 * * FRY' is not a schedule: bad day-of-week. {example}",
        "line 9: stages.production.freeze[2].for: missing",
        "line 9: stages.production.freeze[2].fr: unknown key, did you mean 'for'?",
        "line 9: stages.production.freeze[2].zone: unknown key, did you mean 'timezone'?",
        f"line 9: stages.production.freeze[2].cron: '0 0 30 2 *' is not a schedule: bad day-of-month. {example}",
        "line 10: stages.production.freeze[3].for: '0s' must be longer than nothing and at most 366d",
        "line 11: stages.production.freeze[4].for: '500d' must be longer than nothing and at most 366d",
    ]


@pytest.mark.parametrize(
    ("endpoint", "mistake"),
    [
        ('{ name = "churn", host = "0.0.0.0" }', "behind_proxy"),
        ('{ nam = "churn" }', "nam"),
        ('"churn"', "should be a table"),
    ],
)
def test_an_endpoint_with_a_mistake_is_no_missing_one(endpoint: str, mistake: str, write: Any) -> None:
    rollout = '[stages.production.rollout]\nsteps = ["5%:10m", "100%"]\njudge = ["error_rate"]\n'
    head = 'model = "churn"\nladder = ["production"]\n'
    with pytest.raises(BadPolicy) as told:
        load_policy(write(f"{head}[stages.production]\nendpoint = {endpoint}\n{rollout}"))
    assert mistake in str(told.value) and "the stage has no endpoint" not in str(told.value)
    with pytest.raises(BadPolicy, match="the stage has no endpoint"):
        load_policy(write(f"{head}{rollout}"))

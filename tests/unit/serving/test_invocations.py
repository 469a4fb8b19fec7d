"""Bodies of /invocations: every form gives the same rows, and whatever is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.domain.bundle import Column
from mlplatform.serving.calls import Call
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.problems import Problem
from mlplatform.serving.protocols.mlflow import InvocationCodec

JSON, CSV = b"application/json", b"text/csv"
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]
RECORDS = [dict(zip("abc", row, strict=True)) for row in ROWS]
EVERY_TYPE = [
    Column("amount", "double"),
    Column("age", "long"),
    Column("level", "integer"),
    Column("vip", "boolean"),
    Column("city", "string"),
    Column("seen", "datetime"),
    Column("note", "string", required=False),
    Column("bonus", "double", required=False),
]
GOOD = {"amount": 1.5, "age": 3, "level": -2, "vip": True, "city": "Wien", "seen": "2026-01-31T12:00:00Z"}


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def read(codec: InvocationCodec, content_type: bytes, sent: bytes) -> Rows:
    return codec.decode(Call(sent, content_type))[0]


@pytest.fixture
def numbers(decoder: RowDecoder) -> InvocationCodec:
    return InvocationCodec(decoder)


@pytest.fixture
def every_type() -> InvocationCodec:
    return InvocationCodec(RowDecoder(EVERY_TYPE))


@pytest.mark.parametrize(
    ("content_type", "sent"),
    [
        (JSON, body({"dataframe_split": {"columns": list("abc"), "data": ROWS}})),
        (JSON, body({"dataframe_split": {"index": [7, 8], "columns": list("abc"), "data": ROWS}})),
        (JSON, body({"dataframe_split": {"columns": list("cab"), "data": [[c, a, b] for a, b, c in ROWS]}})),
        (JSON, body({"dataframe_records": RECORDS})),
        (JSON, body({"dataframe_records": [dict(reversed(record.items())) for record in RECORDS]})),
        (JSON, body({"instances": ROWS})),
        (JSON, body({"instances": RECORDS})),
        (JSON, body({"inputs": ROWS})),
        (JSON, body({"inputs": RECORDS})),
        (JSON, body({"inputs": {"a": [1, 4], "c": [3, 6.5], "b": [2, 5]}})),
        (JSON, body({"params": {}, "inputs": ROWS})),
        (b"application/json; charset=UTF-8", body({"inputs": ROWS})),
        (CSV, b"a,b,c\n1,2,3\n4,5.0,6.5\n"),
        (CSV, b'c,"a",b\r\n3,1,2\r\n6.5,4,5\r\n'),
        (b"text/csv; charset=utf-8", b"a,b,c\n1,2,3\n\n4,5,6.5"),
    ],
)
def test_every_form_gives_the_same_rows(numbers: InvocationCodec, content_type: bytes, sent: bytes) -> None:
    rows = read(numbers, content_type, sent)
    assert rows.batch.names == ("a", "b", "c")
    assert rows.batch.as_matrix("float64").tolist() == ROWS
    assert not rows.missing


def test_plain_numbers_take_the_way_of_one_matrix(numbers: InvocationCodec) -> None:
    split = body({"dataframe_split": {"columns": list("bca"), "data": [[2, 3, 1]]}})
    for sent in (
        split,
        body({"dataframe_records": RECORDS}),
        body({"inputs": ROWS}),
        body({"instances": ROWS}),
    ):
        assert read(numbers, JSON, sent).batch.matrix is not None


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
    )
)
def test_the_quick_and_the_careful_way_agree(rows: list[list[float]]) -> None:
    decoder = RowDecoder([Column(name, "double") for name in "abc"])
    quick = read(InvocationCodec(decoder), JSON, body({"inputs": rows}))
    assert quick.batch.matrix is not None
    careful = decoder.rows(rows)
    assert careful.batch.matrix is None
    assert np.array_equal(quick.batch.as_matrix("float64"), careful.batch.as_matrix("float64"))


SPLIT = b'{"dataframe_split": {"columns": ["c", "a", "b"], "data": %s}}'


def test_columns_that_were_seen_before_are_recognised_and_the_rest_is_still_checked(
    numbers: InvocationCodec,
) -> None:
    for _ in range(3):
        rows = read(numbers, JSON, SPLIT % b"[[3, 1, 2]]")
        assert rows.batch.matrix is not None
        assert rows.batch.matrix.tolist() == [[1.0, 2.0, 3.0]]
    wrong = [
        SPLIT % data
        for data in (b"[[3, 1]]", b"[[3, 1, true]]", b"[]", b"[[3, 1, 1e999]]", b"[[3, 1, 2]]}", b"")
    ]
    wrong += [
        SPLIT % (b"[[3, 1, 2]], " + more) for more in (b'"data": [[1, 2, 3]]', b'"columns": ["a", "b", "c"]')
    ]
    for sent in (*wrong, (SPLIT % b"[[3, 1, 2]]")[:-1]):
        with pytest.raises(Problem):
            read(numbers, JSON, sent)


def test_a_column_may_be_called_data() -> None:
    decoder = InvocationCodec(RowDecoder([Column("data", "double"), Column("columns", "double")]))
    sent = b'{"dataframe_split": {"columns": ["columns", "data"], "data": [[1, 2]]}}'
    for _ in range(3):
        assert read(decoder, JSON, sent).batch.as_matrix("float64").tolist() == [[2.0, 1.0]]


def test_values_of_every_type_arrive_as_the_signature_says(every_type: InvocationCodec) -> None:
    rows = read(
        every_type, JSON, body({"dataframe_records": [GOOD, {**GOOD, "note": "x", "age": 4.0, "bonus": 2}]})
    )
    columns = rows.batch.columns()
    assert columns["amount"].dtype == np.float64
    assert columns["age"].tolist() == [3, 4]
    assert columns["age"].dtype == np.int64
    assert columns["vip"].tolist() == [True, True]
    assert columns["city"].tolist() == ["Wien", "Wien"]
    assert columns["seen"][0] == np.datetime64("2026-01-31T12:00:00")
    assert columns["note"].tolist() == [None, "x"]
    assert np.isnan(columns["bonus"][0])


def test_csv_reads_every_type(every_type: InvocationCodec) -> None:
    sent = "amount,age,level,vip,city,seen\n1.5,3,-2,true,Wien,2026-01-31T12:00:00Z\n,4,1,0,,\n"
    columns = read(every_type, CSV, sent.encode()).batch.columns()
    assert columns["age"].tolist() == [3, 4]
    assert columns["vip"].tolist() == [True, False]
    assert columns["city"].tolist() == ["Wien", None]
    assert np.isnan(columns["amount"][1])
    assert np.isnat(columns["seen"][1])


@pytest.mark.parametrize("value", [b"null", b"NaN"])
def test_null_and_nan_in_a_float_column_are_missing_values(numbers: InvocationCodec, value: bytes) -> None:
    rows = read(numbers, JSON, b'{"inputs": [[1, %s, 3]]}' % value)
    assert rows.missing
    assert np.isnan(rows.batch.as_matrix("float64")[0, 1])


def test_columns_beside_the_features_are_kept_apart(numbers: InvocationCodec) -> None:
    sent = body({"dataframe_split": {"columns": ["a", "ts", "b", "c"], "data": [[1, "2026", 2, 3]]}})
    rows = read(numbers, JSON, sent)
    assert rows.context == {"ts": ("2026",)}
    assert rows.batch.names == ("a", "b", "c")


def test_whole_numbers_beyond_a_float_stay_exact() -> None:
    decoder = InvocationCodec(RowDecoder([Column("id", "long")]))
    assert read(decoder, JSON, body({"inputs": [[2**53 + 1]]})).batch.columns()["id"].tolist() == [2**53 + 1]


WRONG_BODIES = [
    (b"", "not JSON"),
    (b'{"inputs": [[1, 2', "not JSON"),
    (b"[1, 2]", "got a list"),
    (b"7", "got a number"),
    (b"null", "got null"),
    (b'"text"', "got text"),
    (b"{}", "exactly one of"),
    (b'{"inputs": [[1,2,3]], "instances": [[1,2,3]]}', "exactly one of"),
    (b'{"rows": [[1,2,3]]}', "'rows'"),
    (b'{"inputs": [[1,2,3]], "params": {"x": 1}}', "was registered without parameters"),
    (b'{"inputs": 5}', "'inputs'"),
    (b'{"inputs": []}', "no rows"),
    (b'{"dataframe_records": []}', "no rows"),
    (b'{"dataframe_split": {"columns": ["a","b","c"], "data": []}}', "no rows"),
    (b'{"dataframe_split": {"data": [[1,2,3]]}}', "'columns' and 'data'"),
    (b'{"dataframe_split": {"columns": 3, "data": [[1,2,3]]}}', "'columns'"),
    (b'{"dataframe_split": {"columns": ["a","b",1], "data": [[1,2,3]]}}', "names of columns are strings"),
    (b'{"dataframe_split": {"columns": ["a","b"], "data": [[1,2]]}}', "missing column 'c'"),
    (
        b'{"dataframe_split": {"columns": ["a","b","c","c"], "data": [[1,2,3,4]]}}',
        "column 'c' is given twice",
    ),
    (b'{"dataframe_split": {"columns": ["a","b","c"], "data": [[1,2]]}}', "row 0 has 2 values, expected 3"),
    (b'{"dataframe_split": {"columns": ["a","b","c"], "data": [[1,2,3],[4]]}}', "row 1 has 1 values"),
    (b'{"dataframe_split": {"columns": ["a","b","c"], "data": [5]}}', "row 0: expected a list"),
    (b'{"dataframe_split": {"columns": ["a","b","c"], "data": {"a": 1}}}', "expected a list of rows"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3},{"a":1,"b":2}]}', "row 1: missing column 'c'"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"A1":4}]}', "unknown column 'A1'"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"tss":4}]}', "Did you mean 'ts'"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"c":4}]}', "'c' is given twice"),
    (b'{"dataframe_records": [[1,2,3]]}', "expected an object"),
    (b'{"inputs": [[1,2,3]], "inputs": [[1,2,3]]}', "'inputs' is given twice"),
    (b'{"inputs": [[1,2,3],{"a":1}]}', "row 1: expected a list"),
    (b'{"inputs": {"a": [1], "b": [1,2], "c": [1]}}', "column 'b' has 2 values"),
    (b'{"inputs": {"a": 1, "b": [1], "c": [1]}}', "column 'a': expected a list"),
    (b'{"inputs": [[1,"2",3]]}', "column 'b', row 0: expected a number, got the text '2'"),
    (b'{"inputs": [[1,true,3]]}', "got the boolean true"),
    (b'{"inputs": [[1,[2],3]]}', "got a list"),
    (b'{"inputs": [[1,{"x":2},3]]}', "got an object"),
    (b'{"inputs": [[1,2,3],[1,1e999,3]]}', "column 'b', row 1: expected a finite number"),
    (b'{"inputs": [[1,Infinity,3]]}', "Infinity"),
    (b'{"inputs": [[1,-Infinity,3]]}', "Infinity"),
    (b'{"inputs": [[1,2,1e39]]}', "column 'c', row 0: expected a finite number in the range of float"),
    (b'{"inputs": [[1,' + b"9" * 400 + b",3]]}", "column 'b', row 0"),
    (b'{"inputs": [[1,' + b"9" * 9000 + b",3]]}", "too many digits"),
    (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
    (b'\xef\xbb\xbf{"inputs": [[1,2,3]]}', "not JSON"),
    (
        SPLIT[:-2] % b"[[1,2,3]]" + b', "index": "A"}}',
        "expected 'index' as a list with an entry for each row",
    ),
    (SPLIT[:-2] % b"[[1,2,3]]" + b', "index": [1, 2]}}', "expected 'index' as a list"),
    ('{"inputs": [[1,2,3]]}'.encode("utf-16"), "not UTF-8"),
    (b'{"inputs": [[1,2,"\xff"]]}', "not UTF-8"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"ts":"\\ud800"}]}', "lone surrogate"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"ts":[1]}]}', "column 'ts', row 0"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"ts":1e999}]}', "column 'ts', row 0"),
    (b'{"dataframe_records": [{"a":1,"b":2,"c":3,"ts":1180591620717411303424}]}', "column 'ts', row 0"),
    (b'{"inputs": [[1,2,3]]} trailing', "not JSON"),
]

NOT_THE_SIGNATURE = (
    "no rows",
    "missing column 'c'",
    "row 1: missing column 'c'",
    "column 'c' is given twice",
    "unknown column 'A1'",
    "Did you mean 'ts'",
    "was registered without parameters",
)
"""Said of rows that can be read; a key that is written twice cannot."""


@pytest.mark.parametrize(("sent", "said"), WRONG_BODIES, ids=[said for _, said in WRONG_BODIES])
def test_a_wrong_body_is_answered_with_one_line_that_names_it(
    numbers: InvocationCodec, sent: bytes, said: str
) -> None:
    with pytest.raises(Problem) as caught:
        read(numbers, JSON, sent)
    assert said in str(caught.value)
    assert caught.value.status == 400
    answer = caught.value.body()
    assert len(answer) < 1500
    assert b"\n" not in answer
    code = "INVALID_PARAMETER_VALUE" if said in NOT_THE_SIGNATURE else "BAD_REQUEST"
    assert json.loads(answer) == {"error_code": code, "message": str(caught.value)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": 1.5}, "column 'age', row 0: expected a whole number, got 1.5"),
        ({"age": 2**70}, "column 'age', row 0: expected a whole number in the range of long"),
        ({"age": None}, "column 'age', row 0: expected a whole number, got null"),
        ({"level": 2**31}, "column 'level', row 0: expected a whole number in the range of integer"),
        ({"vip": 1}, "column 'vip', row 0: expected true or false, got 1"),
        ({"vip": None}, "expected true or false, got null"),
        ({"city": 5}, "column 'city', row 0: expected text, got 5"),
        ({"seen": "yesterday"}, "column 'seen', row 0: expected a time"),
        ({"seen": 5}, "column 'seen', row 0: expected a time"),
        ({"seen": "9999-01-01"}, "column 'seen', row 0: expected a time"),
        ({"amount": "1.5"}, "column 'amount', row 0: expected a number"),
        ({"cityy": "x"}, "Did you mean 'city'?"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(
    every_type: InvocationCodec, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(Problem) as caught:
        read(every_type, JSON, body({"dataframe_records": [{**GOOD, **change}]}))
    assert said in str(caught.value)


@pytest.mark.parametrize("value", [2**70, 2**31, 1.5, -(2**31) - 1])
def test_numbers_outside_a_whole_column_are_refused_on_the_quick_way_too(value: float) -> None:
    decoder = InvocationCodec(RowDecoder([Column("n", "integer")]))
    assert read(decoder, JSON, b'{"inputs": [[5]]}').batch.matrix is not None
    with pytest.raises(Problem, match="column 'n', row 0"):
        read(decoder, JSON, body({"inputs": [[value]]}))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "no header"),
        (b"a,b,c\n", "no rows"),
        (b"a,b\n1,2\n", "missing column 'c'"),
        (b"a,b,c,d\n1,2,3,4\n", "unknown column 'd'"),
        (b"a,b,c,c\n1,2,3,4\n", "given twice"),
        (b"a,b,c\n1,2\n", "row 0 has 2 values"),
        (b"a,b,c\n1,x,3\n", "column 'b', row 0"),
        (b"a,b,c\n1,inf,3\n", "column 'b', row 0"),
        (b"a,b,c\n1,1e999,3\n", "column 'b', row 0"),
        (b'a,b,c\n1,"2,3\n', "not CSV"),
        (b"a,b,c\n1," + b"9" * 200_000 + b",3\n", "not CSV"),
        (b"a,b,c\n\xff,2,3\n", "not UTF-8"),
        (b"a,b,c\n1,2,3\x00\n", "column 'c'"),
    ],
)
def test_wrong_csv_is_named(numbers: InvocationCodec, sent: bytes, said: str) -> None:
    with pytest.raises(Problem) as caught:
        read(numbers, CSV, sent)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content_type", [b"", b"text/plain", b"application/xml", b"application/json; charset=utf-16"]
)
def test_other_content_types_are_refused(numbers: InvocationCodec, content_type: bytes) -> None:
    with pytest.raises(Problem, match="application/json or text/csv") as caught:
        read(numbers, content_type, b'{"inputs": [[1,2,3]]}')
    assert caught.value.status == 415


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_random_bytes_are_rows_or_a_problem_and_nothing_else(sent: bytes) -> None:
    decoder = InvocationCodec(RowDecoder([Column("a", "double")]))
    for content_type in (JSON, CSV):
        try:
            assert read(decoder, content_type, sent).batch.rows > 0
        except Problem as problem:
            assert problem.status == 400


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "b", "inputs", "columns", "data", "dataframe_split"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_random_json_is_rows_or_a_problem_and_nothing_else(value: Any) -> None:
    decoder = InvocationCodec(RowDecoder([Column("a", "double"), Column("b", "string", required=False)]))
    for form in ("inputs", "instances", "dataframe_records", "dataframe_split"):
        try:
            rows = read(decoder, JSON, body({form: value}))
            assert rows.batch.rows > 0
            assert not np.isinf(rows.batch.columns()["a"]).any()
        except Problem as problem:
            assert problem.status == 400

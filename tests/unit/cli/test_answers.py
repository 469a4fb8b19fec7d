"""Answers are written in the format that the file's name promises, or not at all."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from mlplatform.cli import answers
from mlplatform.cli.main import run
from mlplatform.data.tables import ParquetTables
from mlplatform.errors import UnwritableTable

ANSWERS = {"id": np.array(["a/0", "a/1"], object), "prediction": np.array([["x, y", "z"], ["ü", ""]])[:, 0]}


def test_a_csv_is_one_and_keeps_the_order(tmp_path: Path) -> None:
    answers.write(tmp_path / "b.csv", ANSWERS)
    with (tmp_path / "b.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["id", "prediction"], ["a/0", "x, y"], ["a/1", "ü"]]
    assert ParquetTables().read(tmp_path / "b.csv")["prediction"].tolist() == ["x, y", "ü"]


def test_several_numbers_of_a_row_are_one_cell_of_json(tmp_path: Path) -> None:
    answers.write(tmp_path / "b.CSV", {"prediction": np.array([[0.25, 0.75]])})
    assert (tmp_path / "b.CSV").read_text() == 'prediction\n"[0.25, 0.75]"\n'


def test_parquet_stays_parquet(tmp_path: Path) -> None:
    answers.write(tmp_path / "b.parquet", ANSWERS)
    assert ParquetTables().read(tmp_path / "b.parquet")["id"].tolist() == ["a/0", "a/1"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b.xlsx", "Known endings: .csv, .parquet, .pq."),
        ("b", "Known endings: .csv, .parquet, .pq."),
        ("no/such/b.parquet", "there is no folder "),
        ("folder.csv", "is a folder"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anybody_is_asked(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert run(["predict", "churn", "rows.csv", "--out", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_a_file_that_cannot_be_opened_is_the_worlds_failure(tmp_path: Path) -> None:
    with pytest.raises(UnwritableTable, match="No such file"):
        answers.write(tmp_path / "gone" / "b.csv", ANSWERS)

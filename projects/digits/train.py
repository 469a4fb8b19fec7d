"""Train a small network on digits and log it as a candidate."""

from __future__ import annotations

import argparse

import mlflow
import numpy as np
import torch
from data import TARGET, damaged, own_rows, split, with_extra
from torch import nn

import mlplatform


class Digits(nn.Module):
    """64 pixels to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(pixels / 16.0)


def fit(features: np.ndarray, digits: np.ndarray, epochs: int, seed: int) -> Digits:
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # small steps: a second thread only waits
    model, pixels, truth = Digits(), torch.from_numpy(features), torch.from_numpy(digits)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    loss_of = nn.CrossEntropyLoss()
    for _ in range(epochs):
        for rows in torch.randperm(len(truth)).split(64):
            optimizer.zero_grad()
            loss = loss_of(model(pixels[rows]), truth[rows])
            loss.backward()
            optimizer.step()
    return model


def main() -> None:
    options = parse()
    older, newest = split(*own_rows(int(options.data_from), int(options.data_until)))
    older = with_extra(*older, options.extra_data)
    learned = damaged(older[1], int(options.seed)) if options.shuffle_labels == "true" else older[1]
    with mlflow.start_run():
        model = fit(older[0].to_numpy(copy=True), learned, int(options.epochs), int(options.seed))
        run_id = mlplatform.log_candidate(model, holdout=newest, reference=older, target=TARGET)
    print(f"run {run_id}: trained on {len(older[1])} rows, {len(newest[1])} newer ones kept back")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-from", type=float, default=0, help="first row of the file")
    parser.add_argument("--data-until", type=float, default=250, help="row after the last one")
    parser.add_argument("--extra-data", default="", help="Parquet file of captured, labelled rows")
    parser.add_argument("--cause", default="manual", help="why this training was started")
    parser.add_argument("--seed", type=float, default=0)
    parser.add_argument("--shuffle-labels", default="false", help="true: rehearse an accident")
    parser.add_argument("--epochs", type=float, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    main()

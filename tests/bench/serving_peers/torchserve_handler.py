"""What TorchServe runs: `{"data": [[...]]}` in, one row of probabilities for each row out. Runs in TorchServe's own
virtual environment and knows nothing of this project."""

import json
from pathlib import Path

import torch


class Handler:
    def initialize(self, context):
        torch.set_num_threads(1)
        folder = Path(context.system_properties["model_dir"])
        self.model = torch.jit.load(folder / context.manifest["model"]["serializedFile"])

    def handle(self, requests, context):
        return [self._answer(request.get("body") or request.get("data")) for request in requests]

    def _answer(self, body):
        if isinstance(body, (bytes, bytearray)):
            body = json.loads(body)
        rows = body["data"] if isinstance(body, dict) else body
        with torch.inference_mode():
            return {"predictions": self.model(torch.tensor(rows)).tolist()}

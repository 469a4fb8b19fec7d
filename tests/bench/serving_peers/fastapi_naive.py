"""FastAPI and ONNX Runtime as a tutorial has it: a pydantic body, a sync endpoint, everything else as it comes."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from tests.bench.serving_peers.session import session

app = FastAPI()
model, name = session(threads=0)


class Body(BaseModel):
    data: list[list[float]]


@app.post("/predict")
def predict(body: Body) -> dict[str, object]:
    answers = model.run(None, {name: np.array(body.data, dtype=np.float32)})
    return {"predictions": answers[0].tolist()}

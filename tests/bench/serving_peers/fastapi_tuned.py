"""FastAPI and ONNX Runtime as a careful user writes it: async, the raw body, a quick JSON library, one thread."""

from __future__ import annotations

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response

from tests.bench.serving_peers.session import session

app = FastAPI()
model, name = session(threads=1)


@app.post("/predict")
async def predict(request: Request) -> Response:
    body = msgspec.json.decode(await request.body())
    answers = model.run(None, {name: np.array(body["data"], dtype=np.float32)})
    return Response(msgspec.json.encode({"predictions": answers[0].tolist()}), media_type="application/json")

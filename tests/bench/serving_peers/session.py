"""What the FastAPI services share: the ONNX model that the environment names, and its matrix input."""

from __future__ import annotations

import os

import onnxruntime


def session(threads: int) -> tuple[onnxruntime.InferenceSession, str]:
    """`threads` 0 is ONNX Runtime's default, which a user leaves as it is."""
    options = onnxruntime.SessionOptions()
    if threads:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    model = onnxruntime.InferenceSession(os.environ["BENCH_ONNX"], options)
    return model, model.get_inputs()[0].name

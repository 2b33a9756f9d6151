"""Checks an ONNX file and runs it: run_onnx.py MODEL INPUTS.json > OUTPUTS.json

Inputs are {"name": {"kind": "f32" or "i64", "shape": [..], "data": [..]}}, null standing for
not-a-number; outputs are {"name": {"shape": [..], "data": [..]}}.
"""

import json
import sys

import numpy as np
import onnx
import onnxruntime


def tensor(entry):
    kind = {"f32": np.float32, "i64": np.int64}[entry["kind"]]
    data = [float("nan") if value is None else value for value in entry["data"]]
    return np.array(data, dtype=kind).reshape(entry["shape"])


def main(model, inputs):
    onnx.checker.check_model(model, full_check=True)
    with open(inputs, encoding="utf-8") as file:
        feed = {name: tensor(entry) for name, entry in json.load(file).items()}
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = zip(names, session.run(names, feed))
    answer = {n: {"shape": v.shape, "data": v.ravel().tolist()} for n, v in results}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

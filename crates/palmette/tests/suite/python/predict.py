"""Probabilities for a raw log, as a server would make them: predict.py FOLDER FILE.csv|FILE.parquet

Reads encoders.json and model.onnx of the folder, nothing else; prints a JSON list.
"""

import csv
import json
import pathlib
import sys

import onnx
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parents[5]
sys.path.insert(0, str(ROOT / "python"))
from palmette_encode import Encoders  # noqa: E402


def rows_of(table):
    if table.endswith(".parquet"):
        import pyarrow.parquet

        return pyarrow.parquet.read_table(table).to_pylist()
    with open(table, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(folder, table):
    folder = pathlib.Path(folder)
    model = str(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = Encoders.load(folder / "encoders.json").numpy(rows_of(table), names)
    (probability,) = session.run(["probability"], feed)
    json.dump(probability.ravel().tolist(), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""LightGBM on the rows of a schema file: the outside reference for a small log.

    python3 -m venv .venv && .venv/bin/pip install -r bench/peers/requirements.txt
    .venv/bin/python bench/peers/lightgbm_baseline.py examples/schemas/nycflights13.toml FILE..

Trains on the train part, stops early on the validation part, and prints one JSON object with log
loss, AUC and normalised entropy of validation and test. Parts are those of the schema's [split]:
by a column or by time they are the rows of `palmette prepare`, but a value shared by two parts is
dealt row by row in turn here, and a random split draws its own rows; `same_rows` tells which.
Integers from 1 to n stand for the categorical values seen at least `--min-count` times in train.
"""

import argparse
import json
import pathlib
import re
import sys
import tomllib

import lightgbm
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

PARTS = ("train", "validation", "test")


def columns(names):
    """Expands ranges such as `I1..I13`."""
    for name in names:
        found = re.fullmatch(r"(\D*)(\d+)\.\.(\D*)(\d+)", name)
        if found and found[1] == found[3]:
            yield from (f"{found[1]}{i}" for i in range(int(found[2]), int(found[4]) + 1))
        else:
            yield name


def read(paths):
    def one(path):
        if pathlib.Path(path).suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, sep=None, engine="python", dtype=str)

    return pd.concat([one(path) for path in paths], ignore_index=True)


def parts(table, schema, seed):
    """One of `PARTS` or None for every row, and whether `palmette prepare` has the same rows."""
    split = schema.get("split", {})
    part = np.full(len(table), None, dtype=object)
    if "column" in split:
        values = table[split["column"]].astype(str).to_numpy()
        same = True
        for value in np.unique(values):
            takers = [name for name in PARTS if value in map(str, split.get(name, []))]
            rows = np.flatnonzero(values == value)
            for i, name in enumerate(takers):
                part[rows[i :: len(takers)]] = name
            same &= len(takers) < 2
        return part, same
    if "test_from" in split:
        time = schema["time"]
        if isinstance(time, list):
            parts_of_date = dict(zip(("year", "month", "day"), time))
            numbers = {unit: pd.to_numeric(table[name]) for unit, name in parts_of_date.items()}
            time = pd.to_datetime(pd.DataFrame(numbers))
        else:
            time = pd.to_datetime(table[time])
        part[:] = "train"
        part[time >= pd.Timestamp(split["validation_from"])] = "validation"
        part[time >= pd.Timestamp(split["test_from"])] = "test"
        return part, True
    if split.get("by", "random") != "random" or "time" in schema:
        sys.exit("this script splits by a column, by dates or at random only")
    train, validation, _ = split.get("fractions", (0.8, 0.1, 0.1))
    draw = np.random.default_rng(seed).random(len(table))
    part[:] = "test"
    part[draw < train + validation] = "validation"
    part[draw < train] = "train"
    return part, False


def encode(column, train, min_count):
    counts = column[train].value_counts()
    kept = counts.index[counts >= min_count]
    return column.map(pd.Series(np.arange(1, len(kept) + 1), index=kept)).fillna(0).astype("int32")


def metrics(labels, predictions):
    rate = labels.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
    loss = log_loss(labels, predictions, labels=[0, 1])
    return {
        "rows": len(labels),
        "log_loss": loss,
        "auc": roc_auc_score(labels, predictions),
        "normalised_entropy": loss / entropy,
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("schema", help="schema file, as for palmette prepare")
    arguments.add_argument("inputs", nargs="+", help="CSV, TSV or Parquet files")
    arguments.add_argument("--learning-rate", type=float, default=0.05)
    arguments.add_argument("--leaves", type=int, default=63)
    arguments.add_argument("--rounds", type=int, default=2000, help="most boosting rounds")
    arguments.add_argument("--min-count", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()

    schema = tomllib.loads(pathlib.Path(options.schema).read_text(encoding="utf-8"))
    table = read(options.inputs)
    label = schema["label"]
    name = label["column"] if isinstance(label, dict) else label
    labels = pd.to_numeric(table[name], errors="coerce")
    part, same_rows = parts(table, schema, options.seed)
    part[labels.isna()] = None
    train = part == "train"

    dense = list(columns(schema.get("dense", [])))
    categorical = list(columns(schema.get("categorical", [])))
    features = {column: pd.to_numeric(table[column], errors="coerce") for column in dense}
    for column in categorical:
        features[column] = encode(table[column].astype(str), train, options.min_count)
    features = pd.DataFrame(features)

    def rows(name, **more):
        here = part == name
        return lightgbm.Dataset(
            features[here], labels[here], categorical_feature=categorical, **more
        )

    training = rows("train")
    model = lightgbm.train(
        {
            "objective": "binary",
            "learning_rate": options.learning_rate,
            "num_leaves": options.leaves,
            "seed": options.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": options.threads,
            "verbosity": -1,
        },
        training,
        num_boost_round=options.rounds,
        valid_sets=[rows("validation", reference=training)],
        callbacks=[lightgbm.early_stopping(50, verbose=False)],
    )
    result = {
        "model": "lightgbm",
        "version": lightgbm.__version__,
        "settings": {key: value for key, value in vars(options).items() if key != "inputs"},
        "rounds": model.best_iteration,
        "train_rows": int(train.sum()),
        "same_rows": same_rows,
    }
    for name in PARTS[1:]:
        here = part == name
        result[name] = metrics(labels[here].to_numpy(), model.predict(features[here]))
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes a click log for next-item prediction from item sequences.

    python make_log.py FOLDER LOG.parquet [--targets 3] [--users N]

FOLDER has s3rec_sequences.parquet (dataset, user, items in order) and s3rec_item_attributes.parquet
(dataset, item, attrs). Of every user with at least four items the last one is tested, the one before
it validates, and up to `--targets` earlier ones train; each comes with one item that the user did
not take, drawn once from the items of the same data set by a hash of data set, user and place.
Items and attributes are named DATASET:NUMBER, since every data set counts its own from 1.
The history of a row is everything before its place; `max_length` of the schema cuts it.
`--users` takes the first N users of every data set alone.
Needs PyArrow.
"""

import argparse

import pyarrow
import pyarrow.parquet

MASK = (1 << 64) - 1


def mixed(x):
    """The finaliser of splitmix64: a fixed draw for every number."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def other_item(key, items, taken):
    """An item that is not in `taken`: the first draw that is not."""
    draw = mixed(key)
    while (item := items[draw % len(items)]) in taken:
        draw = mixed(draw)
    return item


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("log")
    parser.add_argument("--targets", type=int, default=3, help="training rows a user, at most")
    parser.add_argument("--users", type=int, help="users of every data set, at most")
    options = parser.parse_args()
    read = lambda name: pyarrow.parquet.read_table(f"{options.folder}/{name}.parquet").to_pydict()
    table, sequences = read("s3rec_item_attributes"), read("s3rec_sequences")
    attributes = {
        (dataset, item): [f"{dataset}:{attribute}" for attribute in found]
        for dataset, item, found in zip(table["dataset"], table["item"], table["attrs"])
    }
    known = {}
    for dataset, row in zip(sequences["dataset"], sequences["items"]):
        known.setdefault(dataset, set()).update(row)
    known = {dataset: sorted(items) for dataset, items in known.items()}
    names = list(known)
    columns = {name: [] for name in ("next", "part", "dataset", "user", "item", "history", "attributes")}
    users = dict.fromkeys(names, 0)
    for dataset, user, row in zip(sequences["dataset"], sequences["user"], sequences["items"]):
        users[dataset] += 1
        if options.users and users[dataset] > options.users:
            continue
        if len(row) < 4 or len(set(row)) == len(known[dataset]):
            continue
        taken, keys = set(row), [f"{dataset}:{item}" for item in row]
        for place in range(max(1, len(row) - 2 - options.targets), len(row)):
            part = {len(row) - 1: "test", len(row) - 2: "validation"}.get(place, "train")
            key = mixed(names.index(dataset) << 48 | user << 16 | place)
            for label, item in ((1, row[place]), (0, other_item(key, known[dataset], taken))):
                values = (label, part, dataset, f"{dataset}:{user}", f"{dataset}:{item}")
                values += (keys[:place], attributes.get((dataset, item), []))
                for column, value in zip(columns.values(), values):
                    column.append(value)
    log = pyarrow.table(columns)
    pyarrow.parquet.write_table(log, options.log, compression="zstd")
    print(f"{options.log}: {log.num_rows} rows, {sum(map(len, columns['history']))} items in histories")


if __name__ == "__main__":
    main()

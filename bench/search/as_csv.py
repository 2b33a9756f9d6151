"""NAS-Bench-201 as a table of one's own: six operators and a score, nothing else.

    python bench/search/as_csv.py nb201_all.parquet nb.csv [COLUMN]

COLUMN is `cifar10-val@12ep` unless named. Needs pyarrow.
"""

import csv
import sys

import pyarrow.parquet as parquet

path, output = sys.argv[1:3]
column = sys.argv[3] if len(sys.argv) > 3 else "cifar10-val@12ep"
table = parquet.read_table(path, columns=["cellstr", column]).to_pydict()
with open(output, "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow([f"e{i}" for i in range(6)] + ["acc"])
    for text, score in zip(table["cellstr"], table[column]):
        edges = [edge for node in text.split("+") for edge in node.strip("|").split("|")]
        rows.writerow([edge.split("~")[0] for edge in edges] + [score])

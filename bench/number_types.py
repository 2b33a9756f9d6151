"""What number types and row-wise state do to the log loss, against f32 with full state.

    python bench/number_types.py target/release/palmette DATASET --baseline dlrm --seeds 5
    python bench/number_types.py target/release/palmette DATASET --arch arch.json --set train.network.epochs=2

Trains the model once a seed in every variant with `palmette train` and prints, for each variant, the
mean validation log loss and the mean difference to f32 with its 95 % interval (Student's t over the
seeds, paired: the same seed gives the same first weights and the same order of rows). Everything
after the known options goes to `palmette train`. Needs no library.
"""

import argparse
import json
import math
import statistics
import subprocess
import tempfile

VARIANTS = {
    "f32": [],
    "bf16 products": ["--precision", "bf16"],
    "f16 tables": ["--table-storage", "f16"],
    "bf16 tables": ["--table-storage", "bf16"],
    "row-wise state": ["--table-state", "row-wise"],
    "bf16 products and tables, row-wise": [
        "--precision", "bf16", "--table-storage", "bf16", "--table-state", "row-wise",
    ],
}
# 97.5 % points of Student's t by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def train(palmette, dataset, seed, options):
    with tempfile.TemporaryDirectory() as folder:
        command = [palmette, "train", dataset, "-o", f"{folder}/model", "--seed", str(seed)]
        done = subprocess.run(
            command + ["--format", "json"] + options, stdout=subprocess.PIPE, text=True, check=True
        )
        return json.loads(done.stdout)["validation_log_loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("palmette")
    parser.add_argument("dataset")
    parser.add_argument("--seeds", type=int, default=5, choices=range(2, 11))
    arguments, rest = parser.parse_known_args()
    losses = {}
    for name, options in VARIANTS.items():
        losses[name] = [
            train(arguments.palmette, arguments.dataset, seed + 1, rest + options)
            for seed in range(arguments.seeds)
        ]
        differences = [a - b for a, b in zip(losses[name], losses["f32"])]
        line = f"| {name} | {statistics.mean(losses[name]):.5f} |"
        if name == "f32":
            line += f" (standard deviation over seeds {statistics.stdev(losses[name]):.5f}) |"
        else:
            half = T[len(differences) - 1] * statistics.stdev(differences)
            half /= math.sqrt(len(differences))
            mean = statistics.mean(differences)
            line += f" {mean:+.5f} [{mean - half:+.5f}, {mean + half:+.5f}] |"
        print(line, flush=True)


if __name__ == "__main__":
    main()

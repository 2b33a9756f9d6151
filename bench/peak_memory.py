"""The peak memory that `palmette cost` foretells beside what `palmette train` takes.

    python bench/peak_memory.py target/release/palmette DATASET --arch arch.json --batch 512
    python bench/peak_memory.py target/release/palmette DATASET --baseline dlrm --table-storage bf16

Trains a part of an epoch, since the peak is that of the largest step or of the export, and prints
one line: the prediction with and without file pages, the system's peak of the process (its largest
resident size, file pages included) and the ratio of the first to it. Everything after --batch goes
to both verbs. Needs Linux and no library.
"""

import argparse
import json
import os
import subprocess
import tempfile

MIB = 1 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("palmette")
    parser.add_argument("dataset")
    parser.add_argument("--arch")
    parser.add_argument("--baseline")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=float, default=0.3)
    arguments, rest = parser.parse_known_args()
    model = ["--baseline", arguments.baseline] if arguments.baseline else ["--arch", arguments.arch]
    cost = [arguments.palmette, "cost", "--dataset", arguments.dataset, "--format", "json"]
    cost += ["--batch", str(arguments.batch)] + model[arguments.baseline is None :] + rest
    foretold = json.loads(subprocess.run(cost, stdout=subprocess.PIPE, check=True).stdout)
    parts = foretold["peak_memory_parts"]
    with tempfile.TemporaryDirectory() as folder:
        train = [arguments.palmette, "train", arguments.dataset, "-o", f"{folder}/model", "--quiet"]
        train += ["--set", f"train.network.batch_size={arguments.batch}"]
        train += ["--set", f"train.network.epochs={arguments.epochs}"] + model + rest
        process = subprocess.Popen(train, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit("training failed")
    held, peak = foretold["peak_memory"], foretold["peak_memory"] + parts["pages"]
    measured = usage.ru_maxrss * 1024
    name = os.path.basename(model[1])
    print(
        f"| {name} {' '.join(rest)} | {arguments.batch} | {foretold['table_rows']:,} |"
        f" {held / MIB:.1f} | {peak / MIB:.1f} | {measured / MIB:.1f} | {peak / measured:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

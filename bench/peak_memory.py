"""The peak memory that Palmette foretells beside what it takes.

    python bench/peak_memory.py target/release/palmette DATASET --arch arch.json --batch 512
    python bench/peak_memory.py target/release/palmette DATASET --baseline dlrm --table-storage bf16
    python bench/peak_memory.py target/release/palmette DATASET --search --preset small --threads 1

The first two train a part of an epoch, since the peak is that of the largest step or of the export,
and compare with `palmette cost`; the third runs a whole search and compares with its `--dry-run`.
Prints one line: the prediction with and without file pages (between which bounds, where it depends
on the networks that a search chooses), the system's peak of the process (its largest resident size,
file pages included; least and most of --times runs) and the ratios of the first to it. All other options go to both verbs. Needs Linux and no library.
"""

import argparse
import json
import os
import subprocess
import tempfile

MIB = 1 << 20


def foretell(command):
    output = subprocess.run([*command, "--format", "json"], stdout=subprocess.PIPE, check=True)
    return json.loads(output.stdout)


def peak(command):
    process = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("the run failed")
    return usage.ru_maxrss * 1024


def of_a_training(arguments, rest):
    model = ["--baseline", arguments.baseline] if arguments.baseline else ["--arch", arguments.arch]
    cost = [arguments.palmette, "cost", "--dataset", arguments.dataset]
    cost += ["--batch", str(arguments.batch)] + model[arguments.baseline is None :] + rest
    foretold = foretell(cost)
    train = [arguments.palmette, "train", arguments.dataset]
    train += ["--set", f"train.network.batch_size={arguments.batch}"]
    train += ["--set", f"train.network.epochs={arguments.epochs}"] + model + rest
    held = foretold["peak_memory"]
    name = " ".join([os.path.basename(model[1]), *rest])
    what = f"{name} | {arguments.batch} | {foretold['table_rows']:,}"
    return what, [held], [held + foretold["peak_memory_parts"]["pages"]], train


def of_a_search(arguments, rest):
    search = [arguments.palmette, "search", arguments.dataset, *rest]
    foretold = foretell([*search, "--dry-run"])
    held = []
    for ends in ("bytes", "at_least"):
        phases = {
            name: sum(part.get(ends, part["bytes"]) for part in parts)
            for name, parts in foretold.items()
            if isinstance(parts, list)
        }
        held.append(foretold["program"] + max(phases.values()))
        if ends == "bytes":
            largest = max(phases, key=phases.get)
    # What depends on the networks that a search chooses by a tenth or less counts as known.
    held = held[:1] if held[1] > 0.9 * held[0] else held[::-1]
    return f"{' '.join(rest)} | {largest}", held, [b + foretold["pages"] for b in held], search


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("palmette")
    parser.add_argument("dataset")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--arch")
    parser.add_argument("--baseline")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=float, default=0.3)
    parser.add_argument("--times", type=int, default=1)
    arguments, rest = parser.parse_known_args()
    foretold = of_a_search if arguments.search else of_a_training
    what, held, most, command = foretold(arguments, rest)
    measured = []
    for _ in range(arguments.times):
        with tempfile.TemporaryDirectory() as folder:
            measured.append(peak([*command, "-o", f"{folder}/result"]))
    def amounts(list):
        return " to ".join(f"{bytes / MIB:.1f}" for bytes in sorted(set(list)))

    ratios = sorted({most[0] / max(measured), most[-1] / min(measured)})
    ratios = " to ".join(f"{ratio:.3f}" for ratio in ratios)
    print(
        f"| {what} | {amounts(held)} | {amounts(most)} | {amounts(measured)} | {ratios} |",
        flush=True,
    )


if __name__ == "__main__":
    main()

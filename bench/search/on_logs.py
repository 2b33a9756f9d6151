"""Strategies of `palmette search` compared on a log, seed by seed.

    python bench/search/on_logs.py PALMETTE DATASET CONFIG.toml --seeds 14 --runs FOLDER

Runs `palmette search DATASET --config CONFIG.toml` once a strategy and seed (without hand-made
models and random search; runs that are finished are not repeated) and prints, for each strategy,
the best score among all candidates, the best validation log loss of the networks trained from
scratch and the test log loss of the searched network: mean and standard deviation over seeds, and
the paired difference to the first strategy with its standard error.
"""

import argparse
import json
import math
import pathlib
import statistics
import subprocess

arguments = argparse.ArgumentParser()
arguments.add_argument("palmette")
arguments.add_argument("dataset")
arguments.add_argument("config")
arguments.add_argument("--strategies", default="evolution,predictor-guided,local-search")
arguments.add_argument("--seeds", type=int, default=14)
arguments.add_argument("--runs", default="runs")
arguments = arguments.parse_args()
strategies = arguments.strategies.split(",")


def figures(strategy, seed):
    """Best score, best validation log loss and test log loss of one search."""
    name = f"{pathlib.Path(arguments.config).stem}-{strategy}-{seed}"
    folder = pathlib.Path(arguments.runs) / name
    if not (folder / "summary.json").exists():
        if folder.exists():
            command = ["search", "--resume", str(folder)]
        else:
            command = ["search", arguments.dataset, "--config", arguments.config, "--seed", str(seed)]
            command += ["--set", f"search.strategy={strategy}", "--set", "search.random_search=false"]
            command += ["--set", 'train.baselines=["lr"]', "--runs", arguments.runs, "--name", name]
        subprocess.run([arguments.palmette, *command, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    events = [json.loads(line) for line in open(folder / "journal.jsonl")]
    of = lambda kind: [(e["id"], e["result"]) for e in events if e["event"] == kind]
    scores = [result["score"] for _, result in of("score") if result["score"] is not None]
    tried = [
        result["validation_log_loss"]
        for name, result in of("trial")
        if name.startswith("searched/") and result["validation_log_loss"] is not None
    ]
    test = [result["log_loss"] for _, result in of("final") if result["model"] == "searched"]
    return min(scores), min(tried), test[0]


found = {s: [figures(s, seed) for seed in range(1, arguments.seeds + 1)] for s in strategies}
for column, what in enumerate(["best score", "best validation log loss", "test log loss"]):
    print(what)
    for strategy in strategies:
        values = [row[column] for row in found[strategy]]
        line = f"  {strategy:18} {statistics.mean(values):.5f} ({statistics.stdev(values):.5f})"
        if strategy != strategies[0]:
            apart = [a - b[column] for a, b in zip(values, found[strategies[0]])]
            error = statistics.stdev(apart) / math.sqrt(len(apart))
            line += f"   {statistics.mean(apart):+.5f} +- {error:.5f} against {strategies[0]}"
            line += f", lower in {sum(x < 0 for x in apart)} of {len(apart)}"
        print(line)

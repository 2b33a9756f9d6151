"""Regrets of search methods on NAS-Bench-201, by an implementation of its own.

    python bench/search/regrets.py nb201_all.parquet 300
    python bench/search/regrets.py nb201_all.parquet 3000 evolution

Nothing here is shared with palmette-search but the descriptions of the methods: what both find must
agree within sampling error. An evaluation is a distinct cell. Needs pyarrow. Prints one JSON object:
per column and method, mean regret and its standard error at 100, 300 and 500 evaluations.
"""

import json
import math
import random
import statistics
import sys

import pyarrow.parquet as parquet

OPERATORS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
COLUMNS = ["cifar10-val@12ep", "cifar100-val@12ep", "imagenet-val@12ep"]
CHECKPOINTS = [100, 300, 500]


class Full(Exception):
    """The evaluations are used up."""


class Search:
    """Looks cells up and remembers what it was asked."""

    def __init__(self, qualities, evaluations, seed):
        self.qualities = qualities
        self.evaluations = evaluations
        self.random = random.Random(seed)
        self.seen = {}

    def ask(self, cell):
        if len(self.seen) == self.evaluations:
            raise Full
        self.seen[cell] = self.qualities[cell]
        return self.seen[cell]

    def fresh(self):
        while True:
            cell = tuple(self.random.randrange(5) for _ in range(6))
            if cell not in self.seen:
                return cell

    def mutated(self, cell):
        edge = self.random.randrange(6)
        operator = self.random.choice([o for o in range(5) if o != cell[edge]])
        return cell[:edge] + (operator,) + cell[edge + 1 :]


def random_search(search):
    while True:
        search.ask(search.fresh())


def evolution(search):
    """Population 20, tournament 5 without replacement, one mutation; seen children go on mutating."""
    population = []
    while len(population) < 20:
        cell = search.fresh()
        population.append((search.ask(cell), cell))
    while True:
        child = max(search.random.sample(population, 5), key=lambda member: member[0])[1]
        while child in search.seen:
            child = search.mutated(child)
        population.append((search.ask(child), child))
        population.pop(0)


def local_search(search):
    """The first better neighbour, in random order; a random cell where none is left."""
    while True:
        current = search.fresh()
        quality = search.ask(current)
        moved = True
        while moved:
            moved = False
            near = [
                current[:edge] + (operator,) + current[edge + 1 :]
                for edge in range(6)
                for operator in range(5)
                if operator != current[edge]
            ]
            search.random.shuffle(near)
            for cell in near:
                if cell in search.seen:
                    continue
                other = search.ask(cell)
                if other > quality:
                    current, quality, moved = cell, other, True
                    break


def metropolis(search):
    """MH-ES: burn-in 20; the best of 4 children, accepted at s (1 + cos) with s = 1; a restart at a
    random cell after 25 rejected rounds."""
    burnt = []
    while len(burnt) < 20:
        cell = search.fresh()
        burnt.append((search.ask(cell), cell))
    quality, current = max(burnt)
    rounds = math.ceil((search.evaluations - 20) / 4)
    rejected = 0
    for done in range(10**9):
        if rejected == 25:
            current, rejected = search.fresh(), 0
            quality = search.ask(current)
        children = []
        while len(children) < 4:
            child = new_child(search, current)
            children.append((search.ask(child), child))
        best, child = max(children)
        temperature = 1.0 + math.cos(math.pi * min(done / rounds, 1.0))
        chance = math.exp(min(best - quality, 0.0) / max(temperature, 1e-6))
        if best != quality and search.random.random() < chance:
            quality, current, rejected = best, child, 0
        else:
            rejected += 1


def new_child(search, current):
    """One mutation; where 15 of them are known, from five steps away."""
    walker = current
    for attempt in range(200):
        if attempt % 20 == 0:
            walker = current
        child = search.mutated(walker)
        if child not in search.seen:
            return child
        if attempt % 20 >= 15:
            walker = child
    return search.fresh()


METHODS = {
    "random": (random_search, False),
    "evolution": (evolution, False),
    "local-search": (local_search, False),
    "mh-es": (metropolis, True),
}


def regrets(method, has_plan, qualities, best, runs):
    """Means and standard errors by checkpoint; a method with a plan searches anew for each."""
    found = {n: [] for n in CHECKPOINTS}
    for seed in range(runs):
        for planned in CHECKPOINTS if has_plan else CHECKPOINTS[-1:]:
            search = Search(qualities, planned, seed)
            try:
                method(search)
            except Full:
                pass
            values = list(search.seen.values())
            for n in [planned] if has_plan else CHECKPOINTS:
                found[n].append(best - max(values[:n]))
    return {
        n: [statistics.fmean(v), statistics.stdev(v) / math.sqrt(len(v))] for n, v in found.items()
    }


def main(path, runs, names):
    table = parquet.read_table(path, columns=["cellstr", *COLUMNS]).to_pydict()
    cells = [
        tuple(
            OPERATORS.index(edge.split("~")[0])
            for node in text.split("+")
            for edge in node.strip("|").split("|")
        )
        for text in table["cellstr"]
    ]
    results = {}
    for column in COLUMNS:
        qualities = dict(zip(cells, table[column]))
        best = max(qualities.values())
        results[column] = {
            name: regrets(method, has_plan, qualities, best, runs)
            for name, (method, has_plan) in METHODS.items()
            if name in (names or METHODS)
        }
    print(json.dumps(results, indent=1))


main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])

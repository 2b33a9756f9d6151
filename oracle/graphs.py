"""Isomorphism classes of labelled directed graphs from nauty (through pynauty).

Writes crates/palmette-space/src/nauty.json; run by `cargo xtask oracle`.
nauty colours vertices only, so an edge of label l becomes a vertex of colour l on the way.
"""

import itertools
import json
import random
import sys

from pynauty import Graph, certificate

CHECKSUM_MODULUS = 2**61 - 1


def code(labels, edges):
    """Equal for two graphs if and only if renaming vertices turns one into the other."""
    n = len(labels)
    colours = {("vertex", label): set() for label in labels}
    for i, label in enumerate(labels):
        colours[("vertex", label)].add(i)
    adjacency = {}
    middle = n
    for i, j in itertools.product(range(n), repeat=2):
        if edges[i][j]:
            adjacency.setdefault(i, []).append(middle)
            adjacency[middle] = [j]
            colours.setdefault(("edge", edges[i][j]), set()).add(middle)
            middle += 1
    kinds = sorted(colours)
    graph = Graph(
        middle,
        directed=True,
        adjacency_dict=adjacency,
        vertex_coloring=[colours[kind] for kind in kinds],
    )
    sizes = tuple((kind, len(colours[kind])) for kind in kinds)
    return sizes, certificate(graph)


def renamed(labels, edges, names):
    n = len(labels)
    new_labels, new_edges = [0] * n, [[0] * n for _ in range(n)]
    for i in range(n):
        new_labels[names[i]] = labels[i]
        for j in range(n):
            new_edges[names[i]][names[j]] = edges[i][j]
    return new_labels, new_edges


def graphs():
    """Random graphs, each with a renamed copy and one with an edge moved."""
    rng = random.Random(20260102)
    for _ in range(80):
        n = rng.randint(3, 9)
        labels = [rng.randint(0, 1) for _ in range(n)]
        edges = [[0] * n for _ in range(n)]
        for i, j in itertools.combinations(range(n), 2):
            if rng.random() < 0.5:
                edges[i][j] = rng.randint(1, 2)
        yield labels, edges
        names = list(range(n))
        rng.shuffle(names)
        yield renamed(labels, edges, names)
        moved = [row[:] for row in edges]
        i, j = rng.sample(range(n), 2)
        moved[i][j], moved[j][i] = moved[j][i], moved[i][j]
        rng.shuffle(names)
        yield renamed(labels, moved, names)


def regular_graphs():
    """Pairs that colour refinement alone cannot tell apart: two rings of k, and one of 2 k."""
    for k in (3, 4):
        for lengths in ((k, k), (2 * k,)):
            n, start = 2 * k, 0
            edges = [[0] * n for _ in range(n)]
            for length in lengths:
                for i in range(length):
                    edges[start + i][start + (i + 1) % length] = 1
                start += length
            yield [0] * n, edges


def nas_bench_201():
    """Number of classes of NAS-Bench-201's cells, and a checksum of the whole partition.

    Cell c has the operators c // 5^i mod 5 on the edges 0>1, 0>2, 1>2, 0>3, 1>3, 2>3; operator 0 is
    no edge. The checksum is the sum of (c + 1) * (first cell of c's class) modulo 2^61 - 1.
    """
    first, checksum = {}, 0
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    for cell in range(5**6):
        edges = [[0] * 4 for _ in range(4)]
        for i, (a, b) in enumerate(pairs):
            edges[a][b] = cell // 5**i % 5
        representative = first.setdefault(code([0, 1, 1, 2], edges), cell)
        checksum = (checksum + (cell + 1) * representative) % CHECKSUM_MODULUS
    return {"classes": len(first), "checksum": checksum}


def main(path):
    classes, listed = {}, []
    for labels, edges in itertools.chain(graphs(), regular_graphs()):
        number = classes.setdefault(code(labels, edges), len(classes))
        flat = "".join(str(label) for row in edges for label in row)
        listed.append({"labels": labels, "edges": flat, "class": number})
    with open(path, "w") as file:
        graphs_text = ",\n".join(json.dumps(graph) for graph in listed)
        file.write('{"nas_bench_201": %s,\n' % json.dumps(nas_bench_201()))
        file.write('"graphs": [\n%s\n]}\n' % graphs_text)


main(sys.argv[1])

"""Operator vectors from PyTorch in double precision.

Writes crates/palmette-engine/tests/suite/vectors.json; run by `cargo xtask oracle`. Inputs and weights
are formulas, which crates/palmette-engine/tests/suite/oracle.rs repeats; logits, losses, gradients and
the weights after optimiser steps are written out.
"""

import json
import sys

import torch
import torch.nn.functional as F

ROWS, DENSE, FIELDS, DIM, TABLE_ROWS = 4, 5, 3, 8, 6
torch.set_default_dtype(torch.float64)


def wave(ordinal, shape):
    i = torch.arange(1, 1 + torch.Size(shape).numel())
    return torch.sin(0.37 * i + 1.3 * (ordinal + 1)).reshape(shape)


class Parameters:
    """Hands out weights in the order of their use."""

    def __init__(self):
        self.all = []

    def weight(self, *shape):
        self.all.append((0.5 * wave(len(self.all), shape)).requires_grad_())
        return self.all[-1]

    def scale(self, length):
        self.all.append((1.0 + 0.1 * wave(len(self.all), (length,))).requires_grad_())
        return self.all[-1]

    def norm(self, x):
        """Layer normalisation of the last axis."""
        scale, shift = self.scale(x.shape[-1]), self.weight(x.shape[-1])
        return F.layer_norm(x, x.shape[-1:], scale, shift)

    def linear(self, x, out, bias=True):
        weight = self.weight(out, x.shape[-1])
        return F.linear(x, weight, self.weight(out) if bias else None)

    def head(self, *pieces):
        """Sum of products with trained weights, plus a bias."""
        logit = sum((x * self.weight(*x.shape[1:])).flatten(1).sum(1) for x in pieces)
        return logit + self.weight(1)


def mix(x, weight):
    """W over the field axis of [rows, fields, dim]."""
    return torch.einsum("sn,rnd->rsd", weight, x)


def fully_connected(p, x, s):
    h = F.relu(p.norm(p.linear(x, 7, bias=False)))
    return p.head(p.linear(h, 3))


def embedding_fully_connected(p, x, s):
    y = mix(s, p.weight(6, FIELDS)).transpose(1, 2)
    return p.head(F.relu(p.norm(y)).transpose(1, 2))


def dot_product(p, x, s):
    v = torch.cat([p.linear(x, DIM)[:, None], s], dim=1)
    gram = v @ v.transpose(1, 2)
    i, j = torch.tril_indices(FIELDS + 1, FIELDS + 1, -1)
    return p.head(gram[:, i, j])


def sigmoid_gating(p, x, s):
    r = p.linear(x, 6)
    return p.head(torch.sigmoid(p.linear(x, 6)) * r)


def factorization_machine(p, x, s):
    return p.head(s.sum(1) ** 2 - (s**2).sum(1))


def attention_block(p, x, s):
    heads = 4
    q, k, v = (p.linear(s, DIM).reshape(ROWS, FIELDS, heads, -1).transpose(1, 2) for _ in range(3))
    a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(ROWS, FIELDS, DIM)
    h = p.norm(s + p.linear(a, DIM))
    f = F.relu(p.linear(h, DIM))
    return p.head(p.norm(h + p.linear(f, DIM)))


def dense_to_sparse_merge(p, x, s):
    return p.head(p.linear(x, 2 * DIM).reshape(ROWS, 2, DIM), s)


def cross_layer(p, x, s):
    x0 = p.linear(x, 6)
    return p.head(x0 * p.linear(x0, 6) + x0)


def compressed_interaction(p, x, s):
    products = torch.einsum("rid,rjd->rijd", s, s).flatten(1, 2)
    return p.head(mix(products, p.weight(4, FIELDS * FIELDS)).sum(2))


CASES = [
    fully_connected,
    embedding_fully_connected,
    dot_product,
    sigmoid_gating,
    factorization_machine,
    attention_block,
    dense_to_sparse_merge,
    cross_layer,
    compressed_interaction,
]


def data():
    x = torch.sin(0.9 * torch.arange(1, 1 + ROWS * DENSE)).reshape(ROWS, DENSE)
    r, f = torch.meshgrid(torch.arange(ROWS), torch.arange(FIELDS), indexing="ij")
    ids = (2 * r + 3 * f + r * f) % TABLE_ROWS
    labels = (torch.arange(ROWS) % 2).double()
    weights = 0.5 + 0.25 * torch.arange(ROWS)
    return x, ids, labels, weights


def tables():
    return [(0.5 * wave(100 + f, (TABLE_ROWS, DIM))).requires_grad_() for f in range(FIELDS)]


def forward(case, p, embeddings):
    x, ids, labels, weights = data()
    s = torch.stack([t[ids[:, f]] for f, t in enumerate(embeddings)], dim=1)
    logits = case(p, x, s)
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return logits, (losses * weights).sum() / weights.sum()


def flat(tensors):
    zeros = ((torch.zeros_like(t) if t.grad is None else t.grad) for t in tensors)
    return [t.flatten().tolist() for t in zeros]


def gradients(case):
    p, embeddings = Parameters(), tables()
    logits, loss = forward(case, p, embeddings)
    loss.backward()
    return {
        "name": case.__name__,
        "logits": logits.tolist(),
        "loss": loss.item(),
        "gradients": flat(p.all),
        "table_gradients": flat(embeddings),
    }


class Fixed:
    """The same weights in the same order, for the second and later steps."""

    def __init__(self, parameters):
        self.parameters, self.next = parameters, 0

    def weight(self, *shape):
        self.next += 1
        return self.parameters[self.next - 1]

    scale = weight
    norm, linear, head = Parameters.norm, Parameters.linear, Parameters.head


def steps(name, clip, make):
    """Four steps of an optimiser on the attention block; the largest gradient norm is clipped."""
    p, embeddings = Parameters(), tables()
    forward(attention_block, p, embeddings)
    everything = p.all + embeddings
    optimizer = make(everything)
    losses, norms = [], []
    for _ in range(4):
        optimizer.zero_grad()
        _, loss = forward(attention_block, Fixed(p.all), embeddings)
        loss.backward()
        # Rows that a batch does not touch have a zero gradient, which moves nothing here.
        norms.append(torch.nn.utils.clip_grad_norm_(everything, clip).item())
        optimizer.step()
        losses.append(loss.item())
    return {
        "name": name,
        "clip": clip,
        "losses": losses,
        "norms": norms,
        "weights": [t.flatten().tolist() for t in p.all],
        "tables": [t.flatten().tolist() for t in embeddings],
    }


def main(path):
    def adagrad(parameters):
        return torch.optim.Adagrad(parameters, lr=0.12, eps=1e-2, initial_accumulator_value=0.0)

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.12)

    vectors = {
        "cases": [gradients(case) for case in CASES],
        "steps": [
            steps("adagrad", 0.05, adagrad),
            steps("adagrad", 100.0, adagrad),
            steps("sgd", 0.05, sgd),
        ],
    }
    with open(path, "w", encoding="utf-8") as out:
        for key, entries in vectors.items():
            lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
            out.write(f'{"{" if key == "cases" else ","}\n "{key}": [\n{lines}\n ]')
        out.write("\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])

"""A Palmette program (a list of operators) as PyTorch modules would compute it.

Two layouts of the fields: `batch`, [rows, fields, channels], in which mixing the fields is
`F.linear` on the transposed tensor, as in the released NASRec code; and `field`, [fields, rows,
channels], in which it is one wide product, as in Palmette. Nothing here knows about time.
"""

import torch
import torch.nn.functional as F

NORM_EPSILON = 1e-5


def matrix_product(xs, weights):
    """sum_j x_j W_j^T; several blocks accumulate into one result, nothing is concatenated."""
    y = F.linear(xs[0], weights[0])
    for x, w in zip(xs[1:], weights[1:]):
        y = torch.addmm(y, x, w.t())
    return y


class BatchFirst:
    """Fields are [rows, fields, channels]."""

    @staticmethod
    def embedded(e):
        return e

    @staticmethod
    def mix(xs, weights, bias, norm, relu):
        x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
        w = torch.cat(weights, 1) if len(weights) > 1 else weights[0]
        y = F.linear(x.transpose(1, 2), w, bias)
        if norm:
            y = F.layer_norm(y, y.shape[-1:], *norm, NORM_EPSILON)
        return (F.relu(y) if relu else y).transpose(1, 2)

    @staticmethod
    def rows(x):
        return x.flatten(1)

    @staticmethod
    def fields(x, dim):
        return x.unflatten(1, (-1, dim))

    @staticmethod
    def stacked(vector, fields):
        parts = ([vector.unsqueeze(1)] if vector is not None else []) + fields
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    @staticmethod
    def heads(x, heads):
        return x.unflatten(2, (heads, -1)).transpose(1, 2)

    @staticmethod
    def joined_heads(x):
        return x.transpose(1, 2).flatten(2)

    @staticmethod
    def pairs_sum(xs):
        x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
        return x.sum(1).square() - x.square().sum(1)

    @staticmethod
    def zeros(rows, fields, dim):
        return torch.zeros(rows, fields, dim)


class FieldFirst:
    """Fields are [fields, rows, channels]."""

    @staticmethod
    def embedded(e):
        return e.transpose(0, 1).contiguous()

    @staticmethod
    def mix(xs, weights, bias, norm, relu):
        x = torch.cat(xs, 0) if len(xs) > 1 else xs[0]
        w = torch.cat(weights, 1) if len(weights) > 1 else weights[0]
        y = w @ x.flatten(1)
        if bias is not None:
            y = y + bias.unsqueeze(1)
        if norm:
            variance, mean = torch.var_mean(y, 0, correction=0, keepdim=True)
            y = (y - mean) * torch.rsqrt(variance + NORM_EPSILON)
            y = torch.addcmul(norm[1].unsqueeze(1), y, norm[0].unsqueeze(1))
        return (F.relu(y) if relu else y).unflatten(1, x.shape[1:])

    @staticmethod
    def rows(x):
        return x.transpose(0, 1).flatten(1)

    @staticmethod
    def fields(x, dim):
        return x.unflatten(1, (-1, dim)).transpose(0, 1)

    @staticmethod
    def stacked(vector, fields):
        parts = ([vector.unsqueeze(0)] if vector is not None else []) + fields
        return (torch.cat(parts, 0) if len(parts) > 1 else parts[0]).transpose(0, 1)

    @staticmethod
    def heads(x, heads):
        return x.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)

    @staticmethod
    def joined_heads(x):
        return x.permute(2, 0, 1, 3).flatten(2)

    @staticmethod
    def pairs_sum(xs):
        x = torch.cat(xs, 0) if len(xs) > 1 else xs[0]
        return x.sum(0).square() - x.square().sum(0)

    @staticmethod
    def zeros(rows, fields, dim):
        return torch.zeros(fields, rows, dim)


LAYOUTS = {"batch": BatchFirst, "field": FieldFirst}


def resized(x, width):
    """Rows cut or continued with zeros."""
    if x.shape[1] > width:
        return x[:, :width]
    return F.pad(x, (0, width - x.shape[1])) if x.shape[1] < width else x


def lower_pairs(vectors):
    i, j = torch.tril_indices(vectors, vectors, -1)
    return i * vectors + j


class Network:
    """`network(weights, dense, embedded)` is the logit, [rows].

    `weights` are tensors in the order of the program's slices; with `joined`, those of an operator
    over several sources are one matrix, as a module would hold them, in the place of the first.
    `embedded` is [rows, fields, channels].
    """

    def __init__(self, program, layout, attention, joined):
        self.ops = program["ops"]
        self.layout = LAYOUTS[layout]
        self.scaled_dot_product = attention == "sdpa"
        self.joined = joined
        self.pairs = {
            op["vectors"]: lower_pairs(op["vectors"]) for op in self.ops if op["op"] == "gram"
        }

    def __call__(self, weights, dense, embedded):
        layout, values = self.layout, []
        for op in self.ops:
            x = [values[i] for i in op["inputs"]]
            kind = op["op"]
            if kind == "dense_input":
                y = dense
            elif kind == "embedding":
                y = layout.embedded(embedded)
            elif kind in ("linear", "field_mix"):
                y = self.product(kind, op, x, weights)
            elif kind == "row_map":
                bias = weights[op["bias"]] if op["bias"] is not None else None
                y = F.linear(x[0], weights[op["weights"][0]], bias)
                y = F.relu(y) if op["relu"] else y
            elif kind == "gram":
                vector, fields = (x[0], x[1:]) if op["vector"] else (None, x)
                t = layout.stacked(vector, fields)
                products = torch.bmm(t, t.transpose(1, 2)).flatten(1)
                y = products.index_select(1, self.pairs[op["vectors"]])
            elif kind == "gate":
                width = min(op["width"], x[0].shape[1], x[1].shape[1])
                product = torch.sigmoid(resized(x[0], width)) * resized(x[1], width)
                y = resized(product, op["width"])
            elif kind == "add":
                terms = [resized(t, op["width"]) for t in x] if op["rows"] else x
                y = terms[0]
                for term in terms[1:]:
                    y = y + term
                y = F.relu(y) if op["relu"] else y
            elif kind == "multiply":
                y = x[0] * x[1]
            elif kind == "attention":
                y = self.attention(x, op["heads"])
            elif kind == "add_norm":
                scale, shift = (weights[i] for i in op["norm"])
                y = F.layer_norm(x[0] + x[1], (op["dim"],), scale, shift, NORM_EPSILON)
            elif kind == "fields_from_rows":
                y = layout.fields(x[0], op["dim"])
            elif kind == "rows_from_fields":
                y = layout.rows(x[0])
            elif kind == "factorization_machine":
                y = layout.pairs_sum(x)
            elif kind == "zero_rows":
                y = torch.zeros(dense.shape[0], op["width"])
            elif kind == "zero_fields":
                y = layout.zeros(dense.shape[0], op["fields"], op["dim"])
            elif kind == "head":
                return self.head(op, x, weights)
            else:
                raise ValueError(f"no PyTorch form of the operator {kind}")
            values.append(y)
        raise ValueError("the program has no head")

    def product(self, kind, op, x, weights):
        bias = weights[op["bias"]] if op["bias"] is not None else None
        norm = [weights[i] for i in op["norm"]] if op["norm"] else None
        if kind == "field_mix":
            w = [weights[i] for i in op["weights"]]
            return self.layout.mix(x, w[:1] if self.joined else w, bias, norm, op["relu"])
        w = [weights[i] for i in op["weights"]]
        if self.joined:
            y = F.linear(torch.cat(x, 1) if len(x) > 1 else x[0], w[0], bias)
        elif bias is not None and len(x) == 1:
            y = F.linear(x[0], w[0], bias)
        else:
            y = matrix_product(x, w)
            y = y + bias if bias is not None else y
        if norm:
            y = F.layer_norm(y, y.shape[-1:], *norm, NORM_EPSILON)
        return F.relu(y) if op["relu"] else y

    def attention(self, x, heads):
        q, k, v = (self.layout.heads(t, heads) for t in x)
        if self.scaled_dot_product:
            o = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            o = torch.softmax(scores, -1) @ v
        return self.layout.joined_heads(o)

    def head(self, op, x, weights):
        logit = weights[op["bias"]] if op["bias"] is not None else 0.0
        for value, (kind, piece) in zip(x, op["pieces"]):
            flat = self.layout.rows(value) if value.dim() == 3 else value
            if kind == "trained":
                logit = logit + flat @ weights[piece].flatten()
            else:
                logit = logit + piece * flat.sum(1)
        return logit

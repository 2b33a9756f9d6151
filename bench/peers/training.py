"""A case of `palmette bench engine` on PyTorch: weights, batches, steps, gradients.

Every variant computes what Palmette computes: the same loss, clip and update of the same weights
from the same start. They differ in how: eager or compiled, f32 or bf16 autocast, layout,
attention, and which optimiser moves the tables.
"""

import contextlib
import json
import pathlib
import time

import numpy
import torch
import torch.nn.functional as F

from program import Network


class Case:
    """What `case.json` and `arrays.bin` in a folder say."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.description = json.loads((folder / "case.json").read_text())
        self.bytes = numpy.memmap(folder / "arrays.bin", dtype=numpy.uint8, mode="r")
        self.folder = folder
        self.rows = self.description["rows"]
        self.work = self.description["work"]
        self.programs = self.description["programs"]
        sizes = [table["rows"] for table in self.description["tables"]]
        self.table_rows = sum(sizes)
        starts = torch.tensor([0] + sizes[:-1]).cumsum(0) if sizes else None
        self.batches = []
        for batch in self.description["batches"]:
            dense = self.array(batch["dense"], numpy.float32).view(self.rows, -1)
            ids = self.array(batch["ids"], numpy.int32).view(-1, self.rows).t().long()
            labels = self.array(batch["labels"], numpy.float32)
            self.batches.append((dense, ids + starts if sizes else ids, labels))

    def array(self, place, kind):
        offset, length = place
        view = self.bytes[offset : offset + 4 * length].view(kind)
        return torch.from_numpy(numpy.array(view))

    def parameters(self):
        """Every parameter at its full size."""
        return [
            self.array(p["place"], numpy.float32).view(p["rows"], p["cols"])
            for p in self.description["params"]
        ]

    def table(self):
        """All tables as one, [rows, channels]: one gather and one update serve all fields."""
        tables = self.description["tables"]
        dim = tables[0]["dim"] if tables else 1
        whole = torch.empty(self.table_rows, dim)
        at = 0
        for table in tables:
            rows = table["rows"]
            whole[at : at + rows] = self.array(table["place"], numpy.float32).view(rows, dim)
            at += rows
        return whole


class Runner:
    """One variant of a case, with its own weights."""

    def __init__(self, case, settings):
        self.case, self.settings = case, settings
        self.params = case.parameters()
        self.table = case.table()
        self.fixed = len(case.programs) == 1
        layout, attention = settings["layout"], settings["attention"]
        self.networks = [Network(p, layout, attention, self.fixed) for p in case.programs]
        self.step_index = 0
        self.training = case.work["kind"] == "train"
        self.with_tables = bool(case.description["tables"])
        if self.with_tables and self.training:
            self.table_state = torch.zeros_like(self.table)
        if self.fixed:
            self.leaves = self.joined_leaves(case.programs[0])
            self.optimizer = self.dense_optimizer()
            if self.with_tables and settings["tables"] == "torch" and self.training:
                self.table.requires_grad_()
                self.table_optimizer = torch.optim.Adagrad(
                    [self.table], case.work["learning_rate"], eps=case.work["epsilon"]
                )
        else:
            self.states = [torch.zeros_like(p) for p in self.params]
        self.function = self.loss
        if settings["compile"]:
            mode = settings["compile"]
            self.function = torch.compile(self.loss, mode=None if mode == "default" else mode)

    def joined_leaves(self, program):
        """One leaf a slice; the first of an operator over several sources holds them all."""
        leaves = [self.cut(s) for s in program["slices"]]
        for op in program["ops"]:
            if op["op"] in ("linear", "field_mix") and len(op["weights"]) > 1:
                first, *rest = op["weights"]
                leaves[first] = torch.cat([leaves[i] for i in op["weights"]], 1)
                for i in rest:
                    leaves[i] = None
        return [leaf if leaf is None else leaf.contiguous().requires_grad_() for leaf in leaves]

    def cut(self, piece):
        """A slice of a parameter as a view; vectors have one axis."""
        param, rows, cols, is_vector = piece
        view = self.params[param]
        view = view[:rows, :cols] if (rows, cols) != tuple(view.shape) else view
        return view[0] if is_vector else view

    def dense_optimizer(self):
        work = self.case.work
        leaves = [leaf for leaf in self.leaves if leaf is not None]
        if not self.training:
            return None
        if work["optimizer"] == "adam":
            return torch.optim.Adam(leaves, work["learning_rate"], eps=work["epsilon"], fused=True)
        return torch.optim.Adagrad(leaves, work["learning_rate"], eps=work["epsilon"], fused=True)

    def precision(self):
        if self.settings["bf16"]:
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def loss(self, network, weights, dense, embedded, labels):
        logits = network(weights, dense, embedded)
        return F.binary_cross_entropy_with_logits(logits.float(), labels)

    def prepared(self, index):
        """Network, leaves and batch of a step."""
        program = index % len(self.networks)
        batch = self.case.batches[index % len(self.case.batches)]
        if self.fixed:
            return self.networks[0], self.leaves, batch
        leaves = [self.cut(s) for s in self.case.programs[program]["slices"]]
        if torch.is_grad_enabled():
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        return self.networks[program], leaves, batch

    def embedded(self, ids):
        """Gathered rows; with `torch` tables autograd leaves a sparse gradient on the table."""
        if not self.with_tables:
            return None
        if self.table.requires_grad:
            return F.embedding(ids, self.table, sparse=True)
        gathered = F.embedding(ids, self.table)
        return gathered.requires_grad_() if torch.is_grad_enabled() else gathered

    def backward(self, index):
        network, leaves, (dense, ids, labels) = self.prepared(index)
        embedded = self.embedded(ids)
        with self.precision():
            loss = self.function(network, leaves, dense, embedded, labels)
        loss.backward()
        return loss, leaves, ids, embedded

    def table_gradient(self, ids, embedded):
        """Distinct rows and the sums of their gradients."""
        if self.table.grad is not None:
            gradient = self.table.grad.coalesce()
            return gradient.indices()[0], gradient.values()
        rows, places = ids.flatten().unique(return_inverse=True)
        gradient = embedded.grad.flatten(0, 1)
        sums = torch.zeros(len(rows), gradient.shape[1]).index_add_(0, places, gradient)
        return rows, sums

    def clear(self):
        if self.fixed:
            for leaf in self.leaves:
                if leaf is not None:
                    leaf.grad = None
        self.table.grad = None

    def train_step(self):
        index = self.step_index
        self.step_index += 1
        work = self.case.work
        loss, leaves, ids, embedded = self.backward(index)
        if work["kind"] == "gradients":
            self.clear()
            return loss.item()
        touched = [leaf for leaf in leaves if leaf is not None and leaf.grad is not None]
        gradients = [leaf.grad for leaf in touched]
        rows = sums = None
        if self.with_tables and (not self.table.requires_grad or work["clip"]):
            rows, sums = self.table_gradient(ids, embedded)
        if work["clip"]:
            norms = torch._foreach_norm(gradients + ([sums] if sums is not None else []))
            scale = work["clip"] / (torch.stack(norms).norm() + 1e-6)
            if scale < 1:
                torch._foreach_mul_(gradients, scale)
                if sums is not None:
                    sums.mul_(scale)
                    if self.table.requires_grad:
                        self.table.grad = torch.sparse_coo_tensor(
                            rows.unsqueeze(0), sums, self.table.shape, is_coalesced=True
                        )
        if self.fixed:
            self.optimizer.step()
        else:
            self.sliced_adagrad(index, leaves)
        if self.with_tables:
            if self.table.requires_grad:
                self.table_optimizer.step()
            else:
                self.row_adagrad(rows, sums)
        self.clear()
        return loss.item()

    @torch.no_grad()
    def row_adagrad(self, rows, sums):
        """Sparse Adagrad by hand on the rows that were touched."""
        work = self.case.work
        state = self.table_state.index_select(0, rows).addcmul_(sums, sums)
        self.table_state.index_copy_(0, rows, state)
        self.table.index_add_(
            0, rows, sums / state.sqrt_().add_(work["epsilon"]), alpha=-work["learning_rate"]
        )

    @torch.no_grad()
    def sliced_adagrad(self, index, leaves):
        """Adagrad on views of the shared weights; nothing outside the path is touched."""
        work = self.case.work
        slices = self.case.programs[index % len(self.networks)]["slices"]
        chosen = [(p, leaf) for p, leaf in zip(slices, leaves) if leaf.grad is not None]
        weights = [leaf.detach() for _, leaf in chosen]
        gradients = [leaf.grad for _, leaf in chosen]
        states = []
        for (param, rows, cols, is_vector), _ in chosen:
            view = self.states[param][:rows, :cols]
            states.append(view[0] if is_vector else view)
        torch._foreach_addcmul_(states, gradients, gradients)
        roots = torch._foreach_sqrt(states)
        torch._foreach_add_(roots, work["epsilon"])
        torch._foreach_addcdiv_(weights, gradients, roots, -work["learning_rate"])

    @torch.inference_mode()
    def forward_step(self):
        index = self.step_index
        self.step_index += 1
        network, leaves, (dense, ids, labels) = self.prepared(index)
        with self.precision():
            return self.function(network, leaves, dense, self.embedded(ids), labels).item()

    def step(self):
        return self.forward_step() if self.case.work["kind"] == "forward" else self.train_step()

    def write_first_results(self, file):
        """Gradients of step 0: every slice, then the distinct rows and their sums. Of a forward
        step, the logits."""
        if self.case.work["kind"] == "forward":
            network, leaves, (dense, ids, _) = self.prepared(0)
            with torch.inference_mode(), self.precision():
                logits = network(leaves, dense, self.embedded(ids))
            pathlib.Path(file).write_bytes(logits.float().contiguous().numpy().tobytes())
            return
        _, leaves, ids, embedded = self.backward(0)
        program = self.case.programs[0]
        parts = [None if leaf is None else leaf.grad for leaf in leaves]
        if self.fixed:
            for op in program["ops"]:
                if op["op"] in ("linear", "field_mix") and len(op["weights"]) > 1:
                    widths = [program["slices"][i][2] for i in op["weights"]]
                    split = parts[op["weights"][0]].split(widths, 1)
                    for i, part in zip(op["weights"], split):
                        parts[i] = part
        with open(file, "wb") as out:
            for part, (_, rows, cols, _) in zip(parts, program["slices"]):
                whole = torch.zeros(rows, cols) if part is None else part.reshape(rows, cols)
                out.write(whole.contiguous().numpy().tobytes())
            if self.with_tables:
                rows, sums = self.table_gradient(ids, embedded)
                out.write(rows.int().numpy().tobytes())
                out.write(sums.contiguous().numpy().tobytes())
        self.clear()

    def timed(self, steps):
        start = time.perf_counter()
        for _ in range(steps):
            loss = self.step()
        return time.perf_counter() - start, loss

"""A whole model over item histories: jagged rows against the same rows padded.

`python histories.py FOLDER [--lengths 50,200] [--seeds 5] [--epochs 2] [--device cpu] [--users N]`,
where FOLDER has
s3rec_sequences.parquet (dataset, user, items) and s3rec_item_attributes.parquet (dataset,
item, attrs). Next-item prediction with causal self-attention (2 blocks, 2 heads of 64, bf16
autocast) over items and their attributes, keys (dataset, item), one fixed sampled negative a
position; the last item of a user is tested, the one before it held out. Both variants have
the same parameters, batches and negatives; the padded one is padded to the longest history
of its batch and uses PyTorch's fused causal attention. They take turns seed by seed. On a CPU
(f32, `--threads`, every so many-th user up to `--users`) memory is the peak of resident bytes over
what was resident before the first step. Needs PyTorch, PyArrow and the package palmette.
"""

import argparse
import contextlib
import ctypes
import gc
import time

import numpy
import pyarrow.parquet
import torch
import torch.nn.functional as F
from torch import nn

from palmette import jagged

DEVICE, DIM, HEADS, BATCH, ATTRIBUTES = "cuda", 128, 2, 1024, 8


def load(folder):
    """Histories as item numbers from 1, and a table of each item's first attributes from 1."""
    sequences = pyarrow.parquet.read_table(f"{folder}/s3rec_sequences.parquet").to_pydict()
    table = pyarrow.parquet.read_table(f"{folder}/s3rec_item_attributes.parquet").to_pydict()
    items, attributes = {}, {}
    histories = [
        numpy.array([items.setdefault((dataset, item), len(items) + 1) for item in row], dtype=numpy.int64)
        for dataset, row in zip(sequences["dataset"], sequences["items"])
        if len(row) >= 4
    ]
    held = numpy.zeros((len(items) + 1, ATTRIBUTES), dtype=numpy.int64)
    for dataset, item, row in zip(table["dataset"], table["item"], table["attrs"]):
        if (number := items.get((dataset, item))) is not None:
            for place, attribute in enumerate(row[:ATTRIBUTES]):
                held[number, place] = attributes.setdefault((dataset, attribute), len(attributes) + 1)
    return histories, torch.from_numpy(held).to(DEVICE), len(items) + 1, len(attributes) + 1


def negatives(items, place, count):
    """A fixed other item for each: a multiplicative hash of the item and its place in the row."""
    return (items * 2654435761 + place * 40503 + 12345) % (count - 1) + 1


class Model(nn.Module):
    def __init__(self, items, attributes, longest):
        super().__init__()
        self.item = nn.Embedding(items, DIM, padding_idx=0)
        self.attribute = nn.EmbeddingBag(attributes, DIM, mode="sum", padding_idx=0)
        self.place = nn.Embedding(longest, DIM)
        for table in (self.item, self.attribute, self.place):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "before": nn.LayerNorm(DIM),
                    "qkv": nn.Linear(DIM, 3 * DIM),
                    "out": nn.Linear(DIM, DIM),
                    "between": nn.LayerNorm(DIM),
                    "up": nn.Linear(DIM, 4 * DIM),
                    "down": nn.Linear(4 * DIM, DIM),
                }
            )
            for _ in range(2)
        )
        self.last = nn.LayerNorm(DIM)

    def forward(self, items, table, place, attend):
        """`items` and `place` are flat; `attend` maps q, k, v [positions, heads, 64] to the output."""
        held = table[items]
        count = (held > 0).sum(1, keepdim=True).clamp(min=1)
        x = self.item(items) + self.attribute(held) / count + self.place(place)
        for block in self.blocks:
            q, k, v = block["qkv"](block["before"](x)).view(-1, 3, HEADS, DIM // HEADS).unbind(1)
            x = x + block["out"](attend(q, k, v).reshape(-1, DIM))
            x = x + block["down"](F.gelu(block["up"](block["between"](x))))
        return self.last(x)


def batch(histories, cut, longest, padded):
    """Items, next items, places and the attention of a batch, `cut` items left out at the end."""
    rows = [h[: len(h) - cut][-longest - 1 :] for h in histories]
    inputs, targets = [r[:-1] for r in rows], [r[1:] for r in rows]
    lengths = torch.tensor([len(r) for r in inputs])
    if padded:
        width = int(lengths.max())
        place = torch.arange(width).expand(len(rows), width)
        mask = place < lengths[:, None]

        def flat(values):
            out = torch.zeros(len(rows), width, dtype=torch.int64)
            out[mask] = torch.from_numpy(numpy.concatenate(values))
            return out.reshape(-1).to(DEVICE, non_blocking=True)

        def attend(q, k, v):
            # Rows are filled up at the end, so the causal mask hides the padding.
            q, k, v = (x.reshape(len(rows), width, HEADS, -1).transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        place = place.reshape(-1).to(DEVICE, non_blocking=True)
    else:
        offsets = jagged.Rows.from_lengths(lengths)
        flat = lambda values: torch.from_numpy(numpy.concatenate(values)).to(DEVICE, non_blocking=True)
        place = torch.from_numpy(numpy.concatenate([numpy.arange(len(r)) for r in inputs])).to(DEVICE, non_blocking=True)
        narrow = (lambda x: x.bfloat16()) if DEVICE == "cuda" else (lambda x: x.contiguous())
        attend = lambda q, k, v: jagged.attention(narrow(q), narrow(k), narrow(v), offsets, mask="causal")
    return flat(inputs), flat(targets), place, attend, lengths


def logits(model, table, items, targets, place, attend, count):
    hidden = model(items, table, place, attend)
    return (hidden * model.item(targets)).sum(1), (hidden * model.item(negatives(targets, place, count))).sum(1)


def loss_of(positive, negative, targets):
    weight = (targets > 0).float()
    both = F.softplus(-positive.float()) + F.softplus(negative.float())
    return (both * weight).sum() / (2 * weight.sum())


def autocast():
    return torch.autocast("cuda", torch.bfloat16) if DEVICE == "cuda" else contextlib.nullcontext()


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024


def start_of_peak():
    """Starts the high-water mark of memory anew; bytes that do not count."""
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    return resident("VmRSS")


def peak_bytes(start):
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else resident("VmHWM") - start


def run(histories, table, count, attributes, longest, seed, epochs, padded):
    torch.manual_seed(seed)
    model = Model(count, attributes, longest).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=DEVICE == "cuda")
    order = numpy.random.default_rng(seed)
    synchronize()
    start = start_of_peak()
    times = []
    for _ in range(epochs):
        shuffled = order.permutation(len(histories))
        # Batches are made beforehand: reading data is not what is compared.
        for first in range(0, len(shuffled) - BATCH + 1, BATCH):
            members = [histories[i] for i in shuffled[first : first + BATCH]]
            items, targets, place, attend, _ = batch(members, 2, longest, padded)
            synchronize()
            begin = time.perf_counter()
            with autocast():
                positive, negative = logits(model, table, items, targets, place, attend, count)
            loss = loss_of(positive, negative, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            synchronize()
            times.append((time.perf_counter() - begin) * 1e3)
    peak = peak_bytes(start) / 2**20
    total = tested = 0.0
    with torch.no_grad(), autocast():
        for first in range(0, len(histories), BATCH):
            members = histories[first : first + BATCH]
            items, targets, place, attend, lengths = batch(members, 0, longest, padded)
            hidden = model(items, table, place, attend)
            width = int(lengths.max())
            ends = torch.arange(1, len(members) + 1) * width - width + lengths if padded else lengths.cumsum(0)
            ends = (ends - 1).to(DEVICE)
            wanted = targets[ends]
            # The negative depends on the user alone, not on the layout.
            other = (wanted * 2654435761 + (first + torch.arange(len(members), device=DEVICE)) * 40503) % (count - 1) + 1
            positive, negative = ((hidden[ends] * model.item(x)).sum(1).float() for x in (wanted, other))
            total += float((F.softplus(-positive) + F.softplus(negative)).sum()) / 2
            tested += len(members)
    return sorted(times)[len(times) // 2], peak, total / tested


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--lengths", default="50,200")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default=DEVICE, choices=("cuda", "cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--users", type=int)
    options = parser.parse_args()
    DEVICE = options.device
    if DEVICE == "cpu":
        from palmette import _native

        _native.set_threads(options.threads)
        torch.set_num_threads(options.threads)
    histories, table, count, attributes = load(options.folder)
    total = sum(len(h) for h in histories)
    if options.users:
        histories = histories[:: max(1, len(histories) // options.users)][: options.users]
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{options.threads} threads"
    print(f"{name}: {len(histories)} users, {total} interactions, {count - 1} items")
    for longest in map(int, options.lengths.split(",")):
        found = {False: [], True: []}
        kept = [min(len(h) - 3, longest) for h in histories]
        print(f"maximal length {longest}: mean {sum(kept) / len(kept):.1f}")
        for seed in range(options.seeds):
            for padded in (False, True):
                found[padded].append(run(histories, table, count, attributes, longest, seed, options.epochs, padded))
        for padded, name in ((False, "jagged"), (True, "padded")):
            steps, peaks, losses = map(numpy.array, zip(*found[padded]))
            print(
                f"{longest} {name}: step {numpy.median(steps):.2f} ms ({BATCH / numpy.median(steps) * 1e3:.0f} rows/s), "
                f"peak {peaks.max():.0f} MiB, log loss {losses.mean():.5f} +- {losses.std(ddof=1):.5f}",
                flush=True,
            )
        ours, theirs = (numpy.median([x[0] for x in found[p]]) for p in (False, True))
        memory = max(x[1] for x in found[False]) / max(x[1] for x in found[True])
        apart = numpy.array([a[2] - b[2] for a, b in zip(found[False], found[True])])
        print(
            f"{longest}: {theirs / ours - 1:+.0%} rows/s, {memory - 1:+.0%} memory, "
            f"log loss {apart.mean():+.5f} +- {apart.std(ddof=1):.5f}"
        )

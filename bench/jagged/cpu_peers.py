"""Times PyTorch's ways to attend to rows of varying length on the CPU, f32, 4 heads of 64.

`python cpu_peers.py THREADS ROWS FILE`: padding to the longest row, padding within
buckets of similar length, a loop over rows, nested tensors. Median ms, forward and both.
"""

import sys
import time

import numpy
import torch
import torch.nn.functional as F

HEADS, DIM = 4, 64
threads, rows, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(threads)
lengths = torch.from_numpy(numpy.fromfile(path, dtype=numpy.int32)).long()[:rows]
offsets = torch.zeros(len(lengths) + 1, dtype=torch.long)
offsets[1:] = lengths.cumsum(0)
generator = torch.Generator().manual_seed(1)
q, k, v, g = (torch.randn(int(offsets[-1]), HEADS, DIM, generator=generator) for _ in range(4))


def padded(x, members):
    longest = int(lengths[members].max())
    out = x.new_zeros(len(members), longest, HEADS, DIM)
    for place, b in enumerate(members.tolist()):
        out[place, : lengths[b]] = x[offsets[b] : offsets[b + 1]]
    return out.transpose(1, 2)


def batches(groups):
    made = []
    for members in groups:
        tensors = [padded(x, members) for x in (q, k, v)]
        mask = torch.arange(tensors[0].shape[2])[None] < lengths[members][:, None]
        made.append((tensors, mask[:, None, None, :], padded(g, members)))
    leaves = [x.requires_grad_(True) for tensors, _, _ in made for x in tensors]
    call = lambda: [F.scaled_dot_product_attention(*tensors, attn_mask=mask) for tensors, mask, _ in made]
    return leaves, call, [grad for _, _, grad in made]


def loop():
    tensors = [[x[offsets[b] : offsets[b + 1]].transpose(0, 1)[None].clone() for x in (q, k, v)] for b in range(len(lengths))]
    leaves = [x.requires_grad_(True) for row in tensors for x in row]
    grads = [g[offsets[b] : offsets[b + 1]].transpose(0, 1)[None] for b in range(len(lengths))]
    return leaves, lambda: [F.scaled_dot_product_attention(*row) for row in tensors], grads


def nested():
    leaves = [x.clone().requires_grad_(True) for x in (q, k, v)]

    def call():
        tensors = [torch.nested.nested_tensor_from_jagged(x, offsets=offsets).transpose(1, 2) for x in leaves]
        return [F.scaled_dot_product_attention(*tensors).transpose(1, 2).values()]

    return leaves, call, [g]


order = lengths.argsort()
peers = {
    "padded": lambda: batches([torch.arange(len(lengths))]),
    "buckets of 32": lambda: batches(order.split(32)),
    "loop over rows": loop,
    "nested tensors": nested,
}
for name, make in peers.items():
    try:
        leaves, call, grads = make()

        def both():
            return torch.autograd.grad(call(), leaves, grads)

        result = []
        for run, repeats in ((call, 3), (both, 3)):
            times = []
            for _ in range(repeats):
                begin = time.perf_counter()
                with torch.set_grad_enabled(run is both):
                    run()
                times.append((time.perf_counter() - begin) * 1e3)
            result.append(sorted(times)[len(times) // 2])
        print(f"{threads} threads, {len(lengths)} rows, {name}: forward {result[0]:.1f} ms, both {result[1]:.1f} ms", flush=True)
    except Exception as problem:
        print(f"{name}: could not run: {type(problem).__name__}: {str(problem).splitlines()[0][:120]}", flush=True)

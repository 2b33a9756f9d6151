"""Times jagged attention on the CPU against PyTorch's ways to do it: f32, 4 heads of 64.

`python cpu_peers.py THREADS ROWS FILE [ROUNDS]`: the package palmette, padding to the
longest row, padding within buckets of similar length, a loop over rows, nested tensors
(they take tens of times as long, so only the first rows go through them).
Peers get their rows cut, padded and grouped beforehand; that costs them nothing here.
All take turns in one process, round by round; median and minimum in ms of forward and
both, and the peak of resident memory that a call adds, over the bytes of its results.
The last lines say how many times as long the peers take.
"""

import ctypes
import gc
import sys
import time

import numpy
import torch
import torch.nn.functional as F

HEADS, DIM, BUCKETS, NESTED = 4, 64, (4, 8, 16, 32), 4
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
    some = offsets[: NESTED + 1]
    leaves = [x[: some[-1]].clone().requires_grad_(True) for x in (q, k, v)]

    def call():
        tensors = [torch.nested.nested_tensor_from_jagged(x, offsets=some).transpose(1, 2) for x in leaves]
        return [F.scaled_dot_product_attention(*tensors).transpose(1, 2).values()]

    return leaves, call, [g[: some[-1]]]


def palmette():
    from palmette import _native, jagged

    _native.set_threads(threads)
    rows, leaves = jagged.Rows(offsets), [x.clone().requires_grad_(True) for x in (q, k, v)]
    return leaves, lambda: [jagged.attention(*leaves, rows)], [g]


def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024


def extra_bytes(call):
    """Peak of resident memory during a call beyond what is resident before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # starts the high-water mark anew
    before = resident("VmRSS")
    kept = call()
    peak = resident("VmHWM") - before
    del kept
    return peak


order = lengths.argsort()
peers = {
    "palmette": palmette,
    "padded": lambda: batches([torch.arange(len(lengths))]),
    **{f"buckets of {size}": lambda size=size: batches(order.split(size)) for size in BUCKETS},
    "loop over rows": loop,
    f"nested tensors, {NESTED} rows": nested,
}
squares = lengths.double() ** 2
part = f"nested tensors, {NESTED} rows"
scores = {part: float(squares[:NESTED].sum() / squares.sum())}
tokens = {part: float(offsets[NESTED] / offsets[-1])}
ready = {}
for name, make in peers.items():
    try:
        leaves, call, grads = make()

        def both(leaves=leaves, call=call, grads=grads):
            return torch.autograd.grad(call(), leaves, grads)

        both()
        ready[name] = (call, both)
    except Exception as problem:
        print(f"{name}: could not run: {type(problem).__name__}: {str(problem).splitlines()[0][:120]}", flush=True)
times = {(name, which): [] for name in ready for which in (0, 1)}
for _ in range(int(sys.argv[4]) if len(sys.argv) > 4 else 5):
    for name, calls in ready.items():
        for which, run in enumerate(calls):
            begin = time.perf_counter()
            with torch.set_grad_enabled(which == 1):
                run()
            times[name, which].append((time.perf_counter() - begin) * 1e3)
results = len(q) * HEADS * (DIM + 1) * 4, len(q) * HEADS * (4 * DIM + 2) * 4
padding = float(int(lengths.max()) ** 2 * len(lengths) / squares.sum())
print(f"{threads} threads, {len(lengths)} rows, {int(offsets[-1])} tokens, padding costs {padding:.2f} times the scores")
medians = {}
for name, calls in ready.items():
    line = []
    for which, run in enumerate(calls):
        found = sorted(times[name, which])
        # A part of the rows stands for its part of the scores.
        medians[name, which] = found[len(found) // 2] / scores.get(name, 1.0)
        with torch.set_grad_enabled(which == 1):
            extra = extra_bytes(run) / tokens.get(name, 1.0)
        line.append(f"{found[len(found) // 2]:.1f} ms (min {found[0]:.1f}), memory {extra / results[which]:.2f} x the results")
    print(f"{name}: forward {line[0]}; both {line[1]}", flush=True)
for which, word in enumerate(("forward", "both")):
    if "palmette" in ready:
        ratios = (f"{name} {medians[name, which] / medians['palmette', which]:.2f}" for name in ready if name != "palmette")
        print(f"{word}, times palmette's: {', '.join(ratios)}")

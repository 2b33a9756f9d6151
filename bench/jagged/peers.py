"""Times jagged attention and its peers on the jagged workloads, in one process.

`python peers.py [--only NAME,..] [--seconds S] [--markdown FILE] FILE...`, where the files
come from lengths.py. bf16, 4 heads, forward and forward + backward: median and minimum in
ms, and the peak of bytes allocated during the call beyond its operands. Implementations
for rows of varying length take turns, round by round; dense ones, whose operands leave no
room for others, run alone. Needs a CUDA GPU, PyTorch 2.11 and the package palmette;
FlashAttention-4 (PyPI flash-attn-4) if it can be imported. One that cannot run is named
with its reason.
"""

import argparse
import gc
import math
import pathlib
import time

import numpy
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, TYPE, DEVICE = 4, torch.bfloat16, "cuda"


def samples(call, most=7):
    """Times of some calls in ms, after warming up."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    repeats = max(3, min(most, int(0.1 / max(time.perf_counter() - begin, 1e-5))))
    pairs = []
    for _ in range(repeats):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        call()
        events[1].record()
        pairs.append(events)
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairs]


def in_turns(calls, rounds=3):
    """Median and minimum of each call, all of them taking turns."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += samples(call)
    return {name: (sorted(found)[len(found) // 2], min(found)) for name, found in times.items()}


def extra_bytes(call):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return peak / 2**20


class Workload:
    def __init__(self, path, dim):
        drawn = torch.from_numpy(numpy.fromfile(path, dtype=numpy.int32)).long()
        self.name, self.dim, self.rows, self.longest = pathlib.Path(path).name, dim, len(drawn), int(drawn.max())
        self.offsets = torch.zeros(self.rows + 1, dtype=torch.long)
        self.offsets[1:] = drawn.cumsum(0)
        self.tokens = int(self.offsets[-1])
        self.on_gpu = self.offsets.to(DEVICE)
        generator = torch.Generator(device=DEVICE).manual_seed(1)
        shape = (self.tokens, HEADS, dim)
        self.q, self.k, self.v, self.g = (
            torch.randn(shape, device=DEVICE, dtype=TYPE, generator=generator) for _ in range(4)
        )
        self.sample = [0, 1, self.rows // 2, self.rows - 1]
        self.exact = [self._exact(b) for b in self.sample]

    def _exact(self, b):
        rows = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        q, k, v = (x[rows].transpose(0, 1).double() for x in (self.q, self.k, self.v))
        return (torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.dim), -1) @ v).transpose(0, 1)

    def error(self, output):
        difference = norm = 0.0
        for b, exact in zip(self.sample, self.exact):
            found = output[int(self.offsets[b]) : int(self.offsets[b + 1])].double()
            difference += (found - exact).pow(2).sum().item()
            norm += exact.pow(2).sum().item()
        return math.sqrt(difference / norm)

    def padded(self, x):
        out = x.new_zeros(self.rows, self.longest, *x.shape[1:])
        lengths = self.on_gpu[1:] - self.on_gpu[:-1]
        mask = torch.arange(self.longest, device=DEVICE)[None] < lengths[:, None]
        out[mask] = x
        return out.transpose(1, 2), mask


# Each peer returns (leaves, call, gradient of the output, output -> [T, H, D] or None).


def palmette(deterministic, **options):
    def peer(w):
        from palmette import jagged

        leaves, rows = [x.clone() for x in (w.q, w.k, w.v)], jagged.Rows(w.offsets)
        path = jagged.attention_path(leaves[0], leaves[1], rows)
        if options.get("path", "wgmma") != path and "path" not in options:
            raise RuntimeError(f"the path taken is {path}, wgmma was expected")
        call = lambda: jagged.attention(*leaves, rows, deterministic=deterministic, **options)
        return leaves, call, w.g, lambda o: o

    return peer


def varlen(w):
    from torch.nn.attention.varlen import varlen_attn

    leaves, offsets = [x.clone() for x in (w.q, w.k, w.v)], w.on_gpu.int()
    return leaves, lambda: varlen_attn(*leaves, offsets, offsets, w.longest, w.longest), w.g, lambda o: o


def flash_attention_4(w):
    from flash_attn.cute import flash_attn_varlen_func

    leaves, offsets = [x.clone() for x in (w.q, w.k, w.v)], w.on_gpu.int()

    def call():
        out = flash_attn_varlen_func(
            *leaves, cu_seqlens_q=offsets, cu_seqlens_k=offsets, max_seqlen_q=w.longest, max_seqlen_k=w.longest
        )
        return out[0] if isinstance(out, (tuple, list)) else out

    return leaves, call, w.g, lambda o: o


def nested(w):
    leaves = [x.clone() for x in (w.q, w.k, w.v)]

    def call():
        tensors = [
            torch.nested.nested_tensor_from_jagged(x, offsets=w.on_gpu, min_seqlen=1, max_seqlen=w.longest).transpose(1, 2)
            for x in leaves
        ]
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(*tensors).transpose(1, 2).values()

    return leaves, call, w.g, lambda o: o


def dense(backend, masked):
    def peer(w):
        (q, mask), (k, _), (v, _), (g, _) = (w.padded(x) for x in (w.q, w.k, w.v, w.g))
        allowed = mask[:, None, None, :].expand(w.rows, 1, w.longest, w.longest) if masked else None

        def call():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)

        # Without a mask padding is attended to: a cost, not a result.
        return [q, k, v], call, g, (lambda o: o.transpose(1, 2)[mask]) if masked else None

    return peer


def naive(w):
    (q, mask), (k, _), (v, _), (g, _) = (w.padded(x) for x in (w.q, w.k, w.v, w.g))
    q, k, v, g = (x.contiguous() for x in (q, k, v, g))
    hidden = ~mask[:, None, None, :]

    def call():
        scores = torch.matmul(q / math.sqrt(w.dim), k.transpose(-1, -2))
        return torch.matmul(torch.softmax(scores.masked_fill(hidden, float("-inf")), -1), v)

    return [q, k, v], call, g, lambda o: o.transpose(1, 2)[mask]


def flex(w):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if w.tokens > 300_000:
        raise RuntimeError("making the block mask takes tokens^2 evaluations")
    torch._dynamo.reset()
    lengths = w.on_gpu[1:] - w.on_gpu[:-1]
    length = (w.tokens + 127) // 128 * 128
    row = torch.full((length,), w.rows, device=DEVICE, dtype=torch.int32)
    row[: w.tokens] = torch.repeat_interleave(torch.arange(w.rows, device=DEVICE), lengths).int()
    mask = torch.compile(create_block_mask)(lambda b, h, i, j: row[i] == row[j], None, None, length, length)
    attention = torch.compile(flex_attention, dynamic=False)

    def packed(x):
        return torch.cat([x, x.new_zeros(length - w.tokens, *x.shape[1:])]).transpose(0, 1)[None].contiguous()

    leaves = [packed(x) for x in (w.q, w.k, w.v)]
    return leaves, lambda: attention(*leaves, block_mask=mask), packed(w.g), lambda o: o[0].transpose(0, 1)[: w.tokens]


JAGGED = {
    "palmette": palmette(True),
    "palmette, fast backward": palmette(False),
    "palmette, portable path": palmette(True, path="mma"),
    "FlashAttention-4": flash_attention_4,
    "varlen (FlashAttention-2)": varlen,
    "FlexAttention": flex,
    "nested tensors, flash": nested,
}
DENSE = {
    "dense flash, no mask": dense(SDPBackend.FLASH_ATTENTION, False),
    "dense cuDNN, no mask": dense(SDPBackend.CUDNN_ATTENTION, False),
    "dense cuDNN, mask": dense(SDPBackend.CUDNN_ATTENTION, True),
    "naive dense": naive,
}
RESULTS = {}


def refused(where, problem):
    print(f"{where}: could not run: {type(problem).__name__}: {str(problem).splitlines()[0][:120]}", flush=True)


def measure(names, peers, w):
    """Times the peers in turns, forward, then both; prints and keeps a line each."""
    ready = {}
    for name in names:
        try:
            leaves, call, gradient, jagged = peers[name](w)
            for leaf in leaves:
                leaf.requires_grad_(True)
            with torch.no_grad():
                out = call()
                error = f"{w.error(jagged(out)):.1e}" if jagged else "-"
                del out
            both = lambda leaves=leaves, call=call, gradient=gradient: torch.autograd.grad(call(), leaves, gradient)
            both()
            ready[name] = (call, both, error)
        except Exception as problem:  # a peer that cannot run is part of the result
            refused(f"{w.name} D{w.dim} {name}", problem)
    try:
        with torch.no_grad():
            forward = in_turns({name: call for name, (call, _, _) in ready.items()})
            forward_memory = {name: extra_bytes(call) for name, (call, _, _) in ready.items()}
        total = in_turns({name: both for name, (_, both, _) in ready.items()})
        total_memory = {name: extra_bytes(both) for name, (_, both, _) in ready.items()}
    except Exception as problem:
        return refused(f"{w.name} D{w.dim} {', '.join(ready)}", problem)
    for name, (_, _, error) in ready.items():
        RESULTS[w.name, w.dim, name] = (*forward[name], *total[name], forward_memory[name], total_memory[name])
        print(
            f"{w.name} D{w.dim} {name}: forward {forward[name][0]:.3f} (min {forward[name][1]:.3f}) "
            f"both {total[name][0]:.3f} (min {total[name][1]:.3f}) ms, "
            f"extra {forward_memory[name]:.0f} / {total_memory[name]:.0f} MiB, error {error}",
            flush=True,
        )


def tables(workloads):
    """The results as Markdown, a table each for forward, both and memory; `workloads` are (name, dim, floors)."""
    lines = []
    for title, at in (("forward, ms", 0), ("forward and backward, ms", 2), ("extra memory, MiB, forward / both", 4)):
        lines += ["| " + " | ".join([title] + [f"{name} D{dim}" for name, dim, _ in workloads]) + " |"]
        lines += ["|---" * (len(workloads) + 1) + "|"]
        lines += ["| " + " | ".join(["floor"] + [floors[at // 2] for _, _, floors in workloads]) + " |"]
        for peer in list(JAGGED) + list(DENSE):
            cells = []
            for name, dim, _ in workloads:
                found = RESULTS.get((name, dim, peer))
                if found is None:
                    cells.append("-")
                elif at == 4:
                    cells.append(f"{found[4]:.0f} / {found[5]:.0f}")
                else:
                    four = RESULTS.get((name, dim, "FlashAttention-4"))
                    ratio = f", {found[at] / four[at]:.2f}" if four else ""
                    cells.append(f"{found[at]:.3f} ({found[at + 1]:.3f}{ratio})")
            lines.append("| " + " | ".join([peer] + cells) + " |")
        lines.append("")
    return "\n".join(lines)


def ceilings():
    """What this GPU reaches: a product of 8192^3 in bf16, FLOP a ms, and a copy of 2 GiB, bytes read and written a ms."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=TYPE) for _ in range(2))
    product = in_turns({"": lambda: a @ b})[""][0]
    x, y = (torch.randn(2**29, device=DEVICE) for _ in range(2))
    copy = in_turns({"": lambda: y.copy_(x)})[""][0]
    return 2 * 8192**3 / product, 2 * x.numel() * 4 / copy


def floors(w, flop, byte):
    """Forward and both in ms at the ceilings, memory in MiB."""
    squares = float((w.offsets.diff().double() ** 2).sum())
    flops, tensor = 4 * w.dim * HEADS * squares, w.tokens * HEADS * w.dim * 2
    sums = w.tokens * HEADS * 4
    forward = max(flops / flop, (4 * tensor + sums) / byte)
    both = max(3.5 * flops / flop, 12 * tensor / byte)
    return f"{forward:.3f}", f"{both:.3f}", f"{(tensor + sums) / 2**20:.0f} / {(4 * tensor + 2 * sums) / 2**20:.0f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="comma-separated parts of names")
    parser.add_argument("--seconds", type=float, default=1e9, help="start nothing after so long")
    parser.add_argument("--markdown", help="write the tables there")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    parts = [part for part in options.only.split(",") if part]
    wanted = lambda peers: [name for name in peers if not parts or any(part in name for part in parts)]
    begin, workloads = time.time(), []
    flop, byte = ceilings()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    print(f"floors at {flop / 1e9:.0f} TFLOP/s (a product of 8192^3) and {byte / 1e9:.2f} TB/s (a copy of 2 GiB)")
    for path in options.files:
        for dim in (64, 128):
            w = Workload(path, dim)
            workloads.append((w.name, dim, floors(w, flop, byte)))
            for names, peers in [(wanted(JAGGED), JAGGED)] + [([name], DENSE) for name in wanted(DENSE)]:
                if time.time() - begin > options.seconds:
                    print(f"{w.name} D{dim} {', '.join(names)}: not run, out of time")
                    continue
                measure(names, peers, w)
                gc.collect()
                torch.cuda.empty_cache()
            del w
            if options.markdown:
                pathlib.Path(options.markdown).write_text(tables(workloads))

"""Times other implementations of variable-length attention on the jagged workloads.

`python peers.py [--only NAME,..] [--seconds S] FILE...`, where the files come from
lengths.py. bf16, 4 heads, forward and forward + backward: median and minimum in ms, and
the peak of bytes allocated during the call beyond its operands. Needs a CUDA GPU and
PyTorch 2.11; FlashAttention-4 (PyPI flash-attn-4) if it can be imported. A peer that
cannot run is named with its reason.
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


def timed(call, most=20):
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    repeats = max(3, min(most, int(0.2 / max(time.perf_counter() - begin, 1e-5))))
    pairs = []
    for _ in range(repeats):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        call()
        events[1].record()
        pairs.append(events)
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in pairs)
    return times[len(times) // 2], times[0]


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


PEERS = {
    "varlen (FlashAttention-2)": varlen,
    "FlashAttention-4": flash_attention_4,
    "nested tensors, flash": nested,
    "dense flash, no mask": dense(SDPBackend.FLASH_ATTENTION, False),
    "dense cuDNN, no mask": dense(SDPBackend.CUDNN_ATTENTION, False),
    "dense cuDNN, mask": dense(SDPBackend.CUDNN_ATTENTION, True),
    "naive dense": naive,
    "FlexAttention": flex,
}


def measure(name, peer, w):
    where = f"{w.name} D{w.dim} {name}"
    try:
        leaves, call, gradient, jagged = peer(w)
        for leaf in leaves:
            leaf.requires_grad_(True)
        with torch.no_grad():
            out = call()
            error = f"{w.error(jagged(out)):.1e}" if jagged else "-"
            del out
            forward, forward_memory = timed(call), extra_bytes(call)

        def both():
            return torch.autograd.grad(call(), leaves, gradient)

        total, total_memory = timed(both), extra_bytes(both)
        print(
            f"{where}: forward {forward[0]:.3f} (min {forward[1]:.3f}) both {total[0]:.3f} (min {total[1]:.3f}) ms, "
            f"extra {forward_memory:.0f} / {total_memory:.0f} MiB, error {error}",
            flush=True,
        )
    except Exception as problem:  # a peer that cannot run is part of the result
        print(f"{where}: could not run: {type(problem).__name__}: {str(problem).splitlines()[0][:120]}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="comma-separated parts of peers' names")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no peer after so long")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    wanted = [part for part in options.only.split(",") if part]
    begin = time.time()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for path in options.files:
        for dim in (64, 128):
            workload = Workload(path, dim)
            for name, peer in PEERS.items():
                if wanted and not any(part in name for part in wanted):
                    continue
                if time.time() - begin > options.seconds:
                    print(f"{workload.name} D{dim} {name}: not run, out of time")
                    continue
                measure(name, peer, workload)
                gc.collect()
                torch.cuda.empty_cache()
            del workload

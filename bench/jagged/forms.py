"""Times pooled target attention and HSTU attention on the jagged workloads beside PyTorch on padded
tensors, in one process, all taking turns.

    python bench/jagged/forms.py pooled|hstu FILE...

where the files come from lengths.py. bf16, heads of 64: forward, and forward + backward; median and
minimum in ms, what the kernels take of that, and the peak of bytes allocated during the call beyond its operands, MiB. Pooled
attention: 8 targets a row over its history, one head. HSTU: 4 heads, causal. Needs a CUDA GPU,
PyTorch 2.11 and the package palmette.
"""

import pathlib
import sys

import torch
import torch.nn.functional as F

from palmette import jagged
from peers import DEVICE, HEADS, TYPE, Workload, extra_bytes, in_turns
from profile_step import kernels

DIM, TARGETS = 64, 8


def pooled(w):
    keys, values = (x[:, 0].contiguous() for x in (w.k, w.v))
    generator = torch.Generator(device=DEVICE).manual_seed(2)
    targets = torch.randn(w.rows, TARGETS, DIM, device=DEVICE, dtype=TYPE, generator=generator)
    rows = jagged.Rows(w.offsets)
    padded_keys, mask = w.padded(keys[:, None])
    padded_values, _ = w.padded(values[:, None])

    def ours(deterministic):
        return lambda k, v, t: jagged.pooled_attention(k, v, t, rows, scale=DIM**-0.5, deterministic=deterministic)

    def dense(k, v, t):
        return F.scaled_dot_product_attention(t[:, None], k, v, attn_mask=mask[:, None, None])[:, 0]

    return {
        "palmette, deterministic": (ours(True), (keys, values, targets)),
        "palmette, fast": (ours(False), (keys, values, targets)),
        "padded, scaled_dot_product_attention": (dense, (padded_keys, padded_values, targets)),
    }, lambda name, out: out


def hstu(w):
    rows = jagged.Rows(w.offsets)
    (q, mask), (k, _), (v, _) = (w.padded(x) for x in (w.q, w.k, w.v))
    causal = torch.ones(w.longest, w.longest, dtype=torch.bool, device=DEVICE).tril()

    def dense(q, k, v):
        return (F.silu(q @ k.transpose(2, 3) * DIM**-0.5) * causal * (1.0 / w.longest)) @ v

    return {
        "palmette": (lambda q, k, v: jagged.hstu_attention(q, k, v, rows), (w.q, w.k, w.v)),
        "padded": (dense, (q, k, v)),
        "padded, torch.compile": (torch.compile(dense), (q, k, v)),
    }, lambda name, out: out if name == "palmette" else out.transpose(1, 2)[mask]


def measure(form, w):
    peers, flat = form(w)
    calls, memory, first = {}, {}, None
    for name, (call, operands) in peers.items():
        leaves = [x.clone().requires_grad_() for x in operands]
        out = call(*leaves)
        g = torch.ones_like(out)
        found = flat(name, out.detach()).double()
        first = found if first is None else first
        print(f"    {name}: differs by {((found - first).norm() / first.norm()).item():.1e} from the first")

        def forward(call=call, leaves=leaves):
            with torch.no_grad():
                return call(*leaves)

        def both(call=call, leaves=leaves, g=g):
            return torch.autograd.grad(call(*leaves), leaves, g)

        calls[name, "forward"], calls[name, "both"] = forward, both
        del out, found
        memory[name] = [extra_bytes(c) for c in (forward, both)]
    times = in_turns(calls)
    print(f"| {w.name} | forward, ms | both, ms | kernels alone | memory, forward / both |\n|---|---|---|---|---|")
    for name in peers:
        cells = " | ".join("{:.3f} ({:.3f})".format(*times[name, kind]) for kind in ("forward", "both"))
        kernels = " / ".join(f"{on_device(calls[name, kind]):.3f}" for kind in ("forward", "both"))
        print(f"| {name} | {cells} | {kernels} | {memory[name][0]:.0f} / {memory[name][1]:.0f} |")


def on_device(call):
    """What the kernels of a call take, ms, without what Python takes to launch them."""
    call()
    return sum(kernels(call).values())


def main():
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
    form = {"pooled": pooled, "hstu": hstu}[sys.argv[1]]
    for path in sys.argv[2:]:
        print(f"\n{form.__name__}, {pathlib.Path(path).name}")
        measure(form, Workload(path, DIM))
        torch.cuda.empty_cache()


if __name__ == "__main__":
    assert HEADS == 4
    main()

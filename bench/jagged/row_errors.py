"""Relative errors of single rows in bf16, by length, beside PyTorch's flash attention and
FlashAttention-4 (if it can be imported): the largest over rows and heads of `|found - exact| / |exact|`,
exact in f64 from the same bf16 operands.

    python bench/jagged/row_errors.py

"times 3", "times 8": queries and keys that much larger, so that the softmax is nearly one key's; of
those, after a stroke, also the error of all rows and heads together.

Gradients of queries and keys of a short row are differences of nearly equal numbers (with one
key exactly 0), of which 16-bit operands and outputs leave little, whoever computes them.
"""

import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

LENGTHS, ROWS, HEADS, TYPE = [2, 3, 5, 17, 63, 64, 65, 300], 32, 4, torch.bfloat16
DEVICE = "cuda"


def exact(q, k, v, g):
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    out = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), g.double())]


def flash(q, k, v, g):
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = F.scaled_dot_product_attention(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), g)]


def jagged_form(call):
    """`call(q, k, v, length)` on [T, H, D], as a function of [B, H, N, D]."""

    def run(q, k, v, g):
        rows, heads, length, dim = q.shape
        flat = lambda x: x.transpose(1, 2).reshape(rows * length, heads, dim).contiguous()
        back = lambda x: x.reshape(rows, length, heads, dim).transpose(1, 2)
        q, k, v = (flat(x).requires_grad_() for x in (q, k, v))
        out = call(q, k, v, length)
        return [back(x.detach()) for x in (out, *torch.autograd.grad(out, (q, k, v), flat(g)))]

    return run


def palmette(deterministic):
    from palmette import jagged

    rows = lambda length: jagged.Rows.from_lengths([length] * ROWS)
    return jagged_form(lambda q, k, v, length: jagged.attention(q, k, v, rows(length), deterministic=deterministic))


def flash_attention_4():
    from flash_attn.cute import flash_attn_varlen_func

    def call(q, k, v, length):
        offsets = torch.arange(0, (ROWS + 1) * length, length, device=DEVICE, dtype=torch.int32)
        out = flash_attn_varlen_func(
            q, k, v, cu_seqlens_q=offsets, cu_seqlens_k=offsets, max_seqlen_q=length, max_seqlen_k=length
        )
        return out[0] if isinstance(out, (tuple, list)) else out

    return jagged_form(call)


def main():
    peers = {"palmette, fast": palmette(False), "palmette, deterministic": palmette(True), "PyTorch, flash": flash}
    try:
        peers["FlashAttention-4"] = flash_attention_4()
    except ImportError as error:
        print(f"FlashAttention-4: {error}")
    for dim in (64, 128):
        print(f"\nD {dim}: output, dq, dk, dv\n\n| length | " + " | ".join(peers) + " |\n|---|" + "---|" * len(peers))
        for length, size in [*((n, 1) for n in LENGTHS), (200, 3), (200, 8)]:
            generator = torch.Generator(device=DEVICE).manual_seed(length)
            draw = lambda: torch.randn(ROWS, HEADS, length, dim, device=DEVICE, dtype=TYPE, generator=generator)
            operands = [draw() * size, draw() * size, draw(), draw()]
            expected = exact(*operands)
            cells = []
            for call in peers.values():
                try:
                    found = call(*operands)
                except Exception as problem:  # a peer may refuse a shape
                    cells.append(str(problem).splitlines()[0][:60])
                    continue
                norms = [((f.double() - e).flatten(2).norm(dim=2) / e.flatten(2).norm(dim=2)) for f, e in zip(found, expected)]
                cell = " ".join(f"{100 * x.max().item():.2f}" for x in norms)
                if size > 1:
                    whole = [(f.double() - e).norm() / e.norm() for f, e in zip(found, expected)]
                    cell += " / " + " ".join(f"{100 * x.item():.2f}" for x in whole)
                cells.append(cell)
            print(f"| {length}{f' times {size}' if size > 1 else ''} | " + " | ".join(cells) + " |")
    print("\nper cent, the largest over", ROWS * HEADS, "rows and heads")


if __name__ == "__main__":
    main()

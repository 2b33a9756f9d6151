"""Jagged tensors and jagged flash attention on PyTorch tensors.

A jagged tensor stores rows of varying length one after the other: values ``[T, ...]``, where
``T`` is the sum of all lengths, and :class:`Rows`, which says where each row begins. The
operators take float32, bfloat16 and float16 (float64 too on the CPU), run where the tensors
are, on the current CUDA stream, and have gradients (of the first order; ``torch.func`` is not
supported). CPU operators use all cores; :func:`set_threads`, before the first of them runs, or
``RAYON_NUM_THREADS`` in the environment sets another number. Each is a ``torch.library`` operator of
the namespace ``palmette`` with a fake implementation, so ``torch.compile`` takes it whole.

>>> import torch
>>> from palmette import jagged
>>> rows = jagged.Rows.from_lengths([2, 0, 1])
>>> x = torch.zeros(3, 1, 16)
>>> jagged.attention(x, x, x, rows, mask="causal").shape
torch.Size([3, 1, 16])
"""

from __future__ import annotations

import collections
import functools
import threading
from typing import Dict, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from . import _native

_lock = threading.Lock()

__all__ = [
    "Rows",
    "attention",
    "pooled_attention",
    "hstu_attention",
    "softmax",
    "dense_bmm",
    "jagged_bmm",
    "to_padded",
    "from_padded",
    "as_tensor",
    "Feature",
    "keyed_rows",
    "from_nested",
    "to_nested",
    "attention_path",
    "set_threads",
]

Mask = Union[str, Tuple[int, int]]


class Rows:
    """Where the rows of a jagged tensor begin, checked once.

    ``offsets`` is an int64 tensor ``[B + 1]`` on the CPU, from 0 to ``T``; ``count`` is ``B`` and
    ``total`` is ``T``. A row longer than
    ``max_len`` is an error that names it; with ``truncate`` operators see its first
    ``max_len`` elements and write zeros past them, as FBGEMM does.
    """

    def __init__(self, offsets: Tensor, max_len: Optional[int] = None, truncate: bool = False):
        if not isinstance(offsets, Tensor) or offsets.dim() != 1:
            raise ValueError(f"offsets are {_described(offsets)}, expected a tensor [B + 1]")
        _integers("offsets", offsets)
        if max_len is not None and (not isinstance(max_len, int) or not 0 <= max_len < 1 << 62):
            raise ValueError(f"max_len is {max_len!r}, expected an integer of at least 0")
        # A copy: what was checked stays as it was.
        offsets = offsets.detach().to("cpu", torch.int64, copy=True).contiguous()
        if max_len is None:
            max_len = int(offsets.diff().max()) if offsets.numel() > 1 else 0
            max_len = max(max_len, 0)
        self.offsets, self.max_len, self.truncate = offsets, int(max_len), bool(truncate)
        _rows_of(_bytes(offsets), self.max_len, self.truncate)
        self.count = offsets.numel() - 1
        self.total = int(offsets[-1])

    @staticmethod
    def from_lengths(lengths: Union[Tensor, Sequence[int]], max_len: Optional[int] = None, truncate: bool = False) -> "Rows":
        """From the length of each row."""
        lengths = torch.as_tensor(lengths, device="cpu")
        if lengths.dim() != 1:
            raise ValueError(f"lengths are {_described(lengths)}, expected [B]")
        if lengths.numel() == 0:
            lengths = lengths.to(torch.int64)
        _integers("lengths", lengths)
        lengths = lengths.to(torch.int64)
        return Rows(torch.nn.functional.pad(lengths.cumsum(0), (1, 0)), max_len, truncate)

    def __repr__(self) -> str:
        return f"Rows({self.count} rows, {self.total} elements, max_len={self.max_len}, truncate={self.truncate})"


def _described(x) -> str:
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)


def _integers(name: str, x: Tensor) -> None:
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ValueError(f"{name} are {x.dtype}, expected integers")


# Rows, shapes and plans are kept by what they were made from, the offsets' bytes included.
def _bytes(offsets: Tensor) -> bytes:
    return offsets.numpy().tobytes()


# Sets of rows in the order of their last use, and what their offsets take at most.
_row_sets: "collections.OrderedDict[tuple, _native.Rows]" = collections.OrderedDict()
_ROW_SET_BYTES = 64 << 20


def _rows_of(offsets: bytes, max_len: int, truncate: bool) -> "_native.Rows":
    key = (offsets, max_len, truncate)
    with _lock:
        if key in _row_sets:
            _row_sets.move_to_end(key)
            return _row_sets[key]
    held = torch.frombuffer(bytearray(offsets), dtype=torch.int64) if offsets else torch.zeros(0, dtype=torch.int64)
    rows = _native.Rows(_buffer(held), max_len, truncate)
    with _lock:
        _row_sets[key] = rows
        size = sum(len(kept[0]) for kept in _row_sets)
        while len(_row_sets) > 256 or (size > _ROW_SET_BYTES and len(_row_sets) > 1):
            size -= len(_row_sets.popitem(last=False)[0][0])
    return rows


# Plans count the tasks that a call has handed out: streams, whose calls may overlap, have plans
# of their own. A place is a GPU and a stream of it.
@functools.lru_cache(maxsize=64)
def _gpu_attention(
    place: Tuple[int, int],
    element: str,
    shape: tuple,
    rows_q: tuple,
    rows_k: tuple,
    bias: Optional[tuple],
    fast: bool,
    path: str,
) -> "_native.GpuAttentionPlan":
    rows = (_rows_of(*rows_q), _rows_of(*rows_k))
    return _native.GpuAttentionPlan(place, element, _native.Attention(*shape), rows, bias, fast, path)


@functools.lru_cache(maxsize=64)
def _gpu_hstu(place: Tuple[int, int], element: str, shape: tuple, rows: tuple) -> "_native.GpuHstuPlan":
    return _native.GpuHstuPlan(place, element, _hstu_shape(shape), _rows_of(*rows))


@functools.lru_cache(maxsize=64)
def _gpu_operators(place: Tuple[int, int], element: str, rows: tuple) -> "_native.GpuOperatorsPlan":
    return _native.GpuOperatorsPlan(place, element, _rows_of(*rows))


@functools.lru_cache(maxsize=64)
def _gpu_product(
    place: Tuple[int, int], element: str, rows: tuple, kind: str, sizes: tuple
) -> "_native.GpuProductPlan":
    return _native.GpuProductPlan(place, element, _rows_of(*rows), kind, sizes)


_captured: list = []


def _planned(plans, *key):
    """The plan of a call. One that a graph captures has a plan of its own for good: replays read
    its lists and count in it, and an older plan must not be given up while something is captured."""
    if not torch.cuda.is_current_stream_capturing():
        return plans(*key)
    plan = plans.__wrapped__(*key)
    _captured.append(plan)
    return plan


def _element(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _packed(x: Tensor, like: Optional[Tensor] = None, dims: Optional[int] = None) -> Tensor:
    """Without gaps and, on a GPU, at an address that kernels read 16 bytes of at once; of the type
    and on the device of another operand."""
    if like is not None and (x.dtype != like.dtype or x.device != like.device):
        raise ValueError(f"an operand is {x.dtype} on {x.device}, another {like.dtype} on {like.device}")
    if dims is not None and x.dim() != dims:
        raise ValueError(f"an operand has shape {tuple(x.shape)}, expected {dims} dimensions")
    x = x.contiguous()
    return x.clone() if x.is_cuda and x.data_ptr() % 16 else x


def _buffer(x: Tensor) -> Tuple[int, int]:
    return (x.data_ptr(), x.numel())


def _place(x: Tensor) -> Tuple[int, int]:
    return _ordinal(x), torch.cuda.current_stream(x.device).cuda_stream


def _shape(name: str, x: Tensor, expected: tuple, like: Tensor) -> None:
    if tuple(x.shape) != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(expected)}")
    if x.dtype != like.dtype or x.device != like.device:
        raise ValueError(f"{name} is {x.dtype} on {x.device}, expected {like.dtype} on {like.device}")


def _ordinal(x: Tensor) -> int:
    return x.device.index if x.device.index is not None else torch.cuda.current_device()


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# --- attention ------------------------------------------------------------------------------

# Rows travel through operators as their offsets and two numbers; `fast` asks for the
# backward with atomics, `path` forces a family of kernels.


def _attention_shape(q: Tensor, k: Tensor, left: int, right: int, scale: float) -> tuple:
    return (q.shape[1], k.shape[1], q.shape[2], left, right, scale)


# The function checks before tracing, when no operator runs; the operator when it is called by itself.
def _check_bias(bias: Optional[Tensor], q: Tensor, count: Union[int, str]) -> None:
    if bias is not None and (bias.dim() != 4 or bias.dtype != _sum_dtype(q) or bias.device != q.device):
        raise ValueError(
            f"the bias is {bias.dtype} {tuple(bias.shape)} on {bias.device}, expected {_sum_dtype(q)} "
            f"[1 or {count}, 1 or {q.shape[1]}, max_q, max_k] on {q.device}"
        )


def _operands(q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor]) -> tuple:
    q, k, v = _packed(q, None, 3), _packed(k, q, 3), _packed(v, q, 3)
    if v.shape != k.shape or k.shape[2] != q.shape[2]:
        raise ValueError(f"q, k and v have shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}")
    _check_bias(bias, q, "B")
    return q, k, v, None if bias is None else _packed(bias)


@torch.library.custom_op("palmette::jagged_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets_q: Tensor,
    offsets_k: Tensor,
    bias: Optional[Tensor],
    max_q: int,
    max_k: int,
    truncate: bool,
    scale: float,
    left: int,
    right: int,
    fast: bool,
    path: str,
) -> Tuple[Tensor, Tensor]:
    q, k, v, bias = _operands(q, k, v, bias)
    out = torch.empty_like(q)
    lse = q.new_empty((q.shape[1], q.shape[0]), dtype=_sum_dtype(q))
    rows_q, rows_k = (_bytes(offsets_q), max_q, truncate), (_bytes(offsets_k), max_k, truncate)
    shape = _attention_shape(q, k, left, right, scale)
    if q.is_cuda:
        bias_shape = None if bias is None else tuple(bias.shape)
        plan = _planned(
            _gpu_attention, _place(q), _element(q), shape, rows_q, rows_k, bias_shape, fast, path
        )
        at_bias = 0 if bias is None else bias.data_ptr()
        plan.forward([q.data_ptr(), k.data_ptr(), v.data_ptr(), at_bias, out.data_ptr(), lse.data_ptr()])
    else:
        buffer = None if bias is None else (_buffer(bias), tuple(bias.shape))
        rows = (_rows_of(*rows_q), _rows_of(*rows_k))
        operands = (_buffer(q), _buffer(k), _buffer(v))
        _native.attention_forward(
            _element(q), _native.Attention(*shape), rows, operands, buffer, _buffer(out), _buffer(lse)
        )
    return out, lse


@_attention.register_fake
def _(q, k, v, offsets_q, offsets_k, bias, max_q, max_k, truncate, scale, left, right, fast, path):
    lse = q.new_empty((q.shape[1], q.shape[0]), dtype=_sum_dtype(q))
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


@torch.library.custom_op("palmette::jagged_attention_backward", mutates_args=())
def _attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    offsets_q: Tensor,
    offsets_k: Tensor,
    bias: Optional[Tensor],
    max_q: int,
    max_k: int,
    truncate: bool,
    scale: float,
    left: int,
    right: int,
    fast: bool,
    path: str,
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v, bias = _operands(q, k, v, bias)
    d_out, out = _packed(d_out, q, 3), _packed(out, q, 3)
    if lse.dtype != _sum_dtype(q) or lse.device != q.device:
        raise ValueError(f"the log-sum-exp is {lse.dtype} on {lse.device}, expected {_sum_dtype(q)} on {q.device}")
    lse = _packed(lse)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    d_bias = lse.new_empty(0) if bias is None else torch.empty_like(bias)
    rows_q, rows_k = (_bytes(offsets_q), max_q, truncate), (_bytes(offsets_k), max_k, truncate)
    shape = _attention_shape(q, k, left, right, scale)
    if q.is_cuda:
        bias_shape = None if bias is None else tuple(bias.shape)
        plan = _planned(
            _gpu_attention, _place(q), _element(q), shape, rows_q, rows_k, bias_shape, fast, path
        )
        delta = torch.empty_like(lse)
        workspace = torch.empty(plan.workspace_bytes, dtype=torch.uint8, device=q.device)
        at_bias, at_d_bias = (0, 0) if bias is None else (bias.data_ptr(), d_bias.data_ptr())
        forward = [q.data_ptr(), k.data_ptr(), v.data_ptr(), at_bias, out.data_ptr(), lse.data_ptr()]
        written = [delta, dq, dk, dv]
        addresses = [d_out.data_ptr(), *(x.data_ptr() for x in written), at_d_bias, workspace.data_ptr()]
        plan.backward(forward, addresses)
    else:
        buffer = None if bias is None else (_buffer(bias), tuple(bias.shape))
        rows = (_rows_of(*rows_q), _rows_of(*rows_k))
        _native.attention_backward(
            _element(q),
            _native.Attention(*shape),
            rows,
            (_buffer(q), _buffer(k), _buffer(v)),
            buffer,
            (_buffer(out), _buffer(lse), _buffer(d_out)),
            (_buffer(dq), _buffer(dk), _buffer(dv)),
            None if bias is None else _buffer(d_bias),
        )
    return dq, dk, dv, d_bias


@_attention_backward.register_fake
def _(d_out, q, k, v, out, lse, offsets_q, offsets_k, bias, *numbers):
    like = functools.partial(torch.empty_like, memory_format=torch.contiguous_format)
    return like(q), like(k), like(v), lse.new_empty(0) if bias is None else like(bias)


def _attention_setup(ctx, inputs, output):
    q, k, v, offsets_q, offsets_k, bias, *ctx.numbers = inputs
    ctx.has_bias = bias is not None
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, offsets_q, offsets_k, *([bias] if ctx.has_bias else []))


def _attention_grad(ctx, d_out, d_lse):
    q, k, v, out, lse, offsets_q, offsets_k, *bias = ctx.saved_tensors
    bias = bias[0] if ctx.has_bias else None
    dq, dk, dv, d_bias = _attention_backward(d_out, q, k, v, out, lse, offsets_q, offsets_k, bias, *ctx.numbers)
    return (dq, dk, dv, None, None, d_bias if ctx.has_bias else None) + (None,) * len(ctx.numbers)


_attention.register_autograd(_attention_grad, setup_context=_attention_setup)


def _reach(mask: Mask) -> Tuple[int, int]:
    if mask == "full":
        return -1, -1
    if mask == "causal":
        return -1, 0
    if isinstance(mask, tuple) and len(mask) == 2 and all(isinstance(n, int) and 0 <= n < 1 << 62 for n in mask):
        return mask
    raise ValueError(f"the mask is {mask!r}: 'full', 'causal' or a window (left, right) are taken")


def _check_attention(q: Tensor, k: Tensor, v: Tensor, rows: Rows, rows_k: Rows) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 3 or x.shape[2] == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected [T, heads, head_dim]")
    _shape("q", q, (rows.total, q.shape[1], q.shape[2]), q)
    _shape("k", k, (rows_k.total, k.shape[1], q.shape[2]), q)
    _shape("v", v, (rows_k.total, k.shape[1], q.shape[2]), q)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Rows,
    rows_k: Optional[Rows] = None,
    *,
    mask: Mask = "full",
    scale: Optional[float] = None,
    bias: Optional[Tensor] = None,
    deterministic: bool = True,
    return_lse: bool = False,
    path: str = "auto",
) -> Union[Tensor, Tuple[Tensor, Tensor]]:
    """Softmax attention inside each row: ``[T, heads, head_dim]`` to the same shape.

    ``k`` and ``v`` are ``[T_k, kv_heads, head_dim]`` with ``rows_k`` (``rows`` if absent), where
    ``kv_heads`` divides ``heads``. The mask is "full", "causal" (query ``i`` of ``n_q`` stands at
    key ``i + n_k - n_q``) or a window ``(left, right)`` around that key. ``scale`` defaults to
    ``head_dim ** -0.5``. ``bias`` ``[1 or B, 1 or heads, max_q, max_k]`` (float32; float64 for
    float64) is added to the scaled scores and has a gradient. A query that sees no key gives 0.

    ``deterministic=False`` lets the backward pass on a Hopper GPU add with atomics, which is
    faster on long rows. With ``return_lse`` also the log-sum-exp ``[heads, T]``, without
    gradient. ``path`` forces the family of GPU kernels: "wgmma", "mma" or "plain".
    """
    rows_k = rows if rows_k is None else rows_k
    _check_attention(q, k, v, rows, rows_k)
    if path not in ("auto", "wgmma", "mma", "plain") or (path != "auto" and not q.is_cuda):
        raise ValueError(f"the path is {path!r}: auto, and on a GPU wgmma, mma or plain are taken")
    _check_bias(bias, q, rows.count)
    left, right = _reach(mask)
    scale = q.shape[2] ** -0.5 if scale is None else float(scale)
    out, lse = _attention(
        q,
        k,
        v,
        rows.offsets,
        rows_k.offsets,
        bias,
        rows.max_len,
        rows_k.max_len,
        rows.truncate or rows_k.truncate,
        scale,
        left,
        right,
        not deterministic,
        path,
    )
    return (out, lse.detach()) if return_lse else out


def attention_path(q: Tensor, k: Tensor, rows: Rows, *, bias_shape: Optional[tuple] = None) -> str:
    """The family of kernels that :func:`attention` takes for such tensors: "cpu" or a GPU path."""
    if not q.is_cuda:
        return "cpu"
    key = (_bytes(rows.offsets), rows.max_len, rows.truncate)
    shape = _attention_shape(q, k, -1, -1, q.shape[2] ** -0.5)
    return _gpu_attention(_place(q), _element(q), shape, key, key, bias_shape, False, "auto").path


def pooled_attention(
    keys: Tensor,
    values: Tensor,
    targets: Tensor,
    rows: Rows,
    *,
    scale: float = 1.0,
    bias: Optional[Tensor] = None,
    deterministic: bool = True,
) -> Tensor:
    """Attention pooling: each of ``S`` dense targets ``[B, S, D]`` attends to its row of a
    jagged history, ``keys`` and ``values`` ``[T, D]``; the output is ``[B, S, D]``.

    The softmax runs over the history; an empty one gives 0. ``bias`` is ``[B, N, S]`` with
    ``N = rows.max_len``. The scale is 1 unless set, as in FBGEMM.
    """
    if targets.dim() != 3 or targets.shape[0] != rows.count or 0 in targets.shape[1:]:
        raise ValueError(f"targets have shape {tuple(targets.shape)}, expected ({rows.count}, S, D)")
    count, size, width = targets.shape
    _shape("keys", keys, (rows.total, width), targets)
    _shape("values", values, (rows.total, width), targets)
    if bias is not None:
        if tuple(bias.shape) != (count, rows.max_len, size):
            raise ValueError(f"the bias has shape {tuple(bias.shape)}, expected {(count, rows.max_len, size)}")
        bias = bias.transpose(1, 2).to(_sum_dtype(targets)).unsqueeze(1)
    # Cross attention from rows of `size` queries each.
    offsets = torch.arange(count + 1, dtype=torch.int64, device="cpu") * size
    out, _ = _attention(
        targets.reshape(count * size, 1, width),
        keys.unsqueeze(1),
        values.unsqueeze(1),
        offsets,
        rows.offsets,
        bias,
        size,
        rows.max_len,
        rows.truncate,
        float(scale),
        -1,
        -1,
        not deterministic,
        "auto",
    )
    return out.reshape(count, size, width)


# --- HSTU -----------------------------------------------------------------------------------


def _hstu_shape(shape: tuple) -> "_native.Hstu":
    heads, dims, factors, contextual, targets, max_attention, min_full = shape
    return _native.Hstu(heads, dims, factors, contextual, None if targets is None else list(targets), max_attention, min_full)


def _hstu_operands(q: Tensor, k: Tensor, v: Tensor) -> tuple:
    q, k, v = _packed(q, None, 3), _packed(k, q, 3), _packed(v, q, 3)
    if k.shape != q.shape or v.shape[:2] != q.shape[:2]:
        raise ValueError(f"q, k and v have shapes {tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}")
    return q, k, v


@torch.library.custom_op("palmette::hstu_attention", mutates_args=())
def _hstu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    max_len: int,
    truncate: bool,
    alpha: float,
    norm: float,
    contextual: int,
    targets: Optional[Sequence[int]],
    max_attention: int,
    min_full_attention: int,
) -> Tensor:
    q, k, v = _hstu_operands(q, k, v)
    out = torch.empty_like(v)
    shape = _hstu_key(q, v, alpha, norm, contextual, targets, max_attention, min_full_attention)
    rows = (_bytes(offsets), max_len, truncate)
    if q.is_cuda:
        plan = _planned(_gpu_hstu, _place(q), _element(q), shape, rows)
        plan.forward([q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr()])
    else:
        operands = (_buffer(q), _buffer(k), _buffer(v))
        _native.hstu_forward(_element(q), _hstu_shape(shape), _rows_of(*rows), operands, _buffer(out))
    return out


def _hstu_key(q, v, alpha, norm, contextual, targets, max_attention, min_full_attention) -> tuple:
    targets = None if targets is None else tuple(targets)
    return (q.shape[1], (q.shape[2], v.shape[2]), (alpha, norm), contextual, targets, max_attention, min_full_attention)


@_hstu.register_fake
def _(q, k, v, *rest):
    return torch.empty_like(v, memory_format=torch.contiguous_format)


@torch.library.custom_op("palmette::hstu_attention_backward", mutates_args=())
def _hstu_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    max_len: int,
    truncate: bool,
    alpha: float,
    norm: float,
    contextual: int,
    targets: Optional[Sequence[int]],
    max_attention: int,
    min_full_attention: int,
) -> Tuple[Tensor, Tensor, Tensor]:
    q, k, v = _hstu_operands(q, k, v)
    d_out = _packed(d_out, q, 3)
    if d_out.shape != v.shape:
        raise ValueError(f"the output's gradient has shape {tuple(d_out.shape)}, expected {tuple(v.shape)}")
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    shape = _hstu_key(q, v, alpha, norm, contextual, targets, max_attention, min_full_attention)
    rows = (_bytes(offsets), max_len, truncate)
    if q.is_cuda:
        plan = _planned(_gpu_hstu, _place(q), _element(q), shape, rows)
        plan.backward([x.data_ptr() for x in (q, k, v, d_out, dq, dk, dv)])
    else:
        _native.hstu_backward(
            _element(q),
            _hstu_shape(shape),
            _rows_of(*rows),
            (_buffer(q), _buffer(k), _buffer(v)),
            _buffer(d_out),
            (_buffer(dq), _buffer(dk), _buffer(dv)),
        )
    return dq, dk, dv


@_hstu_backward.register_fake
def _(d_out, q, k, v, *rest):
    like = functools.partial(torch.empty_like, memory_format=torch.contiguous_format)
    return like(q), like(k), like(v)


def _hstu_setup(ctx, inputs, output):
    q, k, v, offsets, *ctx.numbers = inputs
    ctx.save_for_backward(q, k, v, offsets)


def _hstu_grad(ctx, d_out):
    gradients = _hstu_backward(d_out, *ctx.saved_tensors, *ctx.numbers)
    return (*gradients, None) + (None,) * len(ctx.numbers)


_hstu.register_autograd(_hstu_grad, setup_context=_hstu_setup)


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Rows,
    *,
    alpha: Optional[float] = None,
    norm: Optional[float] = None,
    contextual: int = 0,
    targets: Optional[Sequence[int]] = None,
    max_attention: int = 0,
    min_full_attention: int = 0,
) -> Tensor:
    """HSTU's pointwise attention ``norm * sum_j silu(alpha q_i . k_j) v_j``, ``[T, heads, D]``.

    Positions see themselves and what is before them; ``contextual`` first positions see the
    whole history, the last ``targets[b]`` of a row do not see one another, ``max_attention``
    limits the distance except for the last ``min_full_attention`` positions. ``alpha`` defaults
    to ``D ** -0.5``, ``norm`` to one over the maximal length. On a GPU: bfloat16 and float16,
    values as wide as keys, head dimensions to 256 (backward to 128).
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.dim() != 3 or x.shape[2] == 0:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, expected [T, heads, head_dim]")
    heads = (rows.total, q.shape[1])
    _shape("q", q, (*heads, q.shape[2]), q)
    _shape("k", k, (*heads, q.shape[2]), q)
    _shape("v", v, (*heads, v.shape[2]), q)
    if targets is not None:
        targets = targets.tolist() if hasattr(targets, "tolist") else list(targets)
    counts = (contextual, max_attention, min_full_attention, *(targets or ()))
    if not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in counts):
        raise ValueError("contextual, targets, max_attention and min_full_attention are counts, expected integers, at least 0")
    alpha = q.shape[2] ** -0.5 if alpha is None else float(alpha)
    norm = 1.0 / max(rows.max_len, 1) if norm is None else float(norm)
    numbers = (rows.max_len, rows.truncate, alpha, norm, contextual, targets, max_attention, min_full_attention)
    return _hstu(q, k, v, rows.offsets, *numbers)


# --- small operators ------------------------------------------------------------------------


@torch.library.custom_op("palmette::jagged_softmax", mutates_args=())
def _softmax(x: Tensor, offsets: Tensor, max_len: int, truncate: bool) -> Tensor:
    x = _packed(x)
    out, width, rows = torch.empty_like(x), _width(x), (_bytes(offsets), max_len, truncate)
    if x.is_cuda:
        plan = _planned(_gpu_operators, _place(x), _element(x), rows)
        plan.softmax(width, x.data_ptr(), out.data_ptr())
    else:
        _native.softmax(_element(x), _rows_of(*rows), width, _buffer(x), _buffer(out))
    return out


def _width(x: Tensor) -> int:
    width = 1
    for size in x.shape[1:]:
        width *= size
    return width


@_softmax.register_fake
def _(x, offsets, max_len, truncate):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("palmette::jagged_softmax_backward", mutates_args=())
def _softmax_backward(dy: Tensor, y: Tensor, offsets: Tensor, max_len: int, truncate: bool) -> Tensor:
    dy, y = _packed(dy, y), _packed(y)
    if dy.shape != y.shape:
        raise ValueError(f"the output's gradient has shape {tuple(dy.shape)}, expected {tuple(y.shape)}")
    dx, width, rows = torch.empty_like(y), _width(y), (_bytes(offsets), max_len, truncate)
    if y.is_cuda:
        plan = _planned(_gpu_operators, _place(y), _element(y), rows)
        plan.softmax_backward(width, y.data_ptr(), dy.data_ptr(), dx.data_ptr())
    else:
        _native.softmax_backward(_element(y), _rows_of(*rows), width, _buffer(y), _buffer(dy), _buffer(dx))
    return dx


@_softmax_backward.register_fake
def _(dy, y, offsets, max_len, truncate):
    return torch.empty_like(y, memory_format=torch.contiguous_format)


def _softmax_setup(ctx, inputs, output):
    _, offsets, *ctx.numbers = inputs
    ctx.save_for_backward(output, offsets)


def _softmax_grad(ctx, dy):
    y, offsets = ctx.saved_tensors
    return _softmax_backward(dy, y, offsets, *ctx.numbers), None, None, None


_softmax.register_autograd(_softmax_grad, setup_context=_softmax_setup)


def _numbers(rows: Rows) -> Tuple[Tensor, int, bool]:
    return rows.offsets, rows.max_len, rows.truncate


def softmax(x: Tensor, rows: Rows) -> Tensor:
    """Softmax over the elements of each row, separately for each column of ``x`` ``[T, ...]``."""
    _shape("x", x, (rows.total, *x.shape[1:]), x)
    return _softmax(x, *_numbers(rows))


@torch.library.custom_op("palmette::jagged_dense_bmm", mutates_args=())
def _dense_bmm(x: Tensor, y: Tensor, transposed: bool, offsets: Tensor, max_len: int, truncate: bool) -> Tensor:
    x, y = _packed(x, None, 2), _packed(y, x, 3)
    k, m = x.shape[1], y.shape[1 if transposed else 2]
    if y.shape[2 if transposed else 1] != k or y.shape[0] != offsets.numel() - 1:
        raise ValueError(f"matrices of shape {tuple(y.shape)} do not multiply {offsets.numel() - 1} rows of width {k}")
    z, rows = x.new_empty((x.shape[0], m)), (_bytes(offsets), max_len, truncate)
    if x.is_cuda:
        kind = "dense transposed" if transposed else "dense"
        plan = _planned(_gpu_product, _place(x), _element(x), rows, kind, (k, m))
        plan.run(x.data_ptr(), y.data_ptr(), z.data_ptr())
    else:
        _native.dense_bmm(_element(x), _rows_of(*rows), (k, m), transposed, _buffer(x), _buffer(y), _buffer(z))
    return z


@_dense_bmm.register_fake
def _(x, y, transposed, offsets, max_len, truncate):
    return x.new_empty((x.shape[0], y.shape[1 if transposed else 2]))


@torch.library.custom_op("palmette::jagged_jagged_bmm", mutates_args=())
def _jagged_bmm(x: Tensor, y: Tensor, offsets: Tensor, max_len: int, truncate: bool) -> Tensor:
    x, y = _packed(x, None, 2), _packed(y, x, 2)
    sizes, rows = (x.shape[1], y.shape[1]), (_bytes(offsets), max_len, truncate)
    z = x.new_empty((offsets.numel() - 1, *sizes))
    if x.is_cuda:
        plan = _planned(_gpu_product, _place(x), _element(x), rows, "jagged", sizes)
        plan.run(x.data_ptr(), y.data_ptr(), z.data_ptr())
    else:
        _native.jagged_bmm(_element(x), _rows_of(*rows), sizes, _buffer(x), _buffer(y), _buffer(z))
    return z


@_jagged_bmm.register_fake
def _(x, y, offsets, max_len, truncate):
    return x.new_empty((offsets.numel() - 1, x.shape[1], y.shape[1]))


def _dense_bmm_setup(ctx, inputs, output):
    x, y, ctx.transposed, offsets, *ctx.numbers = inputs
    ctx.save_for_backward(x, y, offsets)


def _dense_bmm_grad(ctx, dz):
    x, y, offsets = ctx.saved_tensors
    dx = _dense_bmm(dz, y, not ctx.transposed, offsets, *ctx.numbers)
    left, right = (dz, x) if ctx.transposed else (x, dz)
    return dx, _jagged_bmm(left, right, offsets, *ctx.numbers), None, None, None, None


def _jagged_bmm_setup(ctx, inputs, output):
    x, y, offsets, *ctx.numbers = inputs
    ctx.save_for_backward(x, y, offsets)


def _jagged_bmm_grad(ctx, dz):
    x, y, offsets = ctx.saved_tensors
    dx = _dense_bmm(y, dz, True, offsets, *ctx.numbers)
    return dx, _dense_bmm(x, dz, False, offsets, *ctx.numbers), None, None, None


_dense_bmm.register_autograd(_dense_bmm_grad, setup_context=_dense_bmm_setup)
_jagged_bmm.register_autograd(_jagged_bmm_grad, setup_context=_jagged_bmm_setup)


def dense_bmm(x: Tensor, y: Tensor, rows: Rows) -> Tensor:
    """``z_b = x_b y_b``: ``[T, K]`` times ``[B, K, M]`` is ``[T, M]``."""
    if x.dim() != 2 or y.dim() != 3:
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}, expected [T, K] and [B, K, M]")
    _shape("x", x, (rows.total, x.shape[1]), x)
    _shape("y", y, (rows.count, x.shape[1], y.shape[2]), x)
    return _dense_bmm(x, y, False, *_numbers(rows))


def jagged_bmm(x: Tensor, y: Tensor, rows: Rows) -> Tensor:
    """``z_b = x_b^T y_b``: ``[T, K]`` and ``[T, M]`` give ``[B, K, M]``, 0 for empty rows."""
    if x.dim() != 2 or y.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)} and y {tuple(y.shape)}, expected [T, K] and [T, M]")
    _shape("x", x, (rows.total, x.shape[1]), x)
    _shape("y", y, (rows.total, y.shape[1]), x)
    return _jagged_bmm(x, y, *_numbers(rows))


@torch.library.custom_op("palmette::jagged_to_padded", mutates_args=())
def _to_padded(x: Tensor, padding: float, offsets: Tensor, max_len: int, truncate: bool) -> Tensor:
    x = _packed(x)
    width, rows = _width(x), (_bytes(offsets), max_len, truncate)
    dense = x.new_empty((offsets.numel() - 1, max_len, *x.shape[1:]))
    if x.is_cuda:
        plan = _planned(_gpu_operators, _place(x), _element(x), rows)
        plan.to_padded(width, x.data_ptr(), padding, dense.data_ptr())
    else:
        _native.to_padded(_element(x), _rows_of(*rows), width, _buffer(x), padding, _buffer(dense))
    return dense


@_to_padded.register_fake
def _(x, padding, offsets, max_len, truncate):
    return x.new_empty((offsets.numel() - 1, max_len, *x.shape[1:]))


@torch.library.custom_op("palmette::padded_to_jagged", mutates_args=())
def _from_padded(dense: Tensor, total: int, offsets: Tensor, max_len: int, truncate: bool) -> Tensor:
    dense = _packed(dense)
    if dense.dim() < 2 or tuple(dense.shape[:2]) != (offsets.numel() - 1, max_len):
        raise ValueError(f"dense has shape {tuple(dense.shape)}, expected ({offsets.numel() - 1}, {max_len}, ...)")
    x = dense.new_empty((total, *dense.shape[2:]))
    width, rows = _width(x), (_bytes(offsets), max_len, truncate)
    if dense.is_cuda:
        plan = _planned(_gpu_operators, _place(dense), _element(dense), rows)
        plan.to_jagged(width, dense.data_ptr(), x.data_ptr())
    else:
        _native.from_padded(_element(dense), _rows_of(*rows), width, _buffer(dense), _buffer(x))
    return x


@_from_padded.register_fake
def _(dense, total, offsets, max_len, truncate):
    return dense.new_empty((total, *dense.shape[2:]))


def _to_padded_setup(ctx, inputs, output):
    x, _, offsets, *ctx.numbers = inputs
    ctx.total = x.shape[0]
    ctx.save_for_backward(offsets)


def _to_padded_grad(ctx, d_dense):
    return _from_padded(d_dense, ctx.total, *ctx.saved_tensors, *ctx.numbers), None, None, None, None


def _from_padded_setup(ctx, inputs, output):
    _, _, offsets, *ctx.numbers = inputs
    ctx.save_for_backward(offsets)


def _from_padded_grad(ctx, dx):
    return _to_padded(dx, 0.0, *ctx.saved_tensors, *ctx.numbers), None, None, None, None


_to_padded.register_autograd(_to_padded_grad, setup_context=_to_padded_setup)
_from_padded.register_autograd(_from_padded_grad, setup_context=_from_padded_setup)


def to_padded(x: Tensor, rows: Rows, padding: float = 0.0) -> Tensor:
    """``[T, ...]`` to ``[B, max_len, ...]``, filled up with ``padding``."""
    _shape("x", x, (rows.total, *x.shape[1:]), x)
    return _to_padded(x, float(padding), *_numbers(rows))


def from_padded(dense: Tensor, rows: Rows) -> Tensor:
    """``[B, max_len, ...]`` to ``[T, ...]``: what rows cover."""
    _shape("the padded tensor", dense, (rows.count, rows.max_len, *dense.shape[2:]), dense)
    return _from_padded(dense, rows.total, *_numbers(rows))


# --- other layouts --------------------------------------------------------------------------


def as_tensor(x) -> Tensor:
    """Anything that exports DLPack (NumPy, CuPy, JAX) as a tensor over the same memory."""
    return x if isinstance(x, Tensor) else torch.from_dlpack(x)


class Feature(NamedTuple):
    """One feature of a KeyedJaggedTensor's buffer: which values are its own, and its rows."""

    values: slice
    rows: Rows


def set_threads(threads: int) -> None:
    """Sets the number of threads of CPU operators, once, before the first of them runs."""
    if threads < 1:
        raise ValueError(f"{threads} threads: expected at least 1")
    _native.set_threads(threads)


def keyed_rows(keys: Sequence[str], lengths: Tensor) -> Dict[str, Feature]:
    """The features of TorchRec's KeyedJaggedTensor from its ``keys()`` and ``lengths()``: rows
    are feature-major, ``lengths`` is ``[F * B]``."""
    lengths = torch.as_tensor(lengths, device="cpu")
    if lengths.dim() != 1:
        raise ValueError(f"lengths are {_described(lengths)}, expected [F * B]")
    if lengths.numel():
        _integers("lengths", lengths)
    lengths = lengths.to(torch.int64)
    if len(keys) == 0 or lengths.numel() % len(keys):
        raise ValueError(f"{lengths.numel()} lengths for {len(keys)} keys: expected a multiple, F features x B samples")
    repeated = [key for key, count in collections.Counter(keys).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} is given more than once")
    features, start = {}, 0
    for key, own in zip(keys, lengths.view(len(keys), -1)):
        rows = Rows.from_lengths(own)
        features[key] = Feature(slice(start, start + rows.total), rows)
        start += rows.total
    return features


def from_nested(nested: Tensor) -> Tuple[Tensor, Rows]:
    """Values and rows of a nested tensor of layout ``torch.jagged``, without a copy of the values."""
    if nested.layout != torch.jagged or nested.lengths() is not None:
        raise ValueError("expected a contiguous nested tensor of layout torch.jagged")
    if getattr(nested, "_ragged_idx", 1) != 1:
        raise ValueError("the rows of the nested tensor vary in a dimension behind the first: transpose it back")
    return nested.values(), Rows(nested.offsets())


def to_nested(values: Tensor, rows: Rows) -> Tensor:
    """A nested tensor of layout ``torch.jagged`` over ``values``, without a copy of them."""
    _shape("values", values, (rows.total, *values.shape[1:]), values)
    return torch.nested.nested_tensor_from_jagged(values, offsets=rows.offsets.to(values.device))

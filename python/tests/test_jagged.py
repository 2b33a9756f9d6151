"""Tests of palmette.jagged: ``python -m unittest discover -s python/tests``.

Every operator is compared with a loop over rows in float64, on the CPU and, where there is
one, on a CUDA GPU; nothing is skipped silently.
"""

import math
import multiprocessing
import unittest

import numpy
import torch

from palmette import jagged

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
BOUNDS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def types(device):
    return [torch.float32, torch.bfloat16, torch.float16] + ([torch.float64] if device == "cpu" else [])


def random(*shape, device="cpu", dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)


def relative(found, expected):
    found, expected = found.double().cpu(), expected.double().cpu()
    if torch.isnan(found).any():
        return math.inf
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30)) if expected.norm() > 0 else float(found.norm())


def parts(x, rows):
    return list(x.split(rows.offsets.diff().tolist()))


def reference_attention(q, k, v, rows, rows_k, allowed=lambda i, j, n, m: True, scale=None, bias=None):
    """A loop over rows and heads; `allowed(i, j, n_q, n_k)` is the mask."""
    outs = []
    scale = q.shape[2] ** -0.5 if scale is None else scale
    group = q.shape[1] // k.shape[1]
    for b, (q_b, k_b, v_b) in enumerate(zip(parts(q, rows), parts(k, rows_k), parts(v, rows_k))):
        n, m = len(q_b), len(k_b)
        if m == 0:
            outs.append(q_b * 0)
            continue
        k_b, v_b = (x.repeat_interleave(group, 1).transpose(0, 1) for x in (k_b, v_b))
        s = q_b.transpose(0, 1) @ k_b.transpose(1, 2) * scale
        if bias is not None:
            s = s + bias[min(b, bias.shape[0] - 1), :, :n, :m]
        mask = torch.tensor([[allowed(i, j, n, m) for j in range(m)] for i in range(n)], dtype=torch.bool).reshape(n, m)
        s = s.masked_fill(~mask, -math.inf)
        p = torch.where(mask.any(1)[:, None], torch.softmax(s, -1), torch.zeros((), dtype=s.dtype))
        outs.append((p @ v_b).transpose(0, 1))
    return torch.cat(outs)


MASKS = {
    "full": lambda i, j, n, m: True,
    "causal": lambda i, j, n, m: j - i <= m - n,
    (5, 2): lambda i, j, n, m: -5 <= j - i - (m - n) <= 2,
}


class Case(unittest.TestCase):
    def close(self, found, expected, dtype, message):
        error = relative(found, expected)
        self.assertLessEqual(error, BOUNDS[dtype], f"{message}: relative error {error:.1e}")

    def gradients(self, function, reference, inputs, dtype, message):
        """Compares output and gradients of `function` with `reference` on exact copies."""
        leaves = [x.detach().clone().requires_grad_(True) for x in inputs]
        exact = [x.detach().double().cpu().requires_grad_(True) for x in inputs]
        out, expected = function(*leaves), reference(*exact)
        self.close(out, expected, dtype, message)
        g = random(*out.shape, dtype=dtype, seed=77)
        found = torch.autograd.grad(out, leaves, g.to(out.device, out.dtype))
        wanted = torch.autograd.grad(expected, exact, g.double())
        for at, (x, y) in enumerate(zip(found, wanted)):
            self.close(x, y, dtype, f"{message}, gradient {at}")


class Attention(Case):
    def test_masks_types_and_gradients(self):
        rows = jagged.Rows.from_lengths([0, 1, 63, 65, 130])
        for device in DEVICES:
            for dtype in types(device):
                for mask, allowed in MASKS.items():
                    for heads, kv_heads, d in [(2, 2, 64), (4, 2, 32), (1, 1, 128)]:
                        q = random(rows.total, heads, d, device=device, dtype=dtype, seed=1)
                        k, v = (random(rows.total, kv_heads, d, device=device, dtype=dtype, seed=s) for s in (2, 3))
                        for deterministic in [True, False] if device == "cuda" else [True]:
                            self.gradients(
                                lambda *x: jagged.attention(*x, rows, mask=mask, deterministic=deterministic),
                                lambda *x: reference_attention(*x, rows, rows, allowed),
                                (q, k, v),
                                dtype,
                                f"{device} {dtype} {mask} {heads}/{kv_heads} d{d} {deterministic}",
                            )

    def test_cross_attention_with_bias(self):
        rows, rows_k = jagged.Rows.from_lengths([3, 0, 40, 7]), jagged.Rows.from_lengths([10, 5, 0, 70])
        for device in DEVICES:
            for dtype in types(device):
                q = random(rows.total, 2, 32, device=device, dtype=dtype, seed=1)
                k, v = (random(rows_k.total, 2, 32, device=device, dtype=dtype, seed=s) for s in (2, 3))
                sums = torch.float64 if dtype == torch.float64 else torch.float32
                bias = random(4, 2, 40, 70, device=device, dtype=sums, seed=4)
                self.gradients(
                    lambda q, k, v, bias: jagged.attention(q, k, v, rows, rows_k, bias=bias, scale=0.3),
                    lambda q, k, v, bias: reference_attention(q, k, v, rows, rows_k, scale=0.3, bias=bias),
                    (q, k, v, bias),
                    dtype,
                    f"{device} {dtype}",
                )

    def test_truncation_sees_the_first_elements(self):
        rows = jagged.Rows(torch.tensor([0, 5, 5, 13]), max_len=4, truncate=True)
        short = jagged.Rows.from_lengths([4, 0, 4])
        kept = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
        for device in DEVICES:
            x = random(13, 1, 16, device=device)
            out = jagged.attention(x, x, x, rows)
            self.close(out[kept], jagged.attention(*[x[kept].contiguous()] * 3, short), torch.float32, device)
            self.assertEqual(float(out[4].abs().sum() + out[9:].abs().sum()), 0.0)

    def test_nothing_to_attend_to(self):
        for device in DEVICES:
            for lengths in [[], [0, 0]]:
                rows = jagged.Rows.from_lengths(lengths)
                x = torch.zeros(0, 2, 64, device=device, requires_grad=True)
                jagged.attention(x, x, x, rows).sum().backward()
                self.assertEqual(tuple(x.grad.shape), (0, 2, 64))

    def test_one_side_is_empty(self):
        some, none = jagged.Rows.from_lengths([2, 0, 3]), jagged.Rows.from_lengths([0, 0, 0])
        for device in DEVICES:
            for dtype in types(device):
                for rows, rows_k in [(some, none), (none, some)]:
                    q = random(rows.total, 2, 64, device=device, dtype=dtype).requires_grad_()
                    k = random(rows_k.total, 2, 64, device=device, dtype=dtype).requires_grad_()
                    for deterministic in [True, False] if device == "cuda" else [True]:
                        out = jagged.attention(q, k, k, rows, rows_k, deterministic=deterministic)
                        self.assertEqual(out.abs().sum(), 0)
                        for gradient in torch.autograd.grad(out.sum(), (q, k)):
                            self.assertEqual(gradient.abs().sum(), 0)
                keys, targets = random(0, 32, device=device, dtype=dtype), random(3, 5, 32, device=device, dtype=dtype)
                self.assertEqual(jagged.pooled_attention(keys, keys, targets, none).abs().sum(), 0)

    def test_a_large_negative_bias_masks(self):
        rows = jagged.Rows.from_lengths([130, 3, 80])
        for device in DEVICES:
            for dtype in types(device):
                sums = torch.float64 if dtype == torch.float64 else torch.float32
                for value in [-1e9, -1e10, -1e30, -math.inf]:
                    hidden = torch.zeros(3, 1, 130, 130, dtype=torch.bool)
                    hidden[0, :, :, :70] = True
                    hidden[2, :, 5, 1:] = True
                    bias = torch.where(hidden, value, 0.0).to(device, sums)
                    inputs = [random(rows.total, 2, 64, device=device, dtype=dtype, seed=s) for s in (1, 2, 3)]

                    def reference(q, k, v):
                        outs = []
                        for b, (q_b, k_b, v_b) in enumerate(zip(*(parts(x, rows) for x in (q, k, v)))):
                            n = len(q_b)
                            s = torch.einsum("ihd,jhd->hij", q_b, k_b) / 8
                            p = torch.softmax(s.masked_fill(hidden[b, :, :n, :n], -math.inf), -1)
                            outs.append(torch.einsum("hij,jhd->ihd", p, v_b))
                        return torch.cat(outs)

                    self.gradients(
                        lambda *x: jagged.attention(*x, rows, bias=bias), reference, inputs, dtype, f"{device} {dtype} {value}"
                    )

    @unittest.skipUnless(torch.cuda.device_count() > 1, "one CUDA GPU or none")
    def test_the_current_device_stays(self):
        rows = jagged.Rows.from_lengths([100, 0, 30])
        results = []
        for device in ["cuda:0", "cuda:1"]:
            x = random(rows.total, 2, 64, device=device, dtype=torch.bfloat16, seed=1).requires_grad_()
            jagged.attention(x, x, x, rows, mask="causal").sum().backward()
            jagged.hstu_attention(x, x, x, rows).sum().backward()
            jagged.softmax(x.flatten(1), rows).sum().backward()
            jagged.dense_bmm(x.flatten(1), x[:3].detach().flatten(1)[:, :, None].repeat(1, 1, 8), rows).sum().backward()
            self.assertEqual(torch.cuda.current_device(), 0)
            self.assertEqual(torch.zeros(1, device="cuda").device.index, 0)
            results.append(x.grad.cpu())
        self.assertTrue(torch.equal(*results))

    def test_pooled(self):
        rows = jagged.Rows.from_lengths([4, 0, 70])
        for device in DEVICES:
            for dtype in types(device):
                keys, values = (random(rows.total, 32, device=device, dtype=dtype, seed=s) for s in (1, 2))
                targets = random(3, 5, 32, device=device, dtype=dtype, seed=3)
                bias = random(3, 70, 5, device=device, seed=4).double().float()

                def reference(keys, values, targets):
                    outs = []
                    for b, (k, v) in enumerate(zip(parts(keys, rows), parts(values, rows))):
                        s = 0.2 * targets[b] @ k.T + bias[b, : len(k)].T.double().cpu()
                        outs.append(torch.softmax(s, -1) @ v if len(k) else targets[b] * 0)
                    return torch.stack(outs)

                sums = bias.double() if dtype == torch.float64 else bias
                self.gradients(
                    lambda *x: jagged.pooled_attention(*x, rows, scale=0.2, bias=sums),
                    reference,
                    (keys, values, targets),
                    dtype,
                    f"{device} {dtype}",
                )

    def test_the_bias_of_pooled_attention_has_a_gradient(self):
        rows = jagged.Rows.from_lengths([4, 0, 70])
        for device in DEVICES:
            for dtype in types(device):
                keys, values = (random(rows.total, 32, device=device, dtype=dtype, seed=s) for s in (1, 2))
                targets = random(3, 5, 32, device=device, dtype=dtype, seed=3)
                sums = torch.float64 if dtype == torch.float64 else torch.float32
                bias = random(3, 70, 5, device=device, dtype=sums, seed=4).requires_grad_()
                jagged.pooled_attention(keys, values, targets, rows, scale=0.2, bias=bias).double().square().sum().backward()
                exact = bias.detach().double().cpu().requires_grad_()
                loss = 0
                for b, (k, v) in enumerate(zip(parts(keys.double().cpu(), rows), parts(values.double().cpu(), rows))):
                    if len(k):
                        s = 0.2 * targets[b].double().cpu() @ k.T + exact[b, : len(k)].T
                        loss = loss + (torch.softmax(s, -1) @ v).square().sum()
                loss.backward()
                error = (bias.grad.double().cpu() - exact.grad).norm() / exact.grad.norm()
                self.assertLess(error, 1e-9 if dtype == torch.float64 else 1e-5 if dtype == torch.float32 else 1e-2)
                self.assertEqual(bias.grad[1].abs().max(), 0)

    def test_hstu(self):
        rows = jagged.Rows.from_lengths([0, 1, 66, 30])
        for device in DEVICES:
            for dtype in types(device):
                if device == "cuda" and dtype == torch.float32:
                    continue  # the GPU path takes bfloat16 and float16
                inputs = [random(rows.total, 2, 32, device=device, dtype=dtype, seed=s) for s in (1, 2, 3)]

                causal = lambda b, n: torch.ones(n, n, dtype=torch.bool).tril()
                self.hstu_is(causal, rows, inputs, {}, dtype, f"{device} {dtype}")

    def test_hstu_masks(self):
        rows = jagged.Rows.from_lengths([0, 1, 66, 30])
        options = [
            dict(contextual=3),
            dict(targets=[0, 1, 5, 2]),
            dict(max_attention=9),
            dict(max_attention=9, min_full_attention=4, contextual=2, targets=[0, 0, 3, 7]),
        ]
        for device in DEVICES:
            dtype = torch.float64 if device == "cpu" else torch.bfloat16
            for option in options:
                inputs = [random(rows.total, 2, 32, device=device, dtype=dtype, seed=s) for s in (1, 2, 3)]
                contextual, most = option.get("contextual", 0), option.get("max_attention", 0)

                def allowed(b, n):
                    # Generative Recommenders' mask, on the ids that positions have.
                    last = n - max(contextual - 1, 0) - option.get("targets", [0] * 4)[b]
                    ids = torch.arange(n)
                    ids = ((ids - contextual + 1).clamp(min=0) if contextual else ids).clamp(max=last)
                    i, j = ids[:, None], ids[None]
                    near = i - j <= most if most else torch.ones(n, n, dtype=torch.bool)
                    if "min_full_attention" in option:
                        near = near | (i >= last - option["min_full_attention"])
                    mask = torch.eye(n, dtype=torch.bool) | (i > j) & near
                    return mask | (i == 0) & (j < last) if contextual else mask

                self.hstu_is(allowed, rows, inputs, option, dtype, f"{device} {option}")

    def hstu_is(self, allowed, rows, inputs, option, dtype, name):
        def reference(q, k, v):
            outs = []
            for b, (q_b, k_b, v_b) in enumerate(zip(*(parts(x, rows) for x in (q, k, v)))):
                s = 0.3 * torch.einsum("ihd,jhd->hij", q_b, k_b)
                p = torch.nn.functional.silu(s) * allowed(b, len(q_b)) / rows.max_len
                outs.append(torch.einsum("hij,jhd->ihd", p, v_b))
            return torch.cat(outs)

        self.gradients(lambda *x: jagged.hstu_attention(*x, rows, alpha=0.3, **option), reference, inputs, dtype, name)

    def test_hstu_takes_wider_values_on_the_cpu(self):
        rows = jagged.Rows.from_lengths([2, 0, 20])
        inputs = [random(rows.total, 2, width, dtype=torch.float64, seed=s) for s, width in enumerate((16, 16, 40))]

        causal = lambda b, n: torch.ones(n, n, dtype=torch.bool).tril()
        self.hstu_is(causal, rows, inputs, {}, torch.float64, "values of 40")


class SmallOperators(Case):
    rows = jagged.Rows.from_lengths([0, 1, 63, 5, 200])

    def each(self, function, reference, *shapes):
        for device in DEVICES:
            for dtype in types(device):
                inputs = [random(*shape, device=device, dtype=dtype, seed=s) for s, shape in enumerate(shapes)]
                self.gradients(function, reference, inputs, dtype, f"{device} {dtype}")

    def test_softmax(self):
        for width in [(), (3,), (64,), (2, 8)]:
            self.each(
                lambda x: jagged.softmax(x, self.rows),
                lambda x: torch.cat([torch.softmax(p, 0) for p in parts(x, self.rows)]),
                (self.rows.total, *width),
            )

    def test_softmax_of_mask_values(self):
        rows = jagged.Rows.from_lengths([4, 70, 300])
        for device in DEVICES:
            for dtype in types(device):
                lowest = torch.finfo(dtype).min
                for value in [-1e4, -1e9, -1e10, -1e30, lowest, 1e10, -lowest]:
                    if abs(value) > torch.finfo(dtype).max:
                        continue
                    for width in (1, 4, 64):
                        x = random(rows.total, width, device=device, dtype=dtype)
                        x[2] = value
                        x[4:40] = value
                        x[74:] = value
                        out = jagged.softmax(x, rows)
                        expected = torch.cat([torch.softmax(p, 0) for p in parts(x.double().cpu(), rows)])
                        self.close(out, expected, dtype, f"{device} {dtype} {value} {width}")
                x = random(4, 64, device=device, dtype=dtype)
                x[1] = math.nan
                self.assertTrue(jagged.softmax(x, jagged.Rows.from_lengths([4])).isnan().all())

    def test_products(self):
        for k, m in [(128, 64), (9, 5)]:
            self.each(
                lambda x, y: jagged.dense_bmm(x, y, self.rows),
                lambda x, y: torch.cat([p @ y[b] for b, p in enumerate(parts(x, self.rows))]),
                (self.rows.total, k),
                (self.rows.count, k, m),
            )
            self.each(
                lambda x, y: jagged.jagged_bmm(x, y, self.rows),
                lambda x, y: torch.stack([p.T @ q for p, q in zip(parts(x, self.rows), parts(y, self.rows))]),
                (self.rows.total, k),
                (self.rows.total, m),
            )

    def test_padding(self):
        def padded(x):
            return torch.stack(
                [torch.nn.functional.pad(p, (0, 0, 0, 200 - len(p)), value=-2.0) for p in parts(x, self.rows)]
            )

        self.each(lambda x: jagged.to_padded(x, self.rows, -2.0), padded, (self.rows.total, 6))
        self.each(
            lambda x: jagged.from_padded(x, self.rows),
            lambda x: torch.cat([x[b, :n] for b, n in enumerate(self.rows.offsets.diff().tolist())]),
            (self.rows.count, 200, 6),
        )


class Interplay(Case):
    def test_operators_pass_opcheck(self):
        rows = jagged.Rows.from_lengths([3, 0, 5])
        o, n = rows.offsets, rows.max_len
        for device in DEVICES:
            x = random(8, 2, 16, device=device).requires_grad_(True)
            flat = random(8, 12, device=device).requires_grad_(True)
            other = random(3, 12, 4, device=device).requires_grad_(True)
            bias = random(1, 2, n, n, device=device).requires_grad_(True)
            calls = {
                "jagged_attention": (x, x, x, o, o, bias, n, n, False, 0.25, -1, 0, False, "auto"),
                "jagged_softmax": (flat, o, n, False),
                "jagged_dense_bmm": (flat, other, False, o, n, False),
                "jagged_jagged_bmm": (flat, flat, o, n, False),
                "jagged_to_padded": (flat, 0.0, o, n, False),
                "padded_to_jagged": (other.detach().repeat(1, 1, 1)[:, :n].requires_grad_(True), 8, o, n, False),
            }
            if device == "cpu":
                calls["hstu_attention"] = (x, x, x, o, n, False, 0.25, 0.2, 0, None, 0, 0)
            for name, arguments in calls.items():
                operator = getattr(torch.ops.palmette, name).default
                with self.subTest(name=name, device=device):
                    torch.library.opcheck(operator, arguments)

    def test_compiled_functions_give_the_same(self):
        rows = jagged.Rows.from_lengths([3, 0, 5])
        for device in DEVICES:
            x = random(8, 2, 16, device=device).requires_grad_(True)

            def model(x):
                return jagged.attention(x * 2, x, x + 1, rows, mask="causal").square().sum()

            torch._dynamo.reset()
            compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
            (found,), (expected,) = (torch.autograd.grad(f(x), x) for f in (compiled, model))
            self.assertTrue(torch.equal(found, expected), device)

            def pooled(x):
                history, targets = x[:, 0] * 2, x[:6, 1].reshape(3, 2, 16)
                return jagged.pooled_attention(history, history + 1, targets, rows).square().sum()

            torch._dynamo.reset()
            compiled = torch.compile(pooled, backend="aot_eager", fullgraph=True)
            (found,), (expected,) = (torch.autograd.grad(f(x), x) for f in (compiled, pooled))
            self.assertTrue(torch.equal(found, expected), device)

    @unittest.skipUnless("fork" in multiprocessing.get_all_start_methods(), "no processes that fork")
    def test_a_forked_process_computes(self):
        rows = jagged.Rows.from_lengths([300, 0, 500])
        x = random(800, 2, 16)
        expected = jagged.attention(x, x, x, rows)  # starts the threads that a child does not have

        def child(pipe):
            pipe.send(bool(torch.equal(jagged.attention(x, x, x, rows), expected)))

        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        process = context.Process(target=child, args=(theirs,), daemon=True)
        process.start()
        answered = ours.poll(60)
        equal = answered and ours.recv()
        process.kill()
        process.join()
        self.assertTrue(answered, "the child hangs")
        self.assertTrue(equal)

    def test_rows_stay_as_they_were_checked(self):
        offsets = torch.tensor([0, 3, 8])
        rows = jagged.Rows(offsets)
        offsets[1] = 4
        self.assertEqual(rows.offsets.tolist(), [0, 3, 8])

    def test_nothing_is_copied(self):
        for array in [numpy.arange(24.0, dtype=numpy.float32).reshape(8, 3), torch.arange(24.0).reshape(8, 3)]:
            values = jagged.as_tensor(array)
            address = array.ctypes.data if isinstance(array, numpy.ndarray) else array.data_ptr()
            self.assertEqual(values.data_ptr(), address)
            self.assertEqual(values.stride(), (3, 1))
        for device in DEVICES:
            values = random(8, 3, device=device)
            again = jagged.as_tensor(torch.utils.dlpack.from_dlpack(values.__dlpack__()))
            self.assertEqual((again.data_ptr(), again.stride()), (values.data_ptr(), values.stride()))
            rows = jagged.Rows.from_lengths([3, 0, 5])
            nested = jagged.to_nested(values, rows)
            self.assertEqual(nested.values().data_ptr(), values.data_ptr())
            back, found = jagged.from_nested(nested)
            self.assertEqual((back.data_ptr(), back.stride()), (values.data_ptr(), values.stride()))
            self.assertTrue(torch.equal(found.offsets, rows.offsets))

    def test_keyed_layout(self):
        features = jagged.keyed_rows(["item", "shop"], torch.tensor([2, 1, 0, 1]))
        values = torch.tensor([10, 11, 12, 7])
        shop = features["shop"]
        self.assertEqual(values[shop.values].tolist(), [7])
        self.assertEqual(shop.rows.offsets.tolist(), [0, 0, 1])

    @unittest.skipUnless(torch.cuda.is_available(), "no CUDA GPU")
    def test_calls_follow_the_current_stream_and_graphs(self):
        rows = jagged.Rows.from_lengths([100, 0, 900, 64])
        x = random(rows.total, 4, 64, device="cuda", dtype=torch.bfloat16)
        expected = jagged.attention(x, x, x, rows)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = jagged.attention(x, x, x, rows)
        stream.synchronize()
        self.assertTrue(torch.equal(found, expected))
        held = torch.zeros_like(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = jagged.attention(held, held, held, rows)
        # More plans than are kept, one after another without waiting for the GPU.
        for length in range(1, 100):
            other = jagged.Rows.from_lengths([length, 2 * length])
            y = random(other.total, 4, 64, device="cuda", dtype=torch.bfloat16)
            jagged.attention(y, y, y, other)
        held.copy_(x)
        graph.replay()
        torch.cuda.synchronize()
        self.assertTrue(torch.equal(out, expected))

    @unittest.skipUnless(torch.cuda.is_available(), "no CUDA GPU")
    def test_plans_are_made_while_a_graph_is_captured(self):
        rows = jagged.Rows.from_lengths([70, 0, 333, 5])
        x = random(rows.total, 64, device="cuda", dtype=torch.bfloat16)
        weights = random(4, 64, 64, device="cuda", dtype=torch.bfloat16)
        calls = {
            "softmax": lambda x: jagged.softmax(x, rows),
            "dense_bmm": lambda x: jagged.dense_bmm(x, weights, rows),
            "jagged_bmm": lambda x: jagged.jagged_bmm(x, x, rows),
            "to_padded": lambda x: jagged.to_padded(x, rows),
        }
        for name, call in calls.items():
            with self.subTest(name):
                held = torch.zeros_like(x)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    out = call(held)
                held.copy_(x)
                for _ in range(2):
                    graph.replay()
                torch.cuda.synchronize()
                self.assertTrue(torch.equal(out, call(x)))

    @unittest.skipUnless(torch.cuda.is_available(), "no CUDA GPU")
    def test_streams_do_not_disturb_each_other(self):
        rows = jagged.Rows.from_lengths([900, 64, 700, 1, 512] * 20)
        x = random(rows.total, 4, 64, device="cuda", dtype=torch.bfloat16)
        expected = jagged.attention(x, x, x, rows)
        streams = [torch.cuda.Stream() for _ in range(4)]
        torch.cuda.synchronize()
        found = []
        for turn in range(40):
            with torch.cuda.stream(streams[turn % 4]):
                found.append(jagged.attention(x, x, x, rows))
        torch.cuda.synchronize()
        self.assertTrue(all(torch.equal(out, expected) for out in found))

    def test_errors_name_what_is_wrong(self):
        rows = jagged.Rows.from_lengths([3, 0, 5])
        x = random(8, 2, 16)
        checks = [
            (lambda: jagged.Rows(torch.tensor([0, 4, 3])), "row 1 runs from offset 4 to 3"),
            (lambda: jagged.Rows(torch.tensor([0, 4, 9]), max_len=4), "row 1 has 5 elements"),
            (lambda: jagged.Rows(torch.tensor([0, 4, 9]), max_len=4), "truncate=True"),
            (lambda: jagged.keyed_rows(["a", "b", "a"], torch.tensor([1, 2, 3])), "'a' is given more than once"),
            (lambda: jagged.keyed_rows(["a", "b"], torch.tensor([1.9, 2.9])), "lengths are torch.float32"),
            (lambda: jagged.keyed_rows(["a", "b"], torch.tensor([[1], [2]])), "lengths are torch.int64"),
            (lambda: jagged.set_threads(0), "0 threads"),
            (lambda: jagged.attention(x, x, x, rows, mask=(1.7, 2.2)), "the mask is"),
            (lambda: jagged.attention(x, x, x, rows, mask=(math.inf, 0)), "the mask is"),
            (lambda: jagged.attention(x, x, x, rows, mask=(2**63, 0)), "the mask is"),
            (lambda: jagged.hstu_attention(x, x, x, rows, targets=[1.5, 0, 0]), "are counts"),
            (
                lambda: jagged.from_nested(
                    torch.nested.nested_tensor([torch.zeros(2, 6), torch.zeros(4, 6)], layout=torch.jagged).transpose(1, 2)
                ),
                "transpose it back",
            ),
            (lambda: jagged.attention(x[:7], x, x, rows), r"q has shape \(7, 2, 16\), expected \(8, 2, 16\)"),
            (lambda: jagged.attention(x, x[:, :, :8], x, rows), r"k has shape \(8, 2, 8\)"),
            (lambda: jagged.attention(x, x, x.half(), rows), "v is torch.float16"),
            (lambda: jagged.attention(*[random(8, 2, 12)] * 3, rows), "head dimension is 12"),
            (lambda: jagged.attention(x, x, x, rows, mask="left"), "'full', 'causal' or a window"),
            (lambda: jagged.softmax(x.int(), rows), "int32"),
            (lambda: jagged.dense_bmm(x[:, 0], random(3, 15, 4), rows), r"y has shape \(3, 15, 4\)"),
            (lambda: jagged.Rows(torch.tensor([0.0, 2.7])), "offsets are torch.float32, expected integers"),
            (lambda: jagged.Rows.from_lengths([2.5, 1.0]), "lengths are torch.float32, expected integers"),
            (lambda: jagged.Rows.from_lengths([2, 1], max_len=-1), "max_len is -1"),
            (lambda: jagged.attention(x, x, x, rows, path="wgmma"), "the path is 'wgmma'"),
            (lambda: jagged.attention(*[random(8, 2, 0)] * 3, rows), r"q has shape \(8, 2, 0\)"),
            (lambda: jagged.hstu_attention(x, x, random(8, 2, 24).half(), rows), "v is torch.float16"),
            (lambda: jagged.hstu_attention(x, x.half(), random(8, 2, 24), rows), "k is torch.float16"),
            (lambda: jagged.hstu_attention(x, x, random(4, 4, 16), rows), r"v has shape \(4, 4, 16\)"),
            (lambda: jagged.hstu_attention(x, x, x[:, 0], rows), r"v has shape \(8, 16\)"),
            (lambda: jagged.hstu_attention(x, x, x, rows, contextual=-1), "expected integers, at least 0"),
        ]
        for call, message in checks:
            with self.assertRaisesRegex(ValueError, message):
                call()

    def test_registered_operators_check_their_operands(self):
        ops, x, offsets = torch.ops.palmette, random(8, 2, 16), torch.tensor([0, 3, 3, 8])
        numbers = (5, 5, False, 0.25, -1, -1, False, "auto")
        for call in [
            lambda: ops.jagged_attention(x, x.half(), x, offsets, offsets, None, *numbers),
            lambda: ops.jagged_attention(x, x, x[:, :, :8], offsets, offsets, None, *numbers),
            lambda: ops.jagged_attention(x, x, x, offsets, offsets, random(1, 1, 5, 5).half(), *numbers),
            lambda: ops.jagged_dense_bmm(x[:, 0], random(3, 16, 4).half(), False, offsets, 5, False),
            lambda: ops.jagged_dense_bmm(x[:, 0], random(2, 16, 4), False, offsets, 5, False),
            lambda: ops.jagged_jagged_bmm(x[:, 0], x[:, 1].double(), offsets, 5, False),
            lambda: ops.jagged_softmax_backward(x.half(), x, offsets, 5, False),
            lambda: ops.padded_to_jagged(random(2, 5, 4), 8, offsets, 5, False),
        ]:
            with self.assertRaises(ValueError):
                call()


if __name__ == "__main__":
    unittest.main()

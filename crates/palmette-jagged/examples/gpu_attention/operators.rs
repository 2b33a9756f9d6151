//! The small operators, pooled and HSTU attention on the GPU against the CPU's in f64.

use std::sync::Arc;

use cudarc::driver::CudaStream;
use half::{bf16, f16};
use palmette_jagged::cuda::{
    BackwardBuffers, BackwardMode, ForwardBuffers, Gpu, GpuAttention, GpuElement, GpuHstu,
    GpuIndexAdd, GpuMatrixSoftmax, GpuOperators, GpuOptions, GpuPath, GpuProduct, GpuRows,
    HstuBuffers, VectorProduct,
};
use palmette_jagged::{
    Elementwise, HstuAttention, HstuInput, HstuMask, JaggedError, JaggedView, MatrixAxis, Offsets,
    Overflow, PooledAttention, PooledGradients, PooledInput, Real, array_jagged_bmm,
    batched_dense_vec_jagged_2d_mul, batched_dense_vec_jagged_2d_mul_backward, cat_offsets,
    dense_to_jagged, jagged_cat, jagged_dense_bmm, jagged_dense_elementwise,
    jagged_dense_elementwise_backward, jagged_dense_elementwise_dense_output, jagged_index_add,
    jagged_index_select, jagged_jagged_bmm, jagged_jagged_bmm_jagged_out, jagged_slice,
    jagged_slice_backward, jagged_softmax, jagged_softmax_backward, jagged_to_padded_dense,
    jagged2_softmax, jagged2_softmax_backward, product_offsets, select_offsets, slice_offsets,
};
use palmette_random::{Draw, stream};

use crate::Outcome;
use crate::buffers::{Bits, Buffer, relative_error};

type Checked<T> = Result<T, Box<dyn std::error::Error>>;

/// One batch on both sides, with what was compared so far.
struct Side<T> {
    gpu: Arc<Gpu>,
    s: Arc<CudaStream>,
    seed: u64,
    bound: f64,
    only: String,
    failures: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Bits> Side<T> {
    /// Random values as the GPU has them and as exact numbers.
    fn random(&mut self, count: usize) -> Checked<(Buffer, Vec<f64>)> {
        self.seed += 1;
        let mut rng = stream(self.seed, "jagged/gpu/operators", 0);
        let values: Vec<T> = (0..count).map(|_| T::narrow(T::Sum::of(rng.normal()))).collect();
        let exact = values.iter().map(|x| x.widen().to_f64()).collect();
        Ok((Buffer::of(&self.s, &values)?, exact))
    }

    /// Runs the kernel into `count` poisoned elements and compares them.
    fn check(
        &mut self,
        name: &str,
        expected: &[f64],
        kernel: impl FnOnce(&Arc<CudaStream>, u64) -> Result<(), JaggedError>,
    ) -> Outcome {
        let out = Buffer::poisoned::<T>(&self.s, expected.len())?;
        kernel(&self.s, out.address)?;
        self.compare::<T>(name, &out, expected)
    }

    fn compare<U: Bits>(&mut self, name: &str, out: &Buffer, expected: &[f64]) -> Outcome {
        let found = out.read::<U>(&self.s, 0..expected.len())?;
        let error = relative_error(&found, expected);
        let bad = !(error <= self.bound);
        self.failures += usize::from(bad);
        let mark = if bad { "FAIL" } else { "ok" };
        println!("{mark:4} {:4} {name:32} {error:.1e}", T::NAME);
        Ok(())
    }
}

/// `f64` results of a CPU operator that writes into a slice.
fn exact(
    count: usize,
    operator: impl FnOnce(&mut [f64]) -> Result<(), JaggedError>,
) -> Checked<Vec<f64>> {
    let mut out = vec![f64::NAN; count];
    operator(&mut out)?;
    Ok(out)
}

fn small<T: Bits>(side: &mut Side<T>, offsets: &Offsets, width: usize) -> Outcome {
    let (t, b, n) = (offsets.total(), offsets.rows(), offsets.max_len());
    let (x, ex) = side.random(t * width)?;
    let (g, eg) = side.random(t * width)?;
    let (y, ey) = side.random(b * n * width)?;
    let gpu = side.gpu.clone();
    let ops = GpuOperators::new(&gpu, T::GPU, offsets)?;
    let view = JaggedView::new(&ex, width, offsets)?;
    let title = |name: &str| format!("{name} {width}");

    // SAFETY, here and below: buffers have the operators' sizes and outlive the comparison.
    let expected = exact(t * width, |out| jagged_softmax(view, out))?;
    side.check(&title("softmax"), &expected, |s, out| unsafe {
        ops.softmax(s, width, x.address, out)
    })?;
    let expected = exact(t * width, |out| jagged_softmax_backward(view, &eg, out))?;
    side.check(&title("softmax backward"), &expected, |s, out| unsafe {
        ops.softmax_backward(s, width, x.address, g.address, out)
    })?;
    let expected = exact(b * n * width, |out| jagged_to_padded_dense(view, -2.0, out))?;
    side.check(&title("to padded"), &expected, |s, out| unsafe {
        ops.to_padded(s, width, x.address, -2.0, out)
    })?;
    let expected = exact(t * width, |out| dense_to_jagged(&ey, offsets, width, out))?;
    side.check(&title("to jagged"), &expected, |s, out| unsafe {
        ops.to_jagged(s, width, y.address, out)
    })?;
    for (name, operation) in [("add", Elementwise::Add), ("multiply", Elementwise::Multiply)] {
        let expected = exact(t * width, |out| jagged_dense_elementwise(operation, view, &ey, out))?;
        side.check(&title(name), &expected, |s, out| unsafe {
            ops.elementwise(s, operation, false, width, [x.address, y.address, out])
        })?;
        let expected = exact(b * n * width, |out| {
            jagged_dense_elementwise_dense_output(operation, view, &ey, out)
        })?;
        side.check(&title(&format!("{name}, dense")), &expected, |s, out| unsafe {
            ops.elementwise(s, operation, true, width, [x.address, y.address, out])
        })?;
        let (mut dx, mut dy) = (vec![0.0; t * width], vec![0.0; b * n * width]);
        jagged_dense_elementwise_backward(operation, view, &ey, &eg, &mut dx, &mut dy)?;
        let other = Buffer::poisoned::<T>(&side.s, dy.len())?;
        side.check(&title(&format!("{name} backward")), &dx, |s, out| unsafe {
            let inputs = [x.address, y.address, g.address];
            ops.elementwise_backward(s, operation, width, inputs, [out, other.address])
        })?;
        side.compare::<T>(&title(&format!("{name} backward, dense")), &other, &dy)?;
    }
    Ok(())
}

/// By Hopper's kernels, where they are chosen, or by the portable ones.
fn products<T: Bits>(
    side: &mut Side<T>,
    offsets: &Offsets,
    [k, m]: [usize; 2],
    portable: bool,
) -> Outcome {
    let (t, b) = (offsets.total(), offsets.rows());
    let (x, ex) = side.random(t * k)?;
    let (z, ez) = side.random(t * m)?;
    let (y, ey) = side.random(b * k * m)?;
    let gpu = side.gpu.clone();
    let view = JaggedView::new(&ex, k, offsets)?;
    let chosen = GpuProduct::jagged(&gpu, T::GPU, offsets, [k, m])?.path();
    let path = match (chosen, portable) {
        (GpuPath::Wgmma, true) => GpuPath::Mma,
        (GpuPath::Wgmma, false) | (_, true) => chosen,
        (_, false) => return Ok(()),
    };
    for transposed in [false, true] {
        let plan = GpuProduct::dense_by(&gpu, T::GPU, offsets, [k, m], transposed, Some(path))?;
        let expected = exact(t * m, |out| jagged_dense_bmm(view, &ey, m, transposed, out))?;
        let title = format!("dense bmm {k}x{m} {transposed} {path}");
        side.check(&title, &expected, |s, out| unsafe { plan.run(s, x.address, y.address, out) })?;
    }
    let plan = GpuProduct::jagged_by(&gpu, T::GPU, offsets, [k, m], Some(path))?;
    let other = JaggedView::new(&ez, m, offsets)?;
    let expected = exact(b * k * m, |out| jagged_jagged_bmm(view, other, out))?;
    side.check(&format!("jagged bmm {k}x{m} {path}"), &expected, |s, out| unsafe {
        plan.run(s, x.address, z.address, out)
    })
}

fn matrices<T: Bits>(side: &mut Side<T>, rows: &Offsets, columns: &Offsets, k: usize) -> Outcome {
    let gpu = side.gpu.clone();
    let total = product_offsets(rows, columns)?.total();
    let (x, ex) = side.random(rows.total() * k)?;
    let (y, ey) = side.random(columns.total() * k)?;
    let (a, ea) = side.random(total)?;
    let (g, eg) = side.random(total)?;
    let (vx, vy) = (JaggedView::new(&ex, k, rows)?, JaggedView::new(&ey, k, columns)?);
    let expected = exact(total, |out| jagged_jagged_bmm_jagged_out(vx, vy, out))?;
    let plan = GpuProduct::jagged_out(&gpu, T::GPU, rows, columns, k)?;
    side.check("jagged out bmm", &expected, |s, out| unsafe {
        plan.run(s, x.address, y.address, out)
    })?;
    for (transposed, right, exact_right, out) in [(false, &y, vy, rows), (true, &x, vx, columns)] {
        let expected =
            exact(out.total() * k, |to| array_jagged_bmm(&ea, transposed, exact_right, out, to))?;
        let plan = GpuProduct::array(&gpu, T::GPU, rows, columns, transposed, k)?;
        side.check(&format!("array bmm {transposed}"), &expected, |s, out| unsafe {
            plan.run(s, a.address, right.address, out)
        })?;
    }
    for axis in [MatrixAxis::Rows, MatrixAxis::Columns] {
        let plan = GpuMatrixSoftmax::new(&gpu, T::GPU, rows, columns, axis)?;
        let expected = exact(total, |out| jagged2_softmax(&ea, rows, columns, axis, out))?;
        side.check(&format!("matrix softmax {axis:?}"), &expected, |s, out| unsafe {
            plan.forward(s, a.address, out)
        })?;
        let expected =
            exact(total, |out| jagged2_softmax_backward(&ea, &eg, rows, columns, axis, out))?;
        side.check(&format!("matrix softmax backward {axis:?}"), &expected, |s, out| unsafe {
            plan.backward(s, a.address, g.address, out)
        })?;
    }
    Ok(())
}

fn vectors<T: Bits>(side: &mut Side<T>, offsets: &Offsets, [heads, d]: [usize; 2]) -> Outcome {
    let gpu = side.gpu.clone();
    let (b, n, t) = (offsets.rows(), offsets.max_len(), offsets.total());
    let (v, ev) = side.random(b * heads * n)?;
    let (a, ea) = side.random(t * heads * d)?;
    let (g, eg) = side.random(b * heads * d)?;
    let view = JaggedView::new(&ea, heads * d, offsets)?;
    let plan = |which| GpuProduct::vectors(&gpu, T::GPU, offsets, [heads, d], which);
    let expected =
        exact(b * heads * d, |out| batched_dense_vec_jagged_2d_mul(&ev, view, heads, out))?;
    let forward = plan(VectorProduct::Output)?;
    side.check("vector product", &expected, |s, out| unsafe {
        forward.run(s, v.address, a.address, out)
    })?;
    let (mut dv, mut da) = (vec![0.0; b * heads * n], vec![0.0; t * heads * d]);
    batched_dense_vec_jagged_2d_mul_backward(&ev, view, heads, &eg, &mut dv, &mut da)?;
    let to_vectors = plan(VectorProduct::Vectors)?;
    side.check("vector product, vectors", &dv, |s, out| unsafe {
        to_vectors.run(s, g.address, a.address, out)
    })?;
    let to_matrices = plan(VectorProduct::Matrices)?;
    side.check("vector product, matrices", &da, |s, out| unsafe {
        to_matrices.run(s, v.address, g.address, out)
    })
}

fn movement<T: Bits>(side: &mut Side<T>, offsets: &Offsets, width: usize) -> Outcome {
    let gpu = side.gpu.clone();
    let (x, ex) = side.random(offsets.total() * width)?;
    let view = JaggedView::new(&ex, width, offsets)?;
    let indices = [2i64, 0, 5, 2, 1, 4, 2];
    let selected = select_offsets(offsets, &indices)?;
    let rows = exact(selected.total() * width, |out| jagged_index_select(view, &indices, out))?;
    let plan = GpuRows::select(&gpu, T::GPU, width, offsets, &indices)?;
    side.check("index select", &rows, |s, out| unsafe { plan.run(s, x.address, out) })?;

    let (y, ey) = side.random(selected.total() * width)?;
    let (onto, mut expected) = side.random(offsets.total() * width)?;
    let added = JaggedView::new(&ey, width, &selected)?;
    jagged_index_add(added, &indices, offsets, &mut expected)?;
    let plan = GpuIndexAdd::new(&gpu, T::GPU, width, &selected, &indices, offsets)?;
    unsafe { plan.run(&side.s, y.address, onto.address) }?;
    side.compare::<T>("index add", &onto, &expected)?;

    let starts: Vec<usize> = (0..offsets.rows()).map(|b| b * 7 % 40).collect();
    let sliced = slice_offsets(offsets, &starts, 30)?;
    let expected = exact(sliced.total() * width, |out| jagged_slice(view, &starts, 30, out))?;
    let plan = GpuRows::slice(&gpu, T::GPU, width, offsets, &starts, 30, false)?;
    side.check("slice", &expected, |s, out| unsafe { plan.run(s, x.address, out) })?;
    let (g, eg) = side.random(sliced.total() * width)?;
    let expected = exact(offsets.total() * width, |out| {
        jagged_slice_backward(&eg, offsets, &starts, 30, width, out)
    })?;
    let plan = GpuRows::slice(&gpu, T::GPU, width, offsets, &starts, 30, true)?;
    side.check("slice backward", &expected, |s, out| unsafe { plan.run(s, g.address, out) })?;

    // Two parts one after the other in one buffer.
    let other = Offsets::from_lengths(&vec![3i64; offsets.rows()])?;
    let split = offsets.total() * width;
    let (both, exact_both) = side.random(split + other.total() * width)?;
    let parts = [
        JaggedView::new(&exact_both[..split], width, offsets)?,
        JaggedView::new(&exact_both[split..], width, &other)?,
    ];
    let whole = cat_offsets(&[offsets, &other])?;
    let expected = exact(whole.total() * width, |out| jagged_cat(&parts, out))?;
    let plan = GpuRows::cat(&gpu, T::GPU, width, &[offsets, &other])?;
    side.check("concatenation", &expected, |s, out| unsafe { plan.run(s, both.address, out) })
}

fn pooled<T: Bits>(
    side: &mut Side<T>,
    offsets: &Offsets,
    [targets, d]: [usize; 2],
    with_bias: bool,
    mode: BackwardMode,
) -> Outcome {
    let (t, b, n) = (offsets.total(), offsets.rows(), offsets.max_len());
    let shape = PooledAttention::new(targets, 0.2)?;
    let (k, ek) = side.random(t * d)?;
    let (v, ev) = side.random(t * d)?;
    let (q, eq) = side.random(b * targets * d)?;
    let (g, eg) = side.random(b * targets * d)?;
    let mut rng = stream(side.seed, "jagged/gpu/pooled", 0);
    let bias: Vec<f32> = (0..b * n * targets).map(|_| rng.normal() as f32).collect();
    let exact_bias: Vec<f64> = bias.iter().map(|&x| f64::from(x)).collect();
    let bias = Buffer::of(&side.s, &bias)?;
    let input = PooledInput {
        keys: JaggedView::new(&ek, d, offsets)?,
        values: JaggedView::new(&ev, d, offsets)?,
        targets: &eq,
        bias: with_bias.then_some(&exact_bias),
    };
    let size = b * targets * d;
    let (mut out, mut lse) = (vec![0.0; size], vec![0.0; b * targets]);
    shape.forward(&input, &mut out, &mut lse)?;
    let (mut dk, mut dv, mut dq) = (vec![0.0; t * d], vec![0.0; t * d], vec![0.0; size]);
    let mut d_bias = vec![0.0; exact_bias.len()];
    let gradients = PooledGradients {
        keys: &mut dk,
        values: &mut dv,
        targets: &mut dq,
        bias: with_bias.then_some(&mut d_bias),
    };
    shape.backward(&input, &out, &lse, &eg, gradients)?;

    let s = side.s.clone();
    let options = GpuOptions { mode, ..GpuOptions::default() };
    let plan = GpuAttention::pooled(&side.gpu, shape, d, T::GPU, offsets, with_bias, options)?;
    let poisoned = |count| Buffer::poisoned::<T>(&s, count);
    let single = |count| Buffer::poisoned::<f32>(&s, count);
    let (o, pk, pv, pq) = (poisoned(size)?, poisoned(t * d)?, poisoned(t * d)?, poisoned(size)?);
    let (l, delta) = (single(b * targets)?, single(b * targets)?);
    let (pb, workspace) = (single(d_bias.len())?, single(plan.workspace_bytes().div_ceil(4))?);
    let forward = ForwardBuffers {
        q: q.address,
        k: k.address,
        v: v.address,
        bias: if with_bias { bias.address } else { 0 },
        output: o.address,
        lse: l.address,
    };
    let backward = BackwardBuffers {
        forward,
        d_output: g.address,
        delta: delta.address,
        dq: pq.address,
        dk: pk.address,
        dv: pv.address,
        dbias: if with_bias { pb.address } else { 0 },
        workspace: workspace.address,
    };
    // SAFETY: the buffers have the plan's sizes and live to the end of the function.
    unsafe {
        plan.forward(&s, &forward)?;
        plan.backward(&s, &backward)?;
    }
    let title = |what: &str| format!("pooled {targets}x{d} {} {mode:?} {what}", plan.path());
    side.compare::<T>(&title("out"), &o, &out)?;
    side.compare::<T>(&title("targets"), &pq, &dq)?;
    side.compare::<T>(&title("keys"), &pk, &dk)?;
    side.compare::<T>(&title("values"), &pv, &dv)?;
    if with_bias {
        side.compare::<f32>(&title("bias"), &pb, &d_bias)?;
    }
    Ok(())
}

fn hstu<T: Bits>(side: &mut Side<T>, offsets: &Offsets, d: usize, mask: HstuMask<'_>) -> Outcome {
    let heads = 2;
    let n = offsets.total() * heads * d;
    let shape = HstuAttention::new(heads, d, d, 0.3, 0.01, mask)?;
    let (q, eq) = side.random(n)?;
    let (k, ek) = side.random(n)?;
    let (v, ev) = side.random(n)?;
    let (g, eg) = side.random(n)?;
    let input = HstuInput { q: &eq, k: &ek, v: &ev, offsets };
    let out = exact(n, |out| shape.forward(&input, out))?;
    let (mut dq, mut dk, mut dv) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    shape.backward(&input, &eg, [&mut dq, &mut dk, &mut dv])?;
    let plan = GpuHstu::new(&side.gpu, &shape, T::GPU, offsets)?;
    let buffers = HstuBuffers {
        q: q.address,
        k: k.address,
        v: v.address,
        d_output: g.address,
        ..HstuBuffers::default()
    };
    let title = |what: &str| {
        let HstuMask { contextual, targets, max_attention, min_full_attention } = mask;
        let targets = targets.is_some();
        format!("hstu {d} {contextual} {targets} {max_attention} {min_full_attention} {what}")
    };
    side.check(&title("out"), &out, |s, output| unsafe {
        plan.forward(s, &HstuBuffers { output, ..buffers })
    })?;
    if d > 128 {
        return Ok(());
    }
    let (pk, pv) = (Buffer::poisoned::<T>(&side.s, n)?, Buffer::poisoned::<T>(&side.s, n)?);
    side.check(&title("dq"), &dq, |s, dq| unsafe {
        plan.backward(s, &HstuBuffers { dq, dk: pk.address, dv: pv.address, ..buffers })
    })?;
    side.compare::<T>(&title("dk"), &pk, &dk)?;
    side.compare::<T>(&title("dv"), &pv, &dv)
}

/// Which products, and whether these are the portable ones.
const PRODUCTS: [(&str, bool); 2] = [("wgmma products", false), ("portable products", true)];

fn all<T: Bits>(gpu: &Arc<Gpu>, bound: f64, only: &str) -> Checked<usize> {
    let mut side = Side::<T> {
        gpu: gpu.clone(),
        s: gpu.stream().clone(),
        seed: 100,
        bound,
        only: only.into(),
        failures: 0,
        element: std::marker::PhantomData,
    };
    let side = &mut side;
    let wanted = |name: &str, only: &str| only.is_empty() || name.contains(only);
    let rows = Offsets::from_lengths(&[0i64, 1, 63, 64, 65, 300, 0, 17, 129])?;
    let long = Offsets::from_lengths(&[5i64, 1000, 0, 2313, 520])?;
    let cut = Offsets::new(&[0, 100, 100, 165, 300, 310, 311], 70, Overflow::Truncate)?;
    let empty = Offsets::from_lengths(&[0i64, 0])?;
    let none = Offsets::from_lengths::<i64>(&[])?;
    let only = side.only.clone();
    for offsets in [&rows, &cut, &empty, &none] {
        if wanted("small", &only) {
            for width in [1, 4, 7, 64, 520] {
                small(side, offsets, width)?;
            }
        }
        for (name, portable) in PRODUCTS {
            if wanted(name, &only) {
                for sizes in [[128, 128], [256, 64], [40, 200], [9, 5]] {
                    products(side, offsets, sizes, portable)?;
                }
            }
        }
        if wanted("vectors", &only) {
            vectors(side, offsets, [3, 20])?;
        }
        if wanted("hstu", &only) && T::GPU != GpuElement::F32 {
            for d in [32, 64, 128, 256] {
                hstu(side, offsets, d, HstuMask::default())?;
            }
            let targets: Vec<usize> = (0..offsets.rows()).map(|b| b % 4).collect();
            let mask = HstuMask { targets: Some(&targets), contextual: 3, ..HstuMask::default() };
            hstu(side, offsets, 64, mask)?;
            let mask = HstuMask { max_attention: 20, min_full_attention: 9, ..mask };
            hstu(side, offsets, 64, mask)?;
        }
        if wanted("pooled", &only) {
            for mode in [BackwardMode::Deterministic, BackwardMode::Fast] {
                pooled(side, offsets, [3, 64], false, mode)?;
                pooled(side, offsets, [70, 128], false, mode)?;
            }
            pooled(side, offsets, [5, 64], true, BackwardMode::Deterministic)?;
        }
    }
    // Rows that shared memory does not hold whole.
    if wanted("small", &only) {
        for width in [4, 64, 72] {
            small(side, &long, width)?;
        }
    }
    for (name, portable) in PRODUCTS {
        if wanted(name, &only) {
            products(side, &long, [128, 128], portable)?;
        }
    }
    if wanted("movement", &only) {
        movement(side, &rows, 12)?;
        movement(side, &cut, 7)?;
    }
    if wanted("matrices", &only) {
        let columns = Offsets::from_lengths(&[3i64, 0, 40, 64, 5, 100, 2, 33, 1])?;
        matrices(side, &rows, &columns, 24)?;
    }
    Ok(side.failures)
}

/// Compares everything; `only` is one of small, products (or wgmma or portable), vectors, hstu, pooled, movement, matrices.
pub fn check(only: &str) -> Outcome {
    let gpu = Gpu::new(0)?;
    println!("device {} capability {:?}", gpu.context().name()?, gpu.capability());
    let failures = all::<f32>(&gpu, 2e-6, only)?
        + all::<bf16>(&gpu, 5e-3, only)?
        + all::<f16>(&gpu, 1e-3, only)?;
    println!("{failures} failures");
    if failures == 0 { Ok(()) } else { Err(format!("{failures} operators failed").into()) }
}

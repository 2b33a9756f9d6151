// Small operators over jagged rows: copies to and from padded tensors, elementwise, moves of rows.

DEVICE int length_of(const Operands& a, int b) {
  return (int)min(a.offsets[b + 1] - a.offsets[b], (long long)a.max_len);
}

// Softmaxes over strided lists, a warp each: `list` has start, count, step of each.
// Mode 0 forward (x to out), mode 1 backward (x the output, y its gradient).
extern "C" __global__ void __launch_bounds__(256) softmax_strided(Operands a) {
  long long which = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  if (which >= a.rows) return;
  long long start = a.list[which * 3], n = a.list[which * 3 + 1], step = a.list[which * 3 + 2];
  if (a.mode == 0) {
    float largest = NEG_INFINITY, total = 0.f;
    for (long long i = lane; i < n; i += 32) largest = fmaxf(largest, widen(a.x[start + i * step]));
    for (int s = 16; s; s /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, s));
    if (largest == NEG_INFINITY) largest = 0.f;
    for (long long i = lane; i < n; i += 32) total += exp2_fast((widen(a.x[start + i * step]) - largest) * LOG2E);
    for (int s = 16; s; s /= 2) total += __shfl_xor_sync(~0u, total, s);
    float inverse = total == 0.f ? 0.f : 1.f / total;  // a NaN stays one
    for (long long i = lane; i < n; i += 32)
      a.out[start + i * step] = narrow(exp2_fast((widen(a.x[start + i * step]) - largest) * LOG2E) * inverse);
  } else {
    float dot = 0.f;
    for (long long i = lane; i < n; i += 32) dot = fmaf(widen(a.x[start + i * step]), widen(a.y[start + i * step]), dot);
    for (int s = 16; s; s /= 2) dot += __shfl_xor_sync(~0u, dot, s);
    for (long long i = lane; i < n; i += 32)
      a.out[start + i * step] = narrow((widen(a.y[start + i * step]) - dot) * widen(a.x[start + i * step]));
  }
}

// Everything that pairs a padded tensor [B, N, width] with a jagged one, a warp a position.
// x is jagged, y dense, z the gradient of a jagged result; `mode`:
// 0 dense out = x or padding    1 jagged out = y        2, 3 jagged out = x + y, x y
// 4, 5 dense out = x + y, x y   6 jagged out = z y and dense out_2 = z x, 0 past the row
extern "C" __global__ void __launch_bounds__(256) padded(Operands a) {
  long long position = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  if (position >= a.rows * a.max_len) return;
  int b = (int)(position / a.max_len), i = (int)(position % a.max_len);
  bool inside = i < length_of(a, b), dense_out = a.mode == 0 || a.mode >= 4;
  if (!inside && !dense_out) return;
  int vectors = a.width / VECTOR;
  long long jagged = (a.offsets[b] + i) * vectors, dense = position * vectors;
  Pack zero;
#pragma unroll
  for (int e = 0; e < VECTOR; e++) zero.e[e] = narrow(a.mode == 0 ? a.padding : 0.f);
  for (int c = threadIdx.x % 32; c < vectors; c += 32) {
    Pack x = zero, y = zero, out;
    if (a.mode != 1 && inside) x = ((const Pack*)a.x)[jagged + c];
    if (a.mode != 0) y = ((const Pack*)a.y)[dense + c];
    if (a.mode == 6) {
      Pack z = zero, other;
      if (inside) z = ((const Pack*)a.z)[jagged + c];
#pragma unroll
      for (int e = 0; e < VECTOR; e++) {
        out.e[e] = narrow(widen(z.e[e]) * widen(y.e[e]));
        other.e[e] = narrow(widen(z.e[e]) * widen(x.e[e]));
      }
      ((Pack*)a.out_2)[dense + c] = other;
      if (inside) ((Pack*)a.out)[jagged + c] = out;
      continue;
    }
#pragma unroll
    for (int e = 0; e < VECTOR; e++) {
      float u = widen(x.e[e]), v = widen(y.e[e]);
      out.e[e] = a.mode == 0 ? x.e[e] : a.mode == 1 ? y.e[e] : narrow(a.mode % 2 == 0 ? u + v : u * v);
    }
    ((Pack*)a.out)[(dense_out ? dense : jagged) + c] = out;
  }
}

// Runs of rows: `list` has from, to, count of each, in elements of `width`; a block each.
extern "C" __global__ void __launch_bounds__(256) move_rows(Operands a) {
  const long long* run = a.list + blockIdx.x * 3ll;
  int vectors = a.width / VECTOR;
  const Pack* from = (const Pack*)a.x + run[0] * vectors;
  Pack* to = (Pack*)a.out + run[1] * vectors;
#pragma unroll 4
  for (long long e = threadIdx.x; e < run[2] * vectors; e += 256) to[e] = from[e];
}

// Adds source rows to target rows, a block a target: `list` has, for every target, where
// its sources begin in the list, their number, the target's start and its length; sources
// are added in their order.
extern "C" __global__ void __launch_bounds__(256) add_rows(Operands a) {
  const long long* target = a.list + blockIdx.x * 4ll;
  int vectors = a.width / VECTOR;
  Pack* to = (Pack*)a.out + target[2] * vectors;
  for (long long e = threadIdx.x; e < target[3] * vectors; e += 256) {
    float sums[VECTOR];
    Pack out = to[e];
#pragma unroll
    for (int v = 0; v < VECTOR; v++) sums[v] = widen(out.e[v]);
    for (long long s = 0; s < target[1]; s++) {
      Pack x = ((const Pack*)a.x)[a.list[target[0] + s] * vectors + e];
#pragma unroll
      for (int v = 0; v < VECTOR; v++) sums[v] += widen(x.e[v]);
    }
#pragma unroll
    for (int v = 0; v < VECTOR; v++) out.e[v] = narrow(sums[v]);
    to[e] = out;
  }
}

// Small operators over jagged rows: softmax, copies to and from padded tensors, elementwise.
// The host defines VECTOR, the elements of one access (a divisor of every width used).

struct Operands {
  const element *x, *y, *z;
  element *out, *out_2;
  const long long* offsets;
  const long long* list;  // what a kernel says; for softmax each row's start and length, longest first
  long long rows;
  int max_len, width, mode;
  float padding;
};
struct __align__(sizeof(element) * VECTOR) Pack { element e[VECTOR]; };

// Rounded two at a time where that is one instruction.
DEVICE Pack packed(const float* x) {
  Pack y;
#if ELEMENT == 0 || VECTOR == 1
#pragma unroll
  for (int e = 0; e < VECTOR; e++) y.e[e] = narrow(x[e]);
#else
#pragma unroll
  for (int e = 0; e < VECTOR; e += 2) ((u32*)&y)[e / 2] = pack(x[e], x[e + 1]);
#endif
  return y;
}

DEVICE int length_of(const Operands& a, int b) {
  return (int)min(a.offsets[b + 1] - a.offsets[b], (long long)a.max_len);
}

// A long row and up to 32 bytes of its columns (a sector of memory) take a block of
// SOFTMAX_THREADS, a short one a warp; each of their lanes follows its own vector through the row.
// The first KEPT elements that a thread meets stay in registers; what is beyond them is read a
// second time, from the cache as a rule.
const int SOFTMAX_THREADS = 128, SOFTMAX_BLOCKS = VECTOR * sizeof(element) > 8 ? 3 : 6, KEPT = 8, MORE = 4, MOST_COLUMNS = 32 / sizeof(Pack);

// What a block or warp has: `columns` vectors, a power of two, of the row's `vectors`.
struct Part {
  long long at;
  int n, vectors, columns, lanes, lane;
  bool whole_block;
};
DEVICE Part part_of(const Operands& a) {
  Part p;
  p.vectors = a.width / VECTOR;
  p.columns = 1;
  while (p.columns < p.vectors && p.columns < MOST_COLUMNS) p.columns *= 2;
  int parts = (p.vectors + p.columns - 1) / p.columns, t = threadIdx.x;
  // The first `mode` rows are long.
  long long block = blockIdx.x, part = block, long_parts = (long long)a.mode * parts;
  p.whole_block = part < long_parts;
  if (!p.whole_block) part = long_parts + (block - long_parts) * (SOFTMAX_THREADS / 32) + t / 32, t %= 32;
  p.lanes = (p.whole_block ? SOFTMAX_THREADS : 32) / p.columns;
  p.lane = t / p.columns;
  int column = (int)(part % parts) * p.columns + t % p.columns;
  // A thread without a column or row has no elements, and takes part in what the others exchange.
  bool some = part < a.rows * parts && column < p.vectors;
  longlong2 row = some ? ((const longlong2*)a.list)[part / parts] : make_longlong2(0, 0);
  p.n = (int)row.y;
  p.at = row.x * p.vectors + column;
  return p;
}

DEVICE float larger(float x, float y) { return fmaxf(x, y); }
DEVICE float sum(float x, float y) { return x + y; }

// Combines the values of all lanes of a column, in one order, and gives every lane the result.
// `shared` has room for the values of each warp.
template <float COMBINE(float, float)> DEVICE void across_lanes(float (*shared)[32][VECTOR], float* x, const Part& p) {
  int columns = p.columns;
  for (int step = columns; step < 32; step *= 2)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) x[e] = COMBINE(x[e], __shfl_xor_sync(~0u, x[e], step));
  if (!p.whole_block) return;
  int warp = threadIdx.x / 32, column = threadIdx.x % 32 % columns;
  if (threadIdx.x % 32 < columns)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) shared[warp][column][e] = x[e];
  __syncthreads();
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    x[e] = shared[0][column][e];
#pragma unroll
    for (int w = 1; w < SOFTMAX_THREADS / 32; w++) x[e] = COMBINE(x[e], shared[w][column][e]);
  }
}

DEVICE void raise(float* largest, const Pack& x) {
#pragma unroll
  for (int e = 0; e < VECTOR; e++) largest[e] = fmaxf(largest[e], widen(x.e[e]));
}
DEVICE void add_weights(float* total, const Pack& x, const float* base) {
#pragma unroll
  for (int e = 0; e < VECTOR; e++) total[e] += exp2_fast(fmaf(widen(x.e[e]), LOG2E, -base[e]));
}

// Softmax over the elements of a row, separately for each column.
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS, SOFTMAX_BLOCKS) softmax_forward(Operands a) {
  __shared__ __align__(16) float shared[2][SOFTMAX_THREADS / 32][32][VECTOR];
  Part p = part_of(a);
  const Pack* x = (const Pack*)a.x + p.at;
  Pack* out = (Pack*)a.out + p.at;
  Pack kept[KEPT];
  float largest[VECTOR], total[VECTOR], base[VECTOR];
#pragma unroll
  for (int r = 0; r < KEPT; r++)
    if (p.lane + r * p.lanes < p.n) kept[r] = x[(long long)(p.lane + r * p.lanes) * p.vectors];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) largest[e] = NEG_INFINITY, total[e] = 0.f;
  // Elements outside of the row cost a warp a branch, no arithmetic.
#pragma unroll
  for (int r = 0; r < KEPT; r++)
    if (p.lane + r * p.lanes < p.n) raise(largest, kept[r]);
#pragma unroll
  for (int e = 0; e < VECTOR; e++) base[e] = largest[e] == NEG_INFINITY ? 0.f : largest[e] * LOG2E;
#pragma unroll
  for (int r = 0; r < KEPT; r++)
    if (p.lane + r * p.lanes < p.n) add_weights(total, kept[r], base);
  for (int i = p.lane + KEPT * p.lanes; i < p.n; i += MORE * p.lanes) {
    Pack more[MORE];
    float before[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) before[e] = largest[e];
#pragma unroll
    for (int r = 0; r < MORE; r++)
      if (i + r * p.lanes < p.n) more[r] = x[(long long)(i + r * p.lanes) * p.vectors];
#pragma unroll
    for (int r = 0; r < MORE; r++)
      if (i + r * p.lanes < p.n) raise(largest, more[r]);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) {
      base[e] = largest[e] == NEG_INFINITY ? 0.f : largest[e] * LOG2E;
      if (largest[e] > before[e]) total[e] *= exp2_fast(fmaf(before[e], LOG2E, -base[e]));
    }
#pragma unroll
    for (int r = 0; r < MORE; r++)
      if (i + r * p.lanes < p.n) add_weights(total, more[r], base);
  }
#pragma unroll
  for (int e = 0; e < VECTOR; e++) base[e] = largest[e];
  across_lanes<larger>(shared[0], base, p);
#pragma unroll
  for (int e = 0; e < VECTOR; e++) {
    base[e] = base[e] == NEG_INFINITY ? 0.f : base[e] * LOG2E;
    total[e] *= exp2_fast(fmaf(largest[e], LOG2E, -base[e]));
  }
  across_lanes<sum>(shared[1], total, p);
#pragma unroll
  for (int e = 0; e < VECTOR; e++) total[e] = total[e] > 0.f ? 1.f / total[e] : 0.f;
  auto write = [&](int i, const Pack& x) {
    float y[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) y[e] = exp2_fast(fmaf(widen(x.e[e]), LOG2E, -base[e])) * total[e];
    out[(long long)i * p.vectors] = packed(y);
  };
#pragma unroll
  for (int r = 0; r < KEPT; r++)
    if (p.lane + r * p.lanes < p.n) write(p.lane + r * p.lanes, kept[r]);
  for (int i = p.lane + KEPT * p.lanes; i < p.n; i += MORE * p.lanes) {
    Pack more[MORE];
#pragma unroll
    for (int r = 0; r < MORE; r++)
      if (i + r * p.lanes < p.n) more[r] = x[(long long)(i + r * p.lanes) * p.vectors];
#pragma unroll
    for (int r = 0; r < MORE; r++)
      if (i + r * p.lanes < p.n) write(i + r * p.lanes, more[r]);
  }
}

// dx = (dy - sum_i dy_i y_i) y, with x the output y and y its gradient dy.
extern "C" __global__ void __launch_bounds__(SOFTMAX_THREADS, SOFTMAX_BLOCKS) softmax_backward(Operands a) {
  __shared__ __align__(16) float shared[SOFTMAX_THREADS / 32][32][VECTOR];
  // Two inputs: half as many elements of each stay.
  const int KEPT = ::KEPT / 2;
  Part p = part_of(a);
  const Pack *x = (const Pack*)a.x + p.at, *y = (const Pack*)a.y + p.at;
  Pack* out = (Pack*)a.out + p.at;
  Pack kept_x[KEPT], kept_y[KEPT];
  float dot[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) dot[e] = 0.f;
  auto read = [&](Pack* x_r, Pack* y_r, int i) {
#pragma unroll
    for (int r = 0; r < KEPT; r++)
      if (i + r * p.lanes < p.n) {
        x_r[r] = x[(long long)(i + r * p.lanes) * p.vectors];
        y_r[r] = y[(long long)(i + r * p.lanes) * p.vectors];
      }
  };
  auto add = [&](const Pack* x_r, const Pack* y_r, int i) {
#pragma unroll
    for (int r = 0; r < KEPT; r++)
      if (i + r * p.lanes < p.n)
#pragma unroll
        for (int e = 0; e < VECTOR; e++) dot[e] = fmaf(widen(x_r[r].e[e]), widen(y_r[r].e[e]), dot[e]);
  };
  auto write = [&](const Pack* x_r, const Pack* y_r, int i) {
#pragma unroll
    for (int r = 0; r < KEPT; r++)
      if (i + r * p.lanes < p.n) {
        float d[VECTOR];
#pragma unroll
        for (int e = 0; e < VECTOR; e++) d[e] = (widen(y_r[r].e[e]) - dot[e]) * widen(x_r[r].e[e]);
        out[(long long)(i + r * p.lanes) * p.vectors] = packed(d);
      }
  };
  read(kept_x, kept_y, p.lane);
  add(kept_x, kept_y, p.lane);
  for (int i = p.lane + KEPT * p.lanes; i < p.n; i += KEPT * p.lanes) {
    Pack x_r[KEPT], y_r[KEPT];
    read(x_r, y_r, i);
    add(x_r, y_r, i);
  }
  across_lanes<sum>(shared, dot, p);
  write(kept_x, kept_y, p.lane);
  for (int i = p.lane + KEPT * p.lanes; i < p.n; i += KEPT * p.lanes) {
    Pack x_r[KEPT], y_r[KEPT];
    read(x_r, y_r, i);
    write(x_r, y_r, i);
  }
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
    float inverse = total > 0.f ? 1.f / total : 0.f;
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

// Small operators over jagged rows: softmax, copies to and from padded tensors, elementwise.
// The host defines VECTOR, the elements of one access (a divisor of every width used).

struct Operands {
  const element *x, *y, *z;
  element *out, *out_2;
  const long long* offsets;
  const int* order;      // rows, longest first
  const long long* list;  // what a kernel says
  long long rows;
  int max_len, width, mode;
  float padding;
};
struct __align__(sizeof(element) * VECTOR) Pack { element e[VECTOR]; };

DEVICE int length_of(const Operands& a, int b) {
  return (int)min(a.offsets[b + 1] - a.offsets[b], (long long)a.max_len);
}

// A block has one row and up to 256 / lanes columns' vectors; every thread follows its own
// columns through the row. The first KEPT elements a thread meets stay in registers; what is
// beyond them is read a second time, from the cache as a rule.
const int KEPT = 8;

DEVICE float larger(float x, float y) { return fmaxf(x, y); }
DEVICE float sum(float x, float y) { return x + y; }

// Combines the values of all lanes of a column in a fixed tree (the same bits in every run) and
// gives every lane the result. `shared` holds 256 values of each element of a vector.
template <float COMBINE(float, float)> DEVICE void across_lanes(float* shared, float* x, int lanes, int columns) {
  int t = threadIdx.x, lane = t / columns;
  __syncthreads();
#pragma unroll
  for (int e = 0; e < VECTOR; e++) shared[e * 256 + t] = x[e];
  for (int live = lanes; live > 1; live = (live + 1) / 2) {
    int half = (live + 1) / 2;
    __syncthreads();
    if (lane < live - half)
#pragma unroll
      for (int e = 0; e < VECTOR; e++)
        shared[e * 256 + t] = x[e] = COMBINE(x[e], shared[e * 256 + t + half * columns]);
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < VECTOR; e++) x[e] = shared[e * 256 + t % columns];
}

// Softmax over the elements of a row, separately for each column.
extern "C" __global__ void __launch_bounds__(256) softmax_forward(Operands a) {
  __shared__ float shared[256 * VECTOR];
  int b = a.order[blockIdx.x], n = length_of(a, b), t = threadIdx.x;
  int vectors = a.width / VECTOR, columns = min(vectors, 256), lanes = 256 / columns, lane = t / columns;
  for (int first = 0; first < vectors; first += columns) {
    int column = first + t % columns;
    bool busy = lane < lanes && column < vectors;
    const Pack* x = (const Pack*)(a.x + a.offsets[b] * a.width) + column;
    Pack* out = (Pack*)(a.out + a.offsets[b] * a.width) + column;
    Pack kept[KEPT];
    float largest[VECTOR], total[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) largest[e] = NEG_INFINITY, total[e] = 0.f;
    if (busy) {
#pragma unroll
      for (int r = 0; r < KEPT; r++)
        if (lane + r * lanes < n) kept[r] = x[(long long)(lane + r * lanes) * vectors];
#pragma unroll
      for (int e = 0; e < VECTOR; e++) {
#pragma unroll
        for (int r = 0; r < KEPT; r++)
          if (lane + r * lanes < n) largest[e] = fmaxf(largest[e], widen(kept[r].e[e]));
        float base = largest[e] == NEG_INFINITY ? 0.f : largest[e];
#pragma unroll
        for (int r = 0; r < KEPT; r++)
          if (lane + r * lanes < n) total[e] += exp2_fast((widen(kept[r].e[e]) - base) * LOG2E);
      }
      for (int i = lane + KEPT * lanes; i < n; i += 4 * lanes) {
        Pack more[4];
#pragma unroll
        for (int r = 0; r < 4; r++)
          if (i + r * lanes < n) more[r] = x[(long long)(i + r * lanes) * vectors];
#pragma unroll
        for (int e = 0; e < VECTOR; e++) {
          float m = largest[e];
#pragma unroll
          for (int r = 0; r < 4; r++)
            if (i + r * lanes < n) m = fmaxf(m, widen(more[r].e[e]));
          float base = m == NEG_INFINITY ? 0.f : m;
          if (m > largest[e]) total[e] *= exp2_fast((largest[e] - base) * LOG2E), largest[e] = m;
#pragma unroll
          for (int r = 0; r < 4; r++)
            if (i + r * lanes < n) total[e] += exp2_fast((widen(more[r].e[e]) - base) * LOG2E);
        }
      }
    }
    float base[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) base[e] = largest[e];
    across_lanes<larger>(shared, base, lanes, columns);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) {
      if (base[e] == NEG_INFINITY) base[e] = 0.f;
      total[e] *= exp2_fast((largest[e] - base[e]) * LOG2E);
    }
    across_lanes<sum>(shared, total, lanes, columns);
    if (!busy) continue;
#pragma unroll
    for (int e = 0; e < VECTOR; e++) total[e] = total[e] > 0.f ? 1.f / total[e] : 0.f;
    auto write = [&](int i, const Pack& x) {
      Pack y;
#pragma unroll
      for (int e = 0; e < VECTOR; e++) y.e[e] = narrow(exp2_fast((widen(x.e[e]) - base[e]) * LOG2E) * total[e]);
      out[(long long)i * vectors] = y;
    };
#pragma unroll
    for (int r = 0; r < KEPT; r++)
      if (lane + r * lanes < n) write(lane + r * lanes, kept[r]);
#pragma unroll 4
    for (int i = lane + KEPT * lanes; i < n; i += lanes) write(i, x[(long long)i * vectors]);
  }
}

// dx = (dy - sum_i dy_i y_i) y, with x the output y and y its gradient dy.
extern "C" __global__ void __launch_bounds__(256) softmax_backward(Operands a) {
  __shared__ float shared[256 * VECTOR];
  // Two inputs: half as many elements of each stay.
  const int KEPT = ::KEPT / 2;
  int b = a.order[blockIdx.x], n = length_of(a, b), t = threadIdx.x;
  int vectors = a.width / VECTOR, columns = min(vectors, 256), lanes = 256 / columns, lane = t / columns;
  for (int first = 0; first < vectors; first += columns) {
    int column = first + t % columns;
    bool busy = lane < lanes && column < vectors;
    long long at = a.offsets[b] * a.width;
    const Pack *x = (const Pack*)(a.x + at) + column, *y = (const Pack*)(a.y + at) + column;
    Pack* out = (Pack*)(a.out + at) + column;
    Pack kept_x[KEPT], kept_y[KEPT];
    float dot[VECTOR];
#pragma unroll
    for (int e = 0; e < VECTOR; e++) dot[e] = 0.f;
    auto add = [&](const Pack& p, const Pack& g) {
#pragma unroll
      for (int e = 0; e < VECTOR; e++) dot[e] = fmaf(widen(p.e[e]), widen(g.e[e]), dot[e]);
    };
    if (busy) {
#pragma unroll
      for (int r = 0; r < KEPT; r++)
        if (lane + r * lanes < n) {
          kept_x[r] = x[(long long)(lane + r * lanes) * vectors];
          kept_y[r] = y[(long long)(lane + r * lanes) * vectors];
        }
#pragma unroll
      for (int r = 0; r < KEPT; r++)
        if (lane + r * lanes < n) add(kept_x[r], kept_y[r]);
#pragma unroll 4
      for (int i = lane + KEPT * lanes; i < n; i += lanes)
        add(x[(long long)i * vectors], y[(long long)i * vectors]);
    }
    across_lanes<sum>(shared, dot, lanes, columns);
    if (!busy) continue;
    auto write = [&](int i, const Pack& p, const Pack& g) {
      Pack d;
#pragma unroll
      for (int e = 0; e < VECTOR; e++) d.e[e] = narrow((widen(g.e[e]) - dot[e]) * widen(p.e[e]));
      out[(long long)i * vectors] = d;
    };
#pragma unroll
    for (int r = 0; r < KEPT; r++)
      if (lane + r * lanes < n) write(lane + r * lanes, kept_x[r], kept_y[r]);
#pragma unroll 4
    for (int i = lane + KEPT * lanes; i < n; i += lanes)
      write(i, x[(long long)i * vectors], y[(long long)i * vectors]);
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

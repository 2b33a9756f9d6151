// HSTU's pointwise attention on mma.sync tiles: o = norm sum_j silu(alpha q.k_j) v_j over the
// keys that the mask of HSTU lets a position see. No softmax, so no maximum and no
// log-sum-exp; the factor norm is applied to the sums, which keeps small weights from f16's
// subnormal numbers.

struct Hstu {
  const int* targets;  // candidates at the end of each row, or null
  float norm;
  int contextual, max_attention, min_full_attention;
};

// Positions of a row renumbered: the contextual ones collapse to 0, targets to `last`.
struct Ids {
  int contextual, last, max_attention, min_full_attention;
};
DEVICE Ids ids_of(const Hstu& h, int b, int n) {
  int targets = h.targets ? min(h.targets[b], n) : 0;
  int ids = max(n - max(h.contextual - 1, 0), 0);
  return {h.contextual, max(ids - targets, 0), h.max_attention, h.min_full_attention};
}
DEVICE int id(const Ids& x, int i) { return min(x.contextual == 0 ? i : max(i + 1 - x.contextual, 0), x.last); }
DEVICE bool sees(const Ids& x, int i, int j) {
  if (i == j) return true;
  int row = id(x, i), column = id(x, j);
  if (x.contextual > 0 && row == 0) return column < x.last;
  if (column >= row) return false;
  return x.max_attention == 0 || row - column <= x.max_attention ||
         (x.min_full_attention > 0 && row + x.min_full_attention >= x.last);
}

// silu(s) and its slope.
DEVICE float silu(float s, float* slope) {
  float sigmoid;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(sigmoid) : "f"(1.f + exp2_fast(-s * LOG2E)));
  *slope = sigmoid + s * sigmoid * (1.f - sigmoid);
  return s * sigmoid;
}

const int KEYS = D > 128 ? 32 : 64;

extern "C" __global__ void __launch_bounds__(THREADS) hstu_forward(Arguments a, Hstu hstu) {
  element *q = shared, *k = q + ROWS * PITCH, *v = k + KEYS * PITCH;
  int2 task = a.tasks[blockIdx.x / a.heads];
  int h = blockIdx.x % a.heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Row r = row_of(a, task.x);
  Ids ids = ids_of(hstu, task.x, r.n_q);
  int i0 = task.y * ROWS, i1 = min(i0 + ROWS, r.n_q), i = i0 + warp * 16 + lane / 4;
  int end = i0 < ids.contextual ? r.n_q : i1;
  float sums[WIDTH / 2];
#pragma unroll
  for (int e = 0; e < WIDTH / 2; e++) sums[e] = 0.f;
  load<ROWS>(q, a.q, r.start_q, i0, r.n_q, a.heads, h);
  load<KEYS>(k, a.k, r.start_q, 0, r.n_q, a.heads, h);
  copy_commit();
  for (int j0 = 0; j0 < end; j0 += KEYS) {
    load<KEYS>(v, a.v, r.start_q, j0, r.n_q, a.heads, h);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    float s[KEYS / 2];
    scores<KEYS>(s, q, k);
    __syncthreads();
    if (j0 + KEYS < end) load<KEYS>(k, a.k, r.start_q, j0 + KEYS, r.n_q, a.heads, h);
    copy_commit();
    u32 weights[KEYS / 4];
#pragma unroll
    for (int e = 0; e < KEYS / 2; e++) {
      int row = i + e / 2 % 2 * 8, key = j0 + e / 4 * 8 + lane % 4 * 2 + e % 2;
      float slope, p = silu(s[e] * a.scale, &slope);
      s[e] = row < r.n_q && key < r.n_q && sees(ids, row, key) ? p : 0.f;
    }
#pragma unroll
    for (int e = 0; e < KEYS / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
    copy_wait<1>();
    __syncthreads();
    weighted<KEYS>(sums, weights, v);
    __syncthreads();
  }
  copy_wait<0>();
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (i + e * 8 < i1) store<D>(a.out, sums, r.start_q + i + e * 8, a.heads, h, lane, e, hstu.norm);
}

// dK and dV (FOR_KEYS) or dQ: (X, Y) = (K, V) stay while (A, B) = (Q, dO) pass, or the
// other way round; ds = dp silu'(s).
const int TILE = D > 64 ? 32 : 64;

template <bool FOR_KEYS> DEVICE void backward(const Arguments& a, const Hstu& hstu) {
  element *x = shared, *y = x + ROWS * PITCH, *ta = y + ROWS * PITCH, *tb = ta + TILE * PITCH;
  int2 task = a.tasks[blockIdx.x / a.heads];
  int h = blockIdx.x % a.heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Row r = row_of(a, task.x);
  Ids ids = ids_of(hstu, task.x, r.n_q);
  int row0 = task.y * ROWS, row1 = min(row0 + ROWS, r.n_q), own = row0 + warp * 16 + lane / 4;
  // Contextual positions see keys after them; all others see none.
  int first = FOR_KEYS && ids.contextual == 0 ? row0 / TILE * TILE : 0;
  int end = FOR_KEYS || row0 < ids.contextual ? r.n_q : row1;
  float sums[WIDTH / 2], value_sums[FOR_KEYS ? WIDTH / 2 : 1];
#pragma unroll
  for (int e = 0; e < WIDTH / 2; e++) sums[e] = 0.f;
#pragma unroll
  for (int e = 0; e < (FOR_KEYS ? WIDTH / 2 : 1); e++) value_sums[e] = 0.f;
  load<ROWS>(x, FOR_KEYS ? a.k : a.q, r.start_q, row0, r.n_q, a.heads, h);
  load<ROWS>(y, FOR_KEYS ? a.v : a.d_o, r.start_q, row0, r.n_q, a.heads, h);
  for (int at = first; at < end; at += TILE) {
    __syncthreads();
    load<TILE>(ta, FOR_KEYS ? a.q : a.k, r.start_q, at, r.n_q, a.heads, h);
    load<TILE>(tb, FOR_KEYS ? a.d_o : a.v, r.start_q, at, r.n_q, a.heads, h);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    float s[TILE / 2], dp[TILE / 2];
    u32 weights[TILE / 4];
    scores<TILE>(s, x, ta);
    scores<TILE>(dp, y, tb);
#pragma unroll
    for (int e = 0; e < TILE / 2; e++) {
      int mine = own + e / 2 % 2 * 8, other = at + e / 4 * 8 + lane % 4 * 2 + e % 2;
      int i = FOR_KEYS ? other : mine, j = FOR_KEYS ? mine : other;
      float slope, p = silu(s[e] * a.scale, &slope);
      bool seen = i < r.n_q && j < r.n_q && sees(ids, i, j);
      s[e] = seen ? p : 0.f;
      dp[e] = seen ? dp[e] * slope : 0.f;
    }
    if (FOR_KEYS) {
#pragma unroll
      for (int e = 0; e < TILE / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
      weighted<TILE>(value_sums, weights, tb);
    }
#pragma unroll
    for (int e = 0; e < TILE / 4; e++) weights[e] = pack(dp[e * 2], dp[e * 2 + 1]);
    weighted<TILE>(sums, weights, ta);
  }
  copy_wait<0>();
#pragma unroll
  for (int e = 0; e < 2; e++) {
    int row = own + e * 8;
    if (row >= row1) continue;
    float factor = a.scale * hstu.norm;
    store<D>(FOR_KEYS ? a.dk : a.dq, sums, r.start_q + row, a.heads, h, lane, e, factor);
    if (FOR_KEYS) store<D>(a.dv, value_sums, r.start_q + row, a.heads, h, lane, e, hstu.norm);
  }
}

#if HEAD_DIM <= 128
extern "C" __global__ void __launch_bounds__(THREADS) hstu_backward_keys(Arguments a, Hstu hstu) { backward<true>(a, hstu); }
extern "C" __global__ void __launch_bounds__(THREADS) hstu_backward_queries(Arguments a, Hstu hstu) { backward<false>(a, hstu); }
#endif

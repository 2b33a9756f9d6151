// Attention on mma.sync, for Ampere and later: bf16 and f16, every mask, with or without a
// bias. Four warps of 16 rows; tiles of the other side come through cp.async, one being
// multiplied while the next is on its way (FlashAttention-2's schedule).

// Adds the bias in units of the unscaled scores; FOR_KEYS has keys as rows.
template <int N, bool FOR_KEYS>
DEVICE void add_bias(float* s, const Arguments& a, const Row& r, int b, int h, int own, int at, int lane) {
  float inverse = 1.f / a.scale;
#pragma unroll
  for (int j = 0; j < N / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int mine = own + e / 2 * 8, other = at + j * 8 + (lane & 3) * 2 + (e & 1);
      int i = FOR_KEYS ? other : mine, key = FOR_KEYS ? mine : other;
      if (i < r.n_q && key < r.n_k) s[j * 4 + e] += a.bias[bias_at(a, b, h, i, key)] * inverse;
    }
}

const int KEYS = D > 128 ? 32 : 64;

extern "C" __global__ void __launch_bounds__(THREADS) mma_forward(Arguments a) {
  element *q = shared, *k = q + ROWS * PITCH, *v = k + KEYS * PITCH;
  int2 task = a.tasks[blockIdx.x / a.heads];
  int h = blockIdx.x % a.heads, g = h / a.group, kv_heads = a.heads / a.group;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Row r = row_of(a, task.x);
  int i0 = task.y * ROWS, i1 = min(i0 + ROWS, r.n_q), i = i0 + warp * 16 + lane / 4;
  int first = first_key(a, r, i0) / KEYS * KEYS, end = end_key(a, r, i1);
  const float scale_log2 = a.scale * LOG2E;
  float sums[WIDTH / 2];
#pragma unroll
  for (int e = 0; e < WIDTH / 2; e++) sums[e] = 0.f;
  Softmax softmax = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
  load<ROWS>(q, a.q, r.start_q, i0, r.n_q, a.heads, h);
  if (first < end) load<KEYS>(k, a.k, r.start_k, first, r.n_k, kv_heads, g);
  copy_commit();
  for (int j0 = first; j0 < end; j0 += KEYS) {
    load<KEYS>(v, a.v, r.start_k, j0, r.n_k, kv_heads, g);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    float s[KEYS / 2];
    scores<KEYS>(s, q, k);
    __syncthreads();
    if (j0 + KEYS < end) load<KEYS>(k, a.k, r.start_k, j0 + KEYS, r.n_k, kv_heads, g);
    copy_commit();
    if (a.bias) add_bias<KEYS, false>(s, a, r, task.x, h, i, j0, lane);
    if (j0 + KEYS > r.n_k || j0 + KEYS - 1 - i0 - r.shift > a.right || j0 - (i1 - 1) - r.shift < -a.left)
      mask_tile<KEYS>(s, a, r, i, j0, lane);
    float shrink[2];
    bool grown = a.bias ? softmax_tile<KEYS, true>(s, softmax, scale_log2, shrink)
                        : softmax_tile<KEYS>(s, softmax, scale_log2, shrink);
    if (grown) {
#pragma unroll
      for (int e = 0; e < WIDTH / 2; e++) sums[e] *= shrink[e / 2 % 2];
    }
    u32 weights[KEYS / 4];
#pragma unroll
    for (int e = 0; e < KEYS / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
    copy_wait<1>();
    __syncthreads();
    weighted<KEYS>(sums, weights, v);
    __syncthreads();
  }
  copy_wait<0>();
  finish<WIDTH>(a, r, sums, softmax, i, i1, h, lane);
}

// dK and dV (FOR_KEYS) or dQ, as in the Hopper kernel: (X, Y) stay, (A, B) pass by.
const int TILE = D > 64 ? 32 : 64;

template <bool FOR_KEYS> DEVICE void backward(const Arguments& a) {
  element *x = shared, *y = x + ROWS * PITCH, *ta = y + ROWS * PITCH, *tb = ta + TILE * PITCH;
  __shared__ float lse_of[TILE], delta_of[TILE];
  int kv_heads = a.heads / a.group, own_heads = FOR_KEYS ? kv_heads : a.heads;
  int2 task = a.tasks[blockIdx.x / own_heads];
  int head = blockIdx.x % own_heads, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  Row r = row_of(a, task.x);
  int row0 = task.y * ROWS, rows = FOR_KEYS ? r.n_k : r.n_q, length = FOR_KEYS ? r.n_q : r.n_k;
  int row1 = min(row0 + ROWS, rows), own = row0 + warp * 16 + lane / 4;
  long long start_x = FOR_KEYS ? r.start_k : r.start_q, start_a = FOR_KEYS ? r.start_q : r.start_k;
  int first = (FOR_KEYS ? first_query(a, r, row0) : first_key(a, r, row0)) / TILE * TILE;
  int end = FOR_KEYS ? end_query(a, r, row1) : end_key(a, r, row1);
  const float scale_log2 = a.scale * LOG2E;

  float sums[WIDTH / 2], value_sums[FOR_KEYS ? WIDTH / 2 : 1];
#pragma unroll
  for (int e = 0; e < WIDTH / 2; e++) sums[e] = 0.f;
#pragma unroll
  for (int e = 0; e < (FOR_KEYS ? WIDTH / 2 : 1); e++) value_sums[e] = 0.f;
  load<ROWS>(x, FOR_KEYS ? a.k : a.q, start_x, row0, rows, own_heads, head);
  load<ROWS>(y, FOR_KEYS ? a.v : a.d_o, start_x, row0, rows, own_heads, head);
  float row_lse[2] = {0.f, 0.f}, row_delta[2] = {0.f, 0.f};
  if (!FOR_KEYS) {
#pragma unroll
    for (int e = 0; e < 2; e++) {
      bool inside = own + e * 8 < rows;
      long long from = head * a.tokens_q + r.start_q + own + e * 8;
      row_lse[e] = inside ? base_2(a.lse[from]) : -NEG_INFINITY;
      row_delta[e] = inside ? a.delta[from] : 0.f;
    }
  }
  int members = FOR_KEYS ? a.group : 1, heads_a = FOR_KEYS ? a.heads : kv_heads;
  for (int member = 0; member < members; member++) {
    int h = FOR_KEYS ? head * a.group + member : head / a.group;
    for (int at = first; at < end; at += TILE) {
      __syncthreads();
      load<TILE>(ta, FOR_KEYS ? a.q : a.k, start_a, at, length, heads_a, h);
      load<TILE>(tb, FOR_KEYS ? a.d_o : a.v, start_a, at, length, heads_a, h);
      copy_commit();
      if (FOR_KEYS && threadIdx.x < TILE) {
        int i = at + threadIdx.x;
        long long from = h * a.tokens_q + start_a + i;
        lse_of[threadIdx.x] = i < length ? base_2(a.lse[from]) : -NEG_INFINITY;
        delta_of[threadIdx.x] = i < length ? a.delta[from] : 0.f;
      }
      copy_wait<0>();
      __syncthreads();
      float s[TILE / 2], dp[TILE / 2];
      u32 weights[TILE / 4];
      scores<TILE>(s, x, ta);
      if (a.bias) add_bias<TILE, FOR_KEYS>(s, a, r, task.x, FOR_KEYS ? h : head, own, at, lane);
      weights_tile<TILE, FOR_KEYS>(s, scale_log2, row_lse, lse_of, lane);
      // Of a query that a mask of -1e9 hides from all keys f32 has neither its weights nor their sum.
      if (a.bias) {
#pragma unroll
        for (int e = 0; e < TILE / 2; e++) s[e] = s[e] > 1.f ? 1.f : s[e];
      }
      int near = FOR_KEYS ? row0 - (at + TILE - 1) : at - (row0 + ROWS - 1);
      int far = FOR_KEYS ? row0 + ROWS - 1 - at : at + TILE - 1 - row0;
      if (far - r.shift > a.right || near - r.shift < -a.left || at + TILE > length)
        mask_weights<TILE, FOR_KEYS>(s, a, r, own, at, lane);
      scores<TILE>(dp, y, tb);
      if (FOR_KEYS) {
#pragma unroll
        for (int e = 0; e < TILE / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
        weighted<TILE>(value_sums, weights, tb);
      }
      gradients_tile<TILE, FOR_KEYS>(weights, s, dp, row_delta, delta_of, lane);
      weighted<TILE>(sums, weights, ta);
    }
  }
  copy_wait<0>();
#pragma unroll
  for (int e = 0; e < 2; e++) {
    int row = own + e * 8;
    if (row >= row1) continue;
    if (FOR_KEYS) {
      store<D>(a.dk, sums, r.start_k + row, kv_heads, head, lane, e, a.scale);
      store<D>(a.dv, value_sums, r.start_k + row, kv_heads, head, lane, e, 1.f);
    } else {
      store<D>(a.dq, sums, r.start_q + row, a.heads, head, lane, e, a.scale);
    }
  }
}

#if HEAD_DIM <= 128
extern "C" __global__ void __launch_bounds__(THREADS) mma_backward_keys(Arguments a) { backward<true>(a); }
extern "C" __global__ void __launch_bounds__(THREADS) mma_backward_queries(Arguments a) { backward<false>(a); }
#endif

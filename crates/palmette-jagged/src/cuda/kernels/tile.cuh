// What the tensor-core kernels do with a tile of scores in registers. A warp holds 16 rows:
// a thread has rows lane / 4 and lane / 4 + 8, of each 8 columns the two at lane % 4 * 2;
// entry j * 4 + e is column j * 8 + lane % 4 * 2 + e % 2 of row lane / 4 + e / 2 * 8.

template <int D> DEVICE void store(void* out, const float* sums, long long token, int heads, int head, int lane,
                  int half, float factor) {
  u32* x = (u32*)((element*)out + (token * heads + head) * D) + (lane & 3);
#pragma unroll
  for (int j = 0; j < D / 8; j++) x[j * 4] = pack(sums[j * 4 + half * 2] * factor, sums[j * 4 + half * 2 + 1] * factor);
}

// Running maximum and sum of a thread's two queries.
struct Softmax {
  float largest[2], total[2];
};

// Scores to weights. The exponentials' base follows the maximum only when that has grown
// by more than 2^8: weights stay far from overflow, their relative rounding is the same,
// and most tiles need neither the exchange between lanes nor a rescaling of the sums.
// Returns whether earlier sums must be multiplied by `shrink`. BIASED: scores may be as large as
// a mask's -1e9, where rounding the base would take weights out of their range.
template <int N, bool BIASED = false> DEVICE bool softmax_tile(float* s, Softmax& x, float scale_log2, float* shrink) {
  float m[2] = {NEG_INFINITY, NEG_INFINITY};
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
    m[0] = fmaxf(m[0], fmaxf(s[j * 4], s[j * 4 + 1]));
    m[1] = fmaxf(m[1], fmaxf(s[j * 4 + 2], s[j * 4 + 3]));
  }
  bool grown = (m[0] - x.largest[0]) * scale_log2 > 8.f || (m[1] - x.largest[1]) * scale_log2 > 8.f;
  grown = __any_sync(~0u, grown);
  if (grown) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      m[i] = fmaxf(m[i], __shfl_xor_sync(~0u, m[i], 1));
      m[i] = fmaxf(m[i], __shfl_xor_sync(~0u, m[i], 2));
      m[i] = fmaxf(m[i], x.largest[i]);
      shrink[i] = m[i] == NEG_INFINITY ? 1.f : exp2_fast((x.largest[i] - m[i]) * scale_log2);
      x.largest[i] = m[i];
      x.total[i] *= shrink[i];
    }
  }
  // A query that has seen no key yet: any finite base gives weights of 0.
  float base[2];
#pragma unroll
  for (int i = 0; i < 2; i++)
    base[i] = x.largest[i] == NEG_INFINITY ? 0.f : BIASED ? x.largest[i] : x.largest[i] * scale_log2;
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      s[j * 4 + e] = exp2_fast(BIASED ? (s[j * 4 + e] - base[e / 2]) * scale_log2
                                      : fmaf(s[j * 4 + e], scale_log2, -base[e / 2]));
      x.total[e / 2] += s[j * 4 + e];
    }
  }
  return grown;
}

// Which of a tile's columns a thread's two rows see, counted from its first column: `first` is the
// first row's first, the second's is 8 further; both see `count` from there on, up to `limit`.
struct Seen {
  int first, limit;
  u32 count;
  DEVICE bool has(int x, int second) const { return (u32)(x - first - second * 8) < count && x < limit; }
};
// `own` is the thread's first row, `at` the tile's first column.
DEVICE Seen keys_seen(const Arguments& a, const Row& r, int own, int at, int lane) {
  int column = at + (lane & 3) * 2;
  return {own + r.shift - a.left - column, r.n_k - column, (u32)a.left + (u32)a.right + 1};
}
DEVICE Seen queries_seen(const Arguments& a, const Row& r, int own, int at, int lane) {
  int column = at + (lane & 3) * 2;
  return {own - r.shift - a.right - column, 1 << 30, (u32)a.left + (u32)a.right + 1};
}

template <int N> DEVICE void mask_tile(float* s, const Arguments& a, const Row& r, int i, int j0, int lane) {
  Seen seen = keys_seen(a, r, i, j0, lane);
#pragma unroll
  for (int j = 0; j < N / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (!seen.has(j * 8 + (e & 1), e / 2)) s[j * 4 + e] = NEG_INFINITY;
}

// Divides the sums by the weights' total and writes output and log-sum-exp of rows below `end`.
template <int WIDTH>
DEVICE void finish(const Arguments& a, const Row& r, const float* sums, Softmax& x, int i, int end, int h, int lane) {
#pragma unroll
  for (int e = 0; e < 2; e++) {
    x.total[e] += __shfl_xor_sync(~0u, x.total[e], 1);
    x.total[e] += __shfl_xor_sync(~0u, x.total[e], 2);
    float total = x.total[e], inverse = total > 0.f ? 1.f / total : 0.f;
    int row = i + e * 8;
    if (row >= end) continue;
    store<HEAD_DIM>(a.out, sums, r.start_q + row, a.heads, h, lane, e, inverse);
    if ((lane & 3) == 0)
      a.lse[h * a.tokens_q + r.start_q + row] = total > 0.f ? x.largest[e] * a.scale + log2_fast(total) * LN2 : NEG_INFINITY;
  }
}

// Backward's tiles have keys as rows and queries as columns (KEY_ROWS) or the other way
// round; `row_*` are a thread's two queries, `columns` the tile's queries in shared memory.
DEVICE float base_2(float lse) { return lse == NEG_INFINITY ? -NEG_INFINITY : lse * LOG2E; }

// Scores to weights, from the log-sum-exp in base 2.
template <int N, bool KEY_ROWS>
DEVICE void weights_tile(float* s, float scale_log2, const float* row_lse, const float* columns, int lane) {
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
    float2 lse = {row_lse[0], row_lse[0]}, lse_8 = {row_lse[1], row_lse[1]};
    if (KEY_ROWS) lse = lse_8 = *(const float2*)(columns + j * 8 + (lane & 3) * 2);
    s[j * 4] = exp2_fast(fmaf(s[j * 4], scale_log2, -lse.x));
    s[j * 4 + 1] = exp2_fast(fmaf(s[j * 4 + 1], scale_log2, -lse.y));
    s[j * 4 + 2] = exp2_fast(fmaf(s[j * 4 + 2], scale_log2, -lse_8.x));
    s[j * 4 + 3] = exp2_fast(fmaf(s[j * 4 + 3], scale_log2, -lse_8.y));
  }
}

// Zeroes what the mask hides; rows past the keys' end, which nobody writes, are left.
template <int N, bool KEY_ROWS>
DEVICE void mask_weights(float* s, const Arguments& a, const Row& r, int own, int at, int lane) {
  Seen seen = KEY_ROWS ? queries_seen(a, r, own, at, lane) : keys_seen(a, r, own, at, lane);
#pragma unroll
  for (int j = 0; j < N / 8; j++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (!seen.has(j * 8 + (e & 1), e / 2)) s[j * 4 + e] = 0.f;
}

// ds = p (dp - delta), rounded to operands of a product.
template <int N, bool KEY_ROWS>
DEVICE void gradients_tile(u32* out, const float* p, const float* dp, const float* row_delta, const float* columns,
                           int lane) {
#pragma unroll
  for (int j = 0; j < N / 8; j++) {
    float2 delta = {row_delta[0], row_delta[0]}, delta_8 = {row_delta[1], row_delta[1]};
    if (KEY_ROWS) delta = delta_8 = *(const float2*)(columns + j * 8 + (lane & 3) * 2);
    out[j * 2] = pack(p[j * 4] * (dp[j * 4] - delta.x), p[j * 4 + 1] * (dp[j * 4 + 1] - delta.y));
    out[j * 2 + 1] = pack(p[j * 4 + 2] * (dp[j * 4 + 2] - delta_8.x), p[j * 4 + 3] * (dp[j * 4 + 3] - delta_8.y));
  }
}

// Attention on ordinary f32 arithmetic: any element type, any GPU that NVRTC targets.
// It is the path of f32 and of biases, and what the fast paths are compared with.
// Tiles of TILE x TILE scores in shared memory, 128 threads, sums in registers.

const int D = HEAD_DIM;
const int TILE = D > 128 ? 16 : 32;
const int THREADS = 128;
const int SUMS = TILE * D / THREADS;
const int SCORES = TILE * TILE / THREADS;
const int PITCH = D + 1;
static_assert(TILE * D % THREADS == 0, "a thread's share of a tile is whole");

extern __shared__ float shared[];

// Rows `first..first + TILE` of one head as f32, zero past `n`.
DEVICE void load(float* tile, const void* values, long long start, int first, int n, int stride, int head) {
  const element* x = (const element*)values;
  for (int e = threadIdx.x; e < TILE * D; e += THREADS) {
    int r = e / D, c = e % D;
    bool inside = first + r < n;
    tile[r * PITCH + c] = inside ? widen(x[((start + first + r) * stride + head) * D + c]) : 0.f;
  }
}
// In four sums: a third of the error of one, and no chain of D multiply-adds.
DEVICE float dot(const float* x, const float* y) {
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll 2
  for (int c = 0; c < D; c += 4)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[e] = fmaf(x[c + e], y[c + e], sums[e]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}
DEVICE float score(const Arguments& a, const Row& r, int b, int h, int i, int j, const float* q, const float* k) {
  if (!allowed(a, r, i, j)) return NEG_INFINITY;
  float s = dot(q, k) * a.scale;
  return a.bias ? s + a.bias[bias_at(a, b, h, i, j)] : s;
}

extern "C" __global__ void __launch_bounds__(THREADS) plain_forward(Arguments a) {
  float *q = shared, *k = q + TILE * PITCH, *v = k + TILE * PITCH, *s = v + TILE * PITCH;
  __shared__ float largest[TILE], total[TILE], shrink[TILE];
  int2 task = a.tasks[blockIdx.x / a.heads];
  int h = blockIdx.x % a.heads, g = h / a.group, kv_heads = a.heads / a.group;
  Row r = row_of(a, task.x);
  int i0 = task.y * TILE, i1 = min(i0 + TILE, r.n_q), t = threadIdx.x;
  load(q, a.q, r.start_q, i0, r.n_q, a.heads, h);
  if (t < TILE) largest[t] = NEG_INFINITY, total[t] = 0.f;
  float sums[SUMS];
#pragma unroll
  for (int e = 0; e < SUMS; e++) sums[e] = 0.f;
  int end = end_key(a, r, i1);
  for (int j0 = first_key(a, r, i0) / TILE * TILE; j0 < end; j0 += TILE) {
    __syncthreads();
    load(k, a.k, r.start_k, j0, r.n_k, kv_heads, g);
    load(v, a.v, r.start_k, j0, r.n_k, kv_heads, g);
    __syncthreads();
#pragma unroll
    for (int e = 0; e < SCORES; e++) {
      int x = t + e * THREADS, i = x / TILE, j = x % TILE;
      s[i * (TILE + 1) + j] = score(a, r, task.x, h, i0 + i, j0 + j, q + i * PITCH, k + j * PITCH);
    }
    __syncthreads();
    if (t < TILE) {
      float m = largest[t];
#pragma unroll 4
      for (int j = 0; j < TILE; j++) m = fmaxf(m, s[t * (TILE + 1) + j]);
      float base = m == NEG_INFINITY ? 0.f : m, sum = 0.f;
      shrink[t] = expf(largest[t] - base);
#pragma unroll 4
      for (int j = 0; j < TILE; j++) {
        float p = expf(s[t * (TILE + 1) + j] - base);
        s[t * (TILE + 1) + j] = p;
        sum += p;
      }
      total[t] = total[t] * shrink[t] + sum;
      largest[t] = m;
    }
    __syncthreads();
#pragma unroll
    for (int e = 0; e < SUMS; e++) {
      int x = t + e * THREADS, i = x / D, c = x % D;
      float sum = sums[e] * shrink[i];
#pragma unroll 4
      for (int j = 0; j < TILE; j++) sum = fmaf(s[i * (TILE + 1) + j], v[j * PITCH + c], sum);
      sums[e] = sum;
    }
  }
  __syncthreads();
#pragma unroll
  for (int e = 0; e < SUMS; e++) {
    int x = t + e * THREADS, i = x / D, c = x % D;
    float inverse = total[i] > 0.f ? 1.f / total[i] : 0.f;
    if (i0 + i < i1) ((element*)a.out)[((r.start_q + i0 + i) * a.heads + h) * D + c] = narrow(sums[e] * inverse);
  }
  if (t < TILE && i0 + t < i1)
    a.lse[h * a.tokens_q + r.start_q + i0 + t] = total[t] > 0.f ? largest[t] + logf(total[t]) : NEG_INFINITY;
}

// Weights p and score gradients ds of one tile into shared memory.
DEVICE void gradients(const Arguments& a, const Row& r, int b, int h, int i0, int j0,
                      const float* q, const float* g, const float* k, const float* v, float* p, float* ds) {
#pragma unroll
  for (int e = 0; e < SCORES; e++) {
    int x = threadIdx.x + e * THREADS, i = x / TILE, j = x % TILE;
    float weight = 0.f, gradient = 0.f;
    float s = score(a, r, b, h, i0 + i, j0 + j, q + i * PITCH, k + j * PITCH);
    if (s != NEG_INFINITY) {
      long long at = h * a.tokens_q + r.start_q + i0 + i;
      weight = expf(s - a.lse[at]);
      gradient = weight * (dot(g + i * PITCH, v + j * PITCH) - a.delta[at]);
    }
    p[i * (TILE + 1) + j] = weight;
    ds[i * (TILE + 1) + j] = gradient;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) plain_backward_queries(Arguments a) {
  float *q = shared, *g = q + TILE * PITCH, *k = g + TILE * PITCH, *v = k + TILE * PITCH;
  float *p = v + TILE * PITCH, *ds = p + TILE * (TILE + 1);
  int2 task = a.tasks[blockIdx.x / a.heads];
  int h = blockIdx.x % a.heads, kv_heads = a.heads / a.group;
  Row r = row_of(a, task.x);
  int i0 = task.y * TILE, i1 = min(i0 + TILE, r.n_q), t = threadIdx.x;
  load(q, a.q, r.start_q, i0, r.n_q, a.heads, h);
  load(g, a.d_o, r.start_q, i0, r.n_q, a.heads, h);
  float sums[SUMS];
#pragma unroll
  for (int e = 0; e < SUMS; e++) sums[e] = 0.f;
  int end = end_key(a, r, i1);
  for (int j0 = first_key(a, r, i0) / TILE * TILE; j0 < end; j0 += TILE) {
    __syncthreads();
    load(k, a.k, r.start_k, j0, r.n_k, kv_heads, h / a.group);
    load(v, a.v, r.start_k, j0, r.n_k, kv_heads, h / a.group);
    __syncthreads();
    gradients(a, r, task.x, h, i0, j0, q, g, k, v, p, ds);
    __syncthreads();
#pragma unroll
    for (int e = 0; e < SUMS; e++) {
      int x = t + e * THREADS, i = x / D, c = x % D;
#pragma unroll 4
      for (int j = 0; j < TILE; j++) sums[e] = fmaf(ds[i * (TILE + 1) + j], k[j * PITCH + c], sums[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < SUMS; e++) {
    int x = t + e * THREADS, i = x / D, c = x % D;
    if (i0 + i < i1) ((element*)a.dq)[((r.start_q + i0 + i) * a.heads + h) * D + c] = narrow(sums[e] * a.scale);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS) plain_backward_keys(Arguments a) {
  float *q = shared, *g = q + TILE * PITCH, *k = g + TILE * PITCH, *v = k + TILE * PITCH;
  float *p = v + TILE * PITCH, *ds = p + TILE * (TILE + 1);
  int kv_heads = a.heads / a.group;
  int2 task = a.tasks[blockIdx.x / kv_heads];
  int head = blockIdx.x % kv_heads;
  Row r = row_of(a, task.x);
  int j0 = task.y * TILE, j1 = min(j0 + TILE, r.n_k), t = threadIdx.x;
  load(k, a.k, r.start_k, j0, r.n_k, kv_heads, head);
  load(v, a.v, r.start_k, j0, r.n_k, kv_heads, head);
  float dk[SUMS], dv[SUMS];
#pragma unroll
  for (int e = 0; e < SUMS; e++) dk[e] = dv[e] = 0.f;
  int end = end_query(a, r, j1), first = first_query(a, r, j0) / TILE * TILE;
  for (int h = head * a.group; h < (head + 1) * a.group; h++) {
    for (int i0 = first; i0 < end; i0 += TILE) {
      __syncthreads();
      load(q, a.q, r.start_q, i0, r.n_q, a.heads, h);
      load(g, a.d_o, r.start_q, i0, r.n_q, a.heads, h);
      __syncthreads();
      gradients(a, r, task.x, h, i0, j0, q, g, k, v, p, ds);
      __syncthreads();
#pragma unroll
      for (int e = 0; e < SUMS; e++) {
        int x = t + e * THREADS, j = x / D, c = x % D;
#pragma unroll 4
        for (int i = 0; i < TILE; i++) {
          dv[e] = fmaf(p[i * (TILE + 1) + j], g[i * PITCH + c], dv[e]);
          dk[e] = fmaf(ds[i * (TILE + 1) + j], q[i * PITCH + c], dk[e]);
        }
      }
    }
  }
#pragma unroll
  for (int e = 0; e < SUMS; e++) {
    int x = t + e * THREADS, j = x / D, c = x % D;
    if (j0 + j >= j1) continue;
    long long at = ((r.start_k + j0 + j) * kv_heads + head) * D + c;
    ((element*)a.dk)[at] = narrow(dk[e] * a.scale);
    ((element*)a.dv)[at] = narrow(dv[e]);
  }
}

// A block owns one tile of one bias matrix and adds over the rows and heads that share
// it in their order: deterministic, no buffer. Grid: tiles of keys, tiles of queries,
// batch x heads of the bias.
extern "C" __global__ void __launch_bounds__(THREADS) plain_backward_bias(Arguments a) {
  float *q = shared, *g = q + TILE * PITCH, *k = g + TILE * PITCH, *v = k + TILE * PITCH;
  float *p = v + TILE * PITCH, *ds = p + TILE * (TILE + 1);
  int j0 = blockIdx.x * TILE, i0 = blockIdx.y * TILE, t = threadIdx.x;
  int bias_h = blockIdx.z % a.bias_heads, bias_b = blockIdx.z / a.bias_heads;
  int kv_heads = a.heads / a.group;
  int b0 = a.bias_batch == 1 ? 0 : bias_b, b1 = a.bias_batch == 1 ? a.rows : bias_b + 1;
  int h0 = a.bias_heads == 1 ? 0 : bias_h, h1 = a.bias_heads == 1 ? a.heads : bias_h + 1;
  float sums[SCORES];
#pragma unroll
  for (int e = 0; e < SCORES; e++) sums[e] = 0.f;
  for (int b = b0; b < b1; b++) {
    Row r = row_of(a, b);
    int i1 = min(i0 + TILE, r.n_q);
    if (i0 >= r.n_q || j0 >= end_key(a, r, i1) || j0 + TILE <= first_key(a, r, i0)) continue;
    for (int h = h0; h < h1; h++) {
      __syncthreads();
      load(q, a.q, r.start_q, i0, r.n_q, a.heads, h);
      load(g, a.d_o, r.start_q, i0, r.n_q, a.heads, h);
      load(k, a.k, r.start_k, j0, r.n_k, kv_heads, h / a.group);
      load(v, a.v, r.start_k, j0, r.n_k, kv_heads, h / a.group);
      __syncthreads();
      gradients(a, r, b, h, i0, j0, q, g, k, v, p, ds);
      __syncthreads();
#pragma unroll
      for (int e = 0; e < SCORES; e++) {
        int x = t + e * THREADS;
        sums[e] += ds[x / TILE * (TILE + 1) + x % TILE];
      }
    }
  }
#pragma unroll
  for (int e = 0; e < SCORES; e++) {
    int x = t + e * THREADS, i = i0 + x / TILE, j = j0 + x % TILE;
    if (i < a.bias_q && j < a.bias_k) a.dbias[bias_at(a, bias_b, bias_h, i, j)] = sums[e];
  }
}

// Small kernels that every path needs.

const int D = HEAD_DIM;

// delta_i = o_i . do_i: DELTA_LANES threads a query and head, eight elements each at a time.
struct __align__(16) Eight { element e[8]; };
extern "C" __global__ void __launch_bounds__(256) attention_delta(Arguments a) {
  long long x = (long long)blockIdx.x * (256 / DELTA_LANES) + threadIdx.x / DELTA_LANES;
  bool inside = x < a.tokens_q * a.heads;
  float sum = 0.f;
  for (int c = threadIdx.x % DELTA_LANES * 8; inside && c < D; c += DELTA_LANES * 8) {
    Eight o = *(const Eight*)((const element*)a.o + x * D + c), g = *(const Eight*)((const element*)a.d_o + x * D + c);
#pragma unroll
    for (int e = 0; e < 8; e++) sum = fmaf(widen(o.e[e]), widen(g.e[e]), sum);
  }
#pragma unroll
  for (int step = DELTA_LANES / 2; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (inside && threadIdx.x % DELTA_LANES == 0) a.delta[x % a.heads * a.tokens_q + x / a.heads] = sum;
}

// Minus infinity for every query, before a truncating forward.
extern "C" __global__ void fill_lse(Arguments a) {
  long long x = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (x < a.tokens_q * a.heads) a.lse[x] = NEG_INFINITY;
}

// The fast backward's sums (hopper_backward_fast.cu), in the order of a product's fragments whose
// rows are dQ's columns, to dQ: a block of 64 queries and a head each.
extern "C" __global__ void __launch_bounds__(256) finish_queries(Arguments a) {
  const int WIDTH = D <= 64 ? 64 : 128, PANELS = WIDTH / 64;
  __shared__ float tile[64][WIDTH + 1];
  int2 task = a.tasks[blockIdx.x / a.heads];
  int h = blockIdx.x % a.heads, t = threadIdx.x;
  Row r = row_of(a, task.x);
  int blocks = (r.n_q + 63) / 64;
  const float4* sums = (const float4*)a.dq_sums +
                       (((long long)a.first_block[task.x] * a.heads + h * blocks) * PANELS + task.y) * 1024;
#pragma unroll
  for (int e = t; e < PANELS * 1024; e += 256) {
    float4 x = sums[(long long)(e / 1024) * blocks * 1024 + e % 1024];
    int lane = e % 32, c = e / 1024 * 64 + e / 32 % 4 * 16 + lane / 4, q = e % 1024 / 128 * 8 + lane % 4 * 2;
    tile[q][c] = x.x;
    tile[q + 1][c] = x.y;
    tile[q][c + 8] = x.z;
    tile[q + 1][c + 8] = x.w;
  }
  __syncthreads();
  int rows = min(64, r.n_q - task.y * 64);
  element* out = (element*)a.dq + ((r.start_q + task.y * 64) * a.heads + h) * D;
  for (int e = t; e < rows * (D / 2); e += 256) {
    int q = e / (D / 2), c = e % (D / 2) * 2;
    element* to = out + (long long)q * a.heads * D + c;
#if ELEMENT == 0
    to[0] = tile[q][c] * a.scale;
    to[1] = tile[q][c + 1] * a.scale;
#else
    *(u32*)to = pack(tile[q][c] * a.scale, tile[q][c + 1] * a.scale);
#endif
  }
}

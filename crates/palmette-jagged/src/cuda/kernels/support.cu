// Small kernels that every path needs.

const int D = HEAD_DIM;

// delta_i = o_i . do_i: a warp a query and head.
extern "C" __global__ void __launch_bounds__(256) attention_delta(Arguments a) {
  long long x = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  if (x >= a.tokens_q * a.heads) return;
  const element *o = (const element*)a.o + x * D, *g = (const element*)a.d_o + x * D;
  float sum = 0.f;
  for (int c = lane; c < D; c += 32) sum = fmaf(widen(o[c]), widen(g[c]), sum);
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) a.delta[(x % a.heads) * a.tokens_q + x / a.heads] = sum;
}

// Minus infinity for every query, before a truncating forward.
extern "C" __global__ void fill_lse(Arguments a) {
  long long x = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (x < a.tokens_q * a.heads) a.lse[x] = NEG_INFINITY;
}

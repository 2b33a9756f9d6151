// Tiles of one head in shared memory for mma.sync: a block keeps 64 rows, four warps of 16.

const int D = HEAD_DIM, WIDTH = (D + 15) / 16 * 16;
// A row's pitch is an odd number of 16 bytes, so eight rows lie in different banks.
const int PITCH = WIDTH + 8;
const int ROWS = 64, THREADS = 128;

extern __shared__ __align__(16) element shared[];

// Rows `first..first + R` of one head; zero past the row's end and the head's width.
template <int R>
DEVICE void load(element* tile, const void* values, long long start, int first, int n, int heads, int head) {
  const int CHUNKS = WIDTH / 8;
#pragma unroll 4
  for (int e = threadIdx.x; e < R * CHUNKS; e += THREADS) {
    int r = e / CHUNKS, c = e % CHUNKS * 8;
    bool inside = first + r < n && c < D;
    const element* from = (const element*)values + ((start + (inside ? first + r : 0)) * heads + head) * D + (inside ? c : 0);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tile + r * PITCH + c)),
                 "l"(from), "r"(inside ? 16 : 0) : "memory");
  }
}
// s [16, N] = this warp's 16 rows of `x` times the N rows of `tile`.
template <int N> DEVICE void scores(float* s, const element* x, const element* tile) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int e = 0; e < N / 2; e++) s[e] = 0.f;
#pragma unroll
  for (int k = 0; k < WIDTH; k += 16) {
    u32 a[4];
    matrices(a, x + (warp * 16 + lane % 16) * PITCH + k + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      u32 b[4];
      matrices(b, tile + (n + lane % 8 + lane / 16 * 8) * PITCH + k + lane / 8 % 2 * 8);
      product(s + n / 2, a, b[0], b[1]);
      product(s + n / 2 + 4, a, b[2], b[3]);
    }
  }
}
// sums [16, WIDTH] += weights [16, N] times the N rows of `tile`.
template <int N> DEVICE void weighted(float* sums, const u32* weights, const element* tile) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < N; k += 16) {
#pragma unroll
    for (int n = 0; n < WIDTH; n += 16) {
      u32 b[4];
      matrices_transposed(b, tile + (k + lane % 16) * PITCH + n + lane / 16 * 8);
      product(sums + n / 2, weights + k / 4, b[0], b[1]);
      product(sums + n / 2 + 4, weights + k / 4, b[2], b[3]);
    }
  }
}

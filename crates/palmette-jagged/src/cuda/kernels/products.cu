// Batched products of jagged and dense matrices: C = A B for a list of problems of
// different sizes, each cut into tiles. Strides are in elements:
// A(i, l) = a[i * a_i + l * a_l], B(l, j) = b[l * b_l + j * b_j], C(i, j) = c[i * c_i + j].

struct Problem {
  long long a, b, c;
  int m, k, n, a_i, a_l, b_l, b_j, c_i;
};
struct Products {
  const element *a, *b;
  element* c;
  const Problem* problems;
  const int2* tasks;  // problem, tile; most work first
};

#if ELEMENT == 0 || PLAIN
// Any type, any strides, f32 arithmetic: 32 x 32 tiles, four results a thread.
extern "C" __global__ void __launch_bounds__(256) product_plain(Products x) {
  __shared__ float a[32][33], b[32][33];
  int2 task = x.tasks[blockIdx.x];
  Problem p = x.problems[task.x];
  int tiles = (p.n + 31) / 32, i0 = task.y / tiles * 32, j0 = task.y % tiles * 32, t = threadIdx.x;
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  for (int l0 = 0; l0 < p.k; l0 += 32) {
    __syncthreads();
#pragma unroll
    for (int e = t; e < 1024; e += 256) {
      // Neighbouring threads read along whichever dimension is contiguous.
      int i = p.a_l == 1 ? e / 32 : e % 32, l = p.a_l == 1 ? e % 32 : e / 32;
      a[i][l] = i0 + i < p.m && l0 + l < p.k
                    ? widen(x.a[p.a + (long long)(i0 + i) * p.a_i + (long long)(l0 + l) * p.a_l]) : 0.f;
      int j = p.b_l == 1 ? e / 32 : e % 32, r = p.b_l == 1 ? e % 32 : e / 32;
      b[r][j] = j0 + j < p.n && l0 + r < p.k
                    ? widen(x.b[p.b + (long long)(l0 + r) * p.b_l + (long long)(j0 + j) * p.b_j]) : 0.f;
    }
    __syncthreads();
#pragma unroll 8
    for (int l = 0; l < 32; l++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[e] = fmaf(a[t / 32 + e * 8][l], b[l][t % 32], sums[e]);
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    int i = i0 + t / 32 + e * 8, j = j0 + t % 32;
    if (i < p.m && j < p.n) x.c[p.c + (long long)i * p.c_i + j] = narrow(sums[e]);
  }
}
#else
// Tensor cores for bf16 and f16 where rows are multiples of 16 bytes: 128 x COLUMNS tiles,
// eight warps of 32 x COLUMNS / 2, a ring of STAGES slices of DEPTH through cp.async. The
// problems are short of arithmetic, so what counts is that many bytes are on their way.
const int ROWS = 128, DEPTH = 32, STAGES = 4, THREADS = 256;
const int A_PITCH = A_TRANSPOSED ? ROWS + 8 : DEPTH + 8, B_PITCH = B_TRANSPOSED ? DEPTH + 8 : COLUMNS + 8;
const int A_SIZE = A_TRANSPOSED ? DEPTH * A_PITCH : ROWS * A_PITCH;
const int B_SIZE = B_TRANSPOSED ? COLUMNS * B_PITCH : DEPTH * B_PITCH;
const int C_PITCH = COLUMNS + 8;
static_assert(ROWS * C_PITCH <= STAGES * (A_SIZE + B_SIZE), "results pass through the ring's memory");

extern __shared__ __align__(16) element shared[];

// `rows` x `columns` of a matrix with rows `stride` apart into shared memory, zero past the ends.
template <int R, int C, int PITCH>
DEVICE void load(element* tile, const element* from, long long stride, int rows, int columns) {
  const int CHUNKS = C / 8;
  static_assert(R * CHUNKS % THREADS == 0, "threads share a slice evenly");
#pragma unroll
  for (int e = threadIdx.x; e < R * CHUNKS; e += THREADS) {
    int r = e / CHUNKS, c = e % CHUNKS * 8;
    bool inside = r < rows && c < columns;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tile + r * PITCH + c)),
                 "l"(from + (inside ? r * stride + c : 0)), "r"(inside ? 16 : 0) : "memory");
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) product_mma(Products x) {
  int2 task = x.tasks[blockIdx.x];
  Problem p = x.problems[task.x];
  int tiles = (p.n + COLUMNS - 1) / COLUMNS, i0 = task.y / tiles * ROWS, j0 = task.y % tiles * COLUMNS;
  int t = threadIdx.x, lane = t % 32, warp_i = t / 32 % 4 * 32, warp_j = t / 128 * (COLUMNS / 2);
  const element* from_a = x.a + p.a + (long long)i0 * p.a_i;
  const element* from_b = x.b + p.b + (long long)j0 * p.b_j;
  auto slice = [&](int l0) {
    element* a = shared + l0 / DEPTH % STAGES * (A_SIZE + B_SIZE);
    if (l0 < p.k) {
#if A_TRANSPOSED
      load<DEPTH, ROWS, A_PITCH>(a, from_a + (long long)l0 * p.a_l, p.a_l, p.k - l0, p.m - i0);
#else
      load<ROWS, DEPTH, A_PITCH>(a, from_a + l0, p.a_i, p.m - i0, p.k - l0);
#endif
#if B_TRANSPOSED
      load<COLUMNS, DEPTH, B_PITCH>(a + A_SIZE, from_b + l0, p.b_j, p.n - j0, p.k - l0);
#else
      load<DEPTH, COLUMNS, B_PITCH>(a + A_SIZE, from_b + (long long)l0 * p.b_l, p.b_l, p.k - l0, p.n - j0);
#endif
    }
    copy_commit();
  };
  float sums[2][COLUMNS / 4];
#pragma unroll
  for (int e = 0; e < COLUMNS / 4; e++) sums[0][e] = sums[1][e] = 0.f;
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) slice(s * DEPTH);
  for (int l0 = 0; l0 < p.k; l0 += DEPTH) {
    copy_wait<STAGES - 2>();
    __syncthreads();
    slice(l0 + (STAGES - 1) * DEPTH);
    const element *a = shared + l0 / DEPTH % STAGES * (A_SIZE + B_SIZE), *b = a + A_SIZE;
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
      u32 left[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
#if A_TRANSPOSED
        matrices_transposed(left[i], a + (k + lane / 16 * 8 + lane % 8) * A_PITCH + warp_i + i * 16 + lane / 8 % 2 * 8);
#else
        matrices(left[i], a + (warp_i + i * 16 + lane % 16) * A_PITCH + k + lane / 16 * 8);
#endif
      }
#pragma unroll
      for (int j = 0; j < COLUMNS / 2; j += 16) {
        u32 right[4];
#if B_TRANSPOSED
        matrices(right, b + (warp_j + j + lane % 8 + lane / 16 * 8) * B_PITCH + k + lane / 8 % 2 * 8);
#else
        matrices_transposed(right, b + (k + lane % 16) * B_PITCH + warp_j + j + lane / 16 * 8);
#endif
#pragma unroll
        for (int i = 0; i < 2; i++) {
          product(sums[i] + j / 2, left[i], right[0], right[1]);
          product(sums[i] + j / 2 + 4, left[i], right[2], right[3]);
        }
      }
    }
  }
  copy_wait<0>();
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < COLUMNS / 16; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int row = warp_i + i * 16 + half * 8 + lane / 4, column = warp_j + j * 8 + lane % 4 * 2;
        *(u32*)(shared + row * C_PITCH + column) = pack(sums[i][j * 4 + half * 2], sums[i][j * 4 + half * 2 + 1]);
      }
  __syncthreads();
  element* to = x.c + p.c + (long long)i0 * p.c_i + j0;
#pragma unroll
  for (int e = t; e < ROWS * COLUMNS / 8; e += THREADS) {
    int row = e / (COLUMNS / 8), column = e % (COLUMNS / 8) * 8;
    if (i0 + row < p.m && j0 + column < p.n)
      *(int4*)(to + (long long)row * p.c_i + column) = *(const int4*)(shared + row * C_PITCH + column);
  }
}
#endif

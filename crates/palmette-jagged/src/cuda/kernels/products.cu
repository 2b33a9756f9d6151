// Batched products of jagged and dense matrices: C = A B for a list of problems of
// different sizes, each cut into tiles. Strides are in elements:
// A(i, l) = a[i * a_i + l * a_l], B(l, j) = b[l * b_l + j * b_j], C(i, j) = c[i * c_i + j].

// One tile of one product; `Task` in Rust is its twin.
struct __align__(16) Task {
  long long a, b, c;  // the tile's corners
  int m, n, k;        // rows and columns from there to the end of the product, terms
  int a_i, a_l, b_l, b_j, c_i;
};
struct Products {
  const element *a, *b;
  element* c;
  const Task* tasks;
  const int* first;  // the first task of each block, and the end
};

#if ELEMENT == 0 || PLAIN
// Any type, any strides, f32 arithmetic: 32 x 32 tiles, four results a thread.
extern "C" __global__ void __launch_bounds__(256) product_plain(Products x) {
  __shared__ float a[32][33], b[32][33];
  Task p = x.tasks[blockIdx.x];
  int t = threadIdx.x;
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  for (int l0 = 0; l0 < p.k; l0 += 32) {
    __syncthreads();
#pragma unroll
    for (int e = t; e < 1024; e += 256) {
      // Neighbouring threads read along whichever dimension is contiguous.
      int i = p.a_l == 1 ? e / 32 : e % 32, l = p.a_l == 1 ? e % 32 : e / 32;
      a[i][l] = i < p.m && l0 + l < p.k ? widen(x.a[p.a + (long long)i * p.a_i + (long long)(l0 + l) * p.a_l]) : 0.f;
      int j = p.b_l == 1 ? e / 32 : e % 32, r = p.b_l == 1 ? e % 32 : e / 32;
      b[r][j] = j < p.n && l0 + r < p.k ? widen(x.b[p.b + (long long)(l0 + r) * p.b_l + (long long)j * p.b_j]) : 0.f;
    }
    __syncthreads();
#pragma unroll 8
    for (int l = 0; l < 32; l++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[e] = fmaf(a[t / 32 + e * 8][l], b[l][t % 32], sums[e]);
  }
#pragma unroll
  for (int e = 0; e < 4; e++) {
    int i = t / 32 + e * 8, j = t % 32;
    if (i < p.m && j < p.n) x.c[p.c + (long long)i * p.c_i + j] = narrow(sums[e]);
  }
}
#else
// Tensor cores for bf16 and f16 where rows are multiples of 16 bytes: 128 x COLUMNS tiles,
// eight warps of 32 x COLUMNS / 2, a ring of STAGES slices of DEPTH through cp.async. The
// problems are short of arithmetic, so what counts is that bytes are always on their way:
// the grid is persistent, and a block's ring runs on from one tile into the next.
const int ROWS = 128, DEPTH = 32, THREADS = 256;
// Blocks on a multiprocessor: what registers and shared memory allow.
const int BLOCKS = COLUMNS == 64 && A_TRANSPOSED ? 3 : 2;
const int STAGES = B_TRANSPOSED && !A_TRANSPOSED ? 3 : 4;
const int A_PITCH = A_TRANSPOSED ? ROWS + 8 : DEPTH + 8, B_PITCH = B_TRANSPOSED ? DEPTH + 8 : COLUMNS + 8;
const int A_SIZE = A_TRANSPOSED ? DEPTH * A_PITCH : ROWS * A_PITCH;
const int B_SIZE = B_TRANSPOSED ? COLUMNS * B_PITCH : DEPTH * B_PITCH;
const int C_PITCH = COLUMNS + 8;
// Tasks that are read at once: a block keeps two pages, since its ring is a few tasks ahead.
const int PAGE = 32;
static_assert(sizeof(Task) == 64, "a task is four words of 16 bytes");

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

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) product_mma(Products x) {
  __shared__ Task tasks[2 * PAGE];
  element* results = shared + STAGES * (A_SIZE + B_SIZE);
  int first = x.first[blockIdx.x], count = x.first[blockIdx.x + 1] - first;
  int t = threadIdx.x, lane = t % 32, warp_i = t / 32 % 4 * 32, warp_j = t / 128 * (COLUMNS / 2);

  // The next slice on its way: of task `ahead`, from term `term`.
  int ahead = 0, term = 0;
  auto slice = [&](int stage) {
    if (ahead < count) {
      if (term == 0 && ahead % PAGE == 0) {
        // The tasks that lay here were finished a page ago.
        if (t < 4 * PAGE && ahead + t / 4 < count)
          ((int4*)(tasks + ahead % (2 * PAGE)))[t] = ((const int4*)(x.tasks + first + ahead))[t];
        __syncthreads();
      }
      const Task& p = tasks[ahead % (2 * PAGE)];
      element* a = shared + stage * (A_SIZE + B_SIZE);
      int left = p.k - term;
#if A_TRANSPOSED
      load<DEPTH, ROWS, A_PITCH>(a, x.a + p.a + (long long)term * p.a_l, p.a_l, left, p.m);
#else
      load<ROWS, DEPTH, A_PITCH>(a, x.a + p.a + term, p.a_i, p.m, left);
#endif
#if B_TRANSPOSED
      load<COLUMNS, DEPTH, B_PITCH>(a + A_SIZE, x.b + p.b + term, p.b_j, p.n, left);
#else
      load<DEPTH, COLUMNS, B_PITCH>(a + A_SIZE, x.b + p.b + (long long)term * p.b_l, p.b_l, left, p.n);
#endif
      term += DEPTH;
      if (term >= p.k) term = 0, ahead++;
    }
    copy_commit();
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) slice(s);

  int stage = 0;
  for (int i = 0; i < count; i++) {
    float sums[2][COLUMNS / 4];
#pragma unroll
    for (int e = 0; e < COLUMNS / 4; e++) sums[0][e] = sums[1][e] = 0.f;
    // A product of no terms takes one slice of zeros.
    int terms = max(tasks[i % (2 * PAGE)].k, 1);
    for (int l0 = 0; l0 < terms; l0 += DEPTH) {
      copy_wait<STAGES - 2>();
      __syncthreads();
      slice(stage == 0 ? STAGES - 1 : stage - 1);
      const element *a = shared + stage * (A_SIZE + B_SIZE), *b = a + A_SIZE;
#pragma unroll
      for (int k = 0; k < DEPTH; k += 16) {
        u32 left_side[2][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
#if A_TRANSPOSED
          matrices_transposed(left_side[h], a + (k + lane / 16 * 8 + lane % 8) * A_PITCH + warp_i + h * 16 + lane / 8 % 2 * 8);
#else
          matrices(left_side[h], a + (warp_i + h * 16 + lane % 16) * A_PITCH + k + lane / 16 * 8);
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
          for (int h = 0; h < 2; h++) {
            product(sums[h] + j / 2, left_side[h], right[0], right[1]);
            product(sums[h] + j / 2 + 4, left_side[h], right[2], right[3]);
          }
        }
      }
      if (++stage == STAGES) stage = 0;
    }
    // The last tile's results have been copied before this tile's first barrier.
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int j = 0; j < COLUMNS / 16; j++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int row = warp_i + h * 16 + half * 8 + lane / 4, column = warp_j + j * 8 + lane % 4 * 2;
          *(u32*)(results + row * C_PITCH + column) = pack(sums[h][j * 4 + half * 2], sums[h][j * 4 + half * 2 + 1]);
        }
    __syncthreads();
    const Task& p = tasks[i % (2 * PAGE)];
    element* to = x.c + p.c;
    int rows = p.m, columns = p.n, pitch = p.c_i;
#pragma unroll
    for (int e = t; e < ROWS * COLUMNS / 8; e += THREADS) {
      int row = e / (COLUMNS / 8), column = e % (COLUMNS / 8) * 8;
      if (row < rows && column < columns)
        *(int4*)(to + (long long)row * pitch + column) = *(const int4*)(results + row * C_PITCH + column);
    }
  }
}
#endif

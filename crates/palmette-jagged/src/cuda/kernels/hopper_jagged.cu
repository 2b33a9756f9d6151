// jagged_jagged_bmm on Hopper: out [TERMS, COLUMNS] = x^T y for rows x [n, TERMS] and y [n, COLUMNS].
// A task is one row; each warpgroup has 64 of the terms.

static_assert(GROUPS * 64 == TERMS, "a warpgroup for each 64 terms");
const u32 PANEL = TOKENS * 128;
const u32 X_BYTES = PANEL * (TERMS / 64), Y_BYTES = PANEL * (COLUMNS / 64), BYTES = X_BYTES + Y_BYTES;

struct Barriers {
  u64 full[STAGES], empty[STAGES];
};

DEVICE void produce(const Products& a, const TensorMap* map_x, const TensorMap* map_y, u32 slices, u32 full,
                    Task* tasks) {
  const u32 empty = full + 8 * STAGES;
  Queue queue(a);
  wait_for_stream();
  u32 stage = 0, ring = 0;
  for (;;) {
    Task task;
    bool some = queue.pop(task);
    if (!some) task = {-1, 0, 0, 0};
    // A row of no tokens, and the end, take one stage with nothing in it.
    for (int t = 0; t == 0 || t < task.tokens; t += TOKENS) {
      barrier_wait(empty + 8 * stage, ring ^ 1);
      tasks[stage] = task;
      u32 target = slices + stage * BYTES;
      if (t < task.tokens) {
        barrier_expect(full + 8 * stage, BYTES);
#pragma unroll
        for (int p = 0; p < TERMS / 64; p++)
          tensor_load(target + p * PANEL, map_x, full + 8 * stage, p * 64, 0, task.token + t);
#pragma unroll
        for (int p = 0; p < COLUMNS / 64; p++)
          tensor_load(target + X_BYTES + p * PANEL, map_y, full + 8 * stage, task.column + p * 64, 0, task.token + t);
      } else {
        barrier_arrive(full + 8 * stage);
      }
      advance(stage, ring);
    }
    if (!some) return;
  }
}

DEVICE void consume(const Products& a, u32 slices, char* bytes, element* staging, u32 full, const Task* tasks) {
  const u32 empty = full + 8 * STAGES;
  int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  u32 stage = 0, ring = 0;
  for (;;) {
    barrier_wait(full + 8 * stage, ring);
    Task task = tasks[stage];
    if (task.row < 0) return;
    float sums[COLUMNS / 2];
#pragma unroll
    for (int e = 0; e < COLUMNS / 2; e++) sums[e] = 0.f;
    if (task.tokens == 0) {
      release(empty + 8 * stage);
      advance(stage, ring);
    }
    for (int t = 0; t < task.tokens; t += TOKENS) {
      barrier_wait(full + 8 * stage, ring);
      int tokens = min(task.tokens - t, TOKENS);
      u32 x = slices + stage * BYTES, y = x + X_BYTES;
      if (tokens < TOKENS) {
        // Tokens past the row belong to a neighbour, and 0 times its NaN would be NaN.
        const int PANELS = (TERMS + COLUMNS) / 64;
        int chunks = (TOKENS - tokens) * 8;
        for (int e = threadIdx.x; e < chunks * PANELS; e += CONSUMERS)
          *(int4*)(bytes + stage * BYTES + e / chunks * PANEL + tokens * 128 + e % chunks * 16) = make_int4(0, 0, 0, 0);
        fence_async();
        asm volatile("bar.sync 1, %0;" ::"n"(CONSUMERS) : "memory");
      }
      product_fence();
#pragma unroll
      for (int step = 0; step < TOKENS / 16; step++)
        Product<COLUMNS>::transposed(sums, descriptor(x + group * PANEL + step * 2048, PANEL),
                                     descriptor(y + step * 2048, PANEL), 1);
      product_commit();
      product_wait<0>();
      release(empty + 8 * stage);
      advance(stage, ring);
    }
    int first = group * 64 + warp * 16;
    write_rows(staging, sums, a.out + ((long long)task.row * a.terms + first) * a.columns + task.column, a.columns,
               a.terms - first, a.columns - task.column);
  }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32, 1)
    hopper_jagged(Products a, const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_y) {
  extern __shared__ char bytes[];
  __shared__ Barriers barriers;
  __shared__ Task tasks[STAGES];
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u, b = shared_address(&barriers);
  char* slices = bytes + (start - shared_address(bytes));
  element* staging = (element*)(slices + STAGES * BYTES);
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) barrier_init(b + 8 * s, 1), barrier_init_of_warps(b + 8 * (STAGES + s), 4 * GROUPS);
    fence_barrier_init();
  }
  __syncthreads();
  start_next();
  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x == CONSUMERS) produce(a, &map_x, &map_y, start, b, tasks);
  } else {
    wait_for_stream();
    consume(a, start, slices, staging + threadIdx.x / 32 * 16 * PITCH, b, tasks);
  }
}

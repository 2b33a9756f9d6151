// jagged_dense_bmm on Hopper: z = x y for rows x [n, TERMS] and each row's y [TERMS, COLUMNS], or
// its transpose. A task is some tokens of one row; its y stays in shared memory, that of the next
// arrives beside it, and warpgroups take tiles of 64 tokens in turn.

const u32 X_PANEL = TOKENS * 128, X_BYTES = X_PANEL * (TERMS / 64);
const u32 Y_PANEL = (Y_TRANSPOSED ? COLUMNS : TERMS) * 128, Y_BYTES = TERMS * COLUMNS * 2;

// A stage's slices all go to one group: it then sees every turn of the stage's barrier, of which a
// wait tells only odd from even.
static_assert(STAGES % GROUPS == 0, "stages are dealt evenly to groups");

struct Barriers {
  u64 y_full[2], y_empty[2], full[STAGES], empty[STAGES];
};

DEVICE void produce(const Products& a, const TensorMap* map_x, const TensorMap* map_y, u32 x, u32 y, u32 barriers,
                    Task* tasks) {
  const u32 y_full = barriers, y_empty = barriers + 16, full = barriers + 32, empty = full + 8 * STAGES;
  Queue queue(a);
  wait_for_stream();
  u32 stage = 0, ring = 0;
  for (u32 n = 0;; n++) {
    u32 which = n % 2, parity = n / 2 % 2;
    Task task;
    bool some = queue.pop(task);
    barrier_wait(y_empty + 8 * which, parity ^ 1);
    if (!some) {
      tasks[which].row = -1;
      barrier_arrive(y_full + 8 * which);
      return;
    }
    tasks[which] = task;
    barrier_expect(y_full + 8 * which, Y_BYTES);
#pragma unroll
    for (int p = 0; p < (Y_TRANSPOSED ? TERMS : COLUMNS) / 64; p++)
      tensor_load(y + which * Y_BYTES + p * Y_PANEL, map_y, y_full + 8 * which, Y_TRANSPOSED ? p * 64 : task.column + p * 64,
                  Y_TRANSPOSED ? task.column : 0, task.row);
    for (int t = 0; t < task.tokens; t += TOKENS) {
      barrier_wait(empty + 8 * stage, ring ^ 1);
      barrier_expect(full + 8 * stage, X_BYTES);
#pragma unroll
      for (int p = 0; p < TERMS / 64; p++)
        tensor_load(x + stage * X_BYTES + p * X_PANEL, map_x, full + 8 * stage, p * 64, 0, task.token + t);
      advance(stage, ring);
    }
  }
}

DEVICE void consume(const Products& a, u32 x, u32 y, element* staging, u32 barriers, const Task* tasks) {
  const u32 y_full = barriers, y_empty = barriers + 16, full = barriers + 32, empty = full + 8 * STAGES;
  int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  u32 stage = 0, ring = 0, turn = 0;
  for (u32 n = 0;; n++) {
    u32 which = n % 2;
    barrier_wait(y_full + 8 * which, n / 2 % 2);
    Task task = tasks[which];
    if (task.row < 0) return;
    u32 matrix = y + which * Y_BYTES;
    for (int t = 0; t < task.tokens; t += TOKENS) {
      if (turn == group) {
        float sums[COLUMNS / 2];
        barrier_wait(full + 8 * stage, ring);
        product_fence();
#pragma unroll
        for (int step = 0; step < TERMS / 16; step++) {
          u64 left = descriptor(x + stage * X_BYTES + step / 4 * X_PANEL + step % 4 * 32, 16);
#if Y_TRANSPOSED
          Product<COLUMNS>::shared(sums, left, descriptor(matrix + step / 4 * Y_PANEL + step % 4 * 32, 16), step > 0);
#else
          Product<COLUMNS>::columns(sums, left, descriptor(matrix + step * 2048, Y_PANEL), step > 0);
#endif
        }
        product_commit();
        product_wait<0>();
        release(empty + 8 * stage);
        int first = t + warp * 16;
        write_rows(staging, sums, a.out + (long long)(task.token + first) * a.columns + task.column, a.columns,
                   task.tokens - first, a.columns - task.column);
      }
      turn = turn + 1 == GROUPS ? 0 : turn + 1;
      advance(stage, ring);
    }
    release(y_empty + 8 * which);
  }
}

extern "C" __global__ void __launch_bounds__(CONSUMERS + 32, 1)
    hopper_dense(Products a, const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_y) {
  extern __shared__ char bytes[];
  __shared__ Barriers barriers;
  __shared__ Task tasks[2];
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u;
  u32 x = start, y = x + STAGES * X_BYTES, b = shared_address(&barriers);
  element* staging = (element*)(bytes + (y + 2 * Y_BYTES - shared_address(bytes)));
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; i++) barrier_init(b + 8 * i, 1), barrier_init_of_warps(b + 16 + 8 * i, 4 * GROUPS);
    for (int s = 0; s < STAGES; s++) barrier_init(b + 32 + 8 * s, 1), barrier_init_of_warps(b + 32 + 8 * (STAGES + s), 4);
    fence_barrier_init();
  }
  __syncthreads();
  start_next();
  if (threadIdx.x >= CONSUMERS) {
    if (threadIdx.x == CONSUMERS) produce(a, &map_x, &map_y, x, y, b, tasks);
  } else {
    wait_for_stream();
    consume(a, x, y, staging + threadIdx.x / 32 * 16 * PITCH, b, tasks);
  }
}

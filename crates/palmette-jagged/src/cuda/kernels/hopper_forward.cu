// Forward on Hopper: the tensor copy engine feeds K and V tiles to GROUPS warpgroups of
// 64 queries each, which multiply with wgmma and keep weights and sums in registers.
//
// One producer warp runs ahead through a ring of STAGES tiles. A consumer starts the
// scores of the next tile before the exponentials of this one, so the tensor cores work
// while the special function units do. The grid is persistent: a counter hands out
// (row, block of queries, head), longest row first.

const int D = HEAD_DIM, WIDTH = D <= 64 ? 64 : D <= 128 ? 128 : 256, PANELS = WIDTH / 64;
const int QUERIES = 64 * GROUPS;
const int CONSUMERS = 128 * GROUPS;
const u32 Q_PANEL = QUERIES * 128, K_PANEL = KEYS * 128;
const u32 Q_BYTES = Q_PANEL * PANELS, K_BYTES = K_PANEL * PANELS;

struct Barriers {
  u64 q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

// What the block works on: resolved by the producer, so that consumers do not wait for
// two dependent loads from device memory.
struct Task {
  Row row;
  int i0, head;  // head -1: no more work
};

DEVICE void produce(const Arguments& a, const TensorMap* map_q, const TensorMap* map_k, const TensorMap* map_v,
                    u32 q, u32 k, u32 v, u32 barriers, Task* shared_task) {
  const u32 q_full = barriers, q_empty = barriers + 8, k_full = barriers + 16, k_empty = k_full + 8 * STAGES,
            v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
  u32 total = (u32)a.task_count * a.heads, parity = 0, stage = 0, ring = 0;
  u32 last = total + gridDim.x - 1;  // the counter wraps to 0 when every block has seen the end
  u32 next = atomicInc(a.counter, last);
  for (;; parity ^= 1) {
    u32 work = next;
    bool end = work >= total;
    if (end) {
      barrier_wait(q_empty, parity ^ 1);
      shared_task->head = -1;
      barrier_arrive(q_full);
      return;
    }
    next = atomicInc(a.counter, last);
    int2 task = a.tasks[work / a.heads];
    int h = work % a.heads, g = h / a.group;
    Row r = row_of(a, task.x);
    int i0 = task.y * QUERIES, i1 = min(i0 + QUERIES, r.n_q);
    int first = first_key(a, r, i0) / KEYS * KEYS, end_k = end_key(a, r, i1);
    auto load_tile = [&](u32 tile, const TensorMap* map, u32 full, u32 empty, int j0) {
      barrier_wait(empty + 8 * stage, ring ^ 1);
      barrier_expect(full + 8 * stage, K_BYTES);
#pragma unroll
      for (int p = 0; p < PANELS; p++)
        tensor_load(tile + stage * K_BYTES + p * K_PANEL, map, full + 8 * stage, p * 64, g, (int)(r.start_k + j0));
    };
    // The first keys need not wait until the last task's queries are done with.
    if (first < end_k) load_tile(k, map_k, k_full, k_empty, first);
    barrier_wait(q_empty, parity ^ 1);
    *shared_task = {r, i0, h};
    barrier_expect(q_full, Q_BYTES);
#pragma unroll
    for (int p = 0; p < PANELS; p++) tensor_load(q + p * Q_PANEL, map_q, q_full, p * 64, h, (int)(r.start_q + i0));
    for (int j0 = first; j0 < end_k; j0 += KEYS) {
      if (j0 > first) load_tile(k, map_k, k_full, k_empty, j0);
      load_tile(v, map_v, v_full, v_empty, j0);
      if (++stage == STAGES) stage = 0, ring ^= 1;
    }
  }
}

DEVICE void consume(const Arguments& a, u32 q, u32 k, u32 v, char* v_bytes, u32 barriers, const Task* shared_task) {
  const u32 q_full = barriers, q_empty = barriers + 8, k_full = barriers + 16, k_empty = k_full + 8 * STAGES,
            v_full = k_empty + 8 * STAGES, v_empty = v_full + 8 * STAGES;
  int group = threadIdx.x / 128, t = threadIdx.x % 128, lane = t % 32;
  u32 parity = 0, stage = 0, ring = 0;
  const float scale_log2 = a.scale * LOG2E;
  q += group * 64 * 128;
  for (;; parity ^= 1) {
    barrier_wait(q_full, parity);
    int h = shared_task->head, i0 = shared_task->i0;
    if (h < 0) return;
    Row r = shared_task->row;
    int i1 = min(i0 + QUERIES, r.n_q);
    int first = first_key(a, r, i0) / KEYS * KEYS, end = end_key(a, r, i1);
    int own0 = i0 + group * 64, own1 = min(own0 + 64, r.n_q);
    // Tiles of the block that a mask hides from this group entirely are passed over.
    int own_first = first, own_end = end;
    if (own0 < r.n_q) {
      own_first = max(first, first_key(a, r, own0) / KEYS * KEYS);
      own_end = end_key(a, r, own1);
      if (own_first >= own_end) own_first = own_end = end;
    }
    int i = own0 + t / 32 * 16 + lane / 4;

    // Keeps the ring turning, in step with it, over tiles that are not this group's.
    auto pass = [&](int from, int to) {
      for (int j0 = from; j0 < to; j0 += KEYS) {
        barrier_wait(k_full + 8 * stage, ring);
        release(k_empty + 8 * stage);
        barrier_wait(v_full + 8 * stage, ring);
        release(v_empty + 8 * stage);
        if (++stage == STAGES) stage = 0, ring ^= 1;
      }
    };
    if (own0 >= r.n_q) {
      release(q_empty);
      pass(first, end);
      continue;
    }

    float sums[WIDTH / 2];
    u32 weights[KEYS / 4];
    Softmax softmax = {{NEG_INFINITY, NEG_INFINITY}, {0.f, 0.f}};
#pragma unroll
    for (int e = 0; e < WIDTH / 2; e++) sums[e] = 0.f;

    auto scores = [&](float* s, u32 at) {
      product_fence();
#pragma unroll
      for (int step = 0; step < WIDTH / 16; step++) {
        u32 panel = step / 4, column = step % 4 * 32;
        Product<KEYS>::shared(s, descriptor(q + panel * Q_PANEL + column, 16),
                              descriptor(k + at * K_BYTES + panel * K_PANEL + column, 16), step > 0);
      }
      product_commit();
    };
    auto weighted_values = [&](u32 at) {
      product_fence();
#pragma unroll
      for (int step = 0; step < KEYS / 16; step++)
        Product<WIDTH>::registers(sums, weights + step * 4, descriptor(v + at * K_BYTES + step * 2048, K_PANEL), 1);
      product_commit();
    };
    // Rows past the sequence belong to a neighbour; 0 times its NaN would be NaN.
    auto clear_tail = [&](u32 at, int j0) {
      if (j0 + KEYS <= r.n_k) return;
      for (int e = t; e < (KEYS - (r.n_k - j0)) * 8 * PANELS; e += 128) {
        int panel = e / ((KEYS - (r.n_k - j0)) * 8), x = e % ((KEYS - (r.n_k - j0)) * 8);
        *(int4*)(v_bytes + at * K_BYTES + panel * K_PANEL + (r.n_k - j0) * 128 + x * 16) = make_int4(0, 0, 0, 0);
      }
      fence_async();
      group_barrier(group);
    };
    auto masked = [&](int j0) {
      return j0 + KEYS > r.n_k || j0 + KEYS - 1 - own0 - r.shift > a.right || j0 - (own1 - 1) - r.shift < -a.left;
    };
    auto rescale = [&](const float* shrink) {
#pragma unroll
      for (int e = 0; e < WIDTH / 2; e++) sums[e] *= shrink[e / 2 % 2];
    };
    auto rounded = [&](const float* s) {
#pragma unroll
      for (int e = 0; e < KEYS / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
    };

    if (own_first > first) pass(first, min(own_first, end));
#if LOOKAHEAD
    if (own_first < own_end) {
      u32 v_stage, v_ring;
      {
        float s[KEYS / 2];
        barrier_wait(k_full + 8 * stage, ring);
        scores(s, stage);
        product_wait<0>();
        release(k_empty + 8 * stage);
        if (masked(own_first)) mask_tile<KEYS>(s, a, r, i, own_first, lane);
        float shrink[2];  // nothing to shrink yet
        softmax_tile<KEYS>(s, softmax, scale_log2, shrink);
        rounded(s);
        v_stage = stage, v_ring = ring;
        if (++stage == STAGES) stage = 0, ring ^= 1;
      }
      for (int j0 = own_first + KEYS; j0 < own_end; j0 += KEYS) {
        float s[KEYS / 2];
        barrier_wait(k_full + 8 * stage, ring);
        scores(s, stage);
        barrier_wait(v_full + 8 * v_stage, v_ring);
        weighted_values(v_stage);
        product_wait<1>();
        release(k_empty + 8 * stage);
        if (masked(j0)) mask_tile<KEYS>(s, a, r, i, j0, lane);
        float shrink[2];
        bool grown = softmax_tile<KEYS>(s, softmax, scale_log2, shrink);
        product_wait<0>();
        release(v_empty + 8 * v_stage);
        if (grown) rescale(shrink);
        rounded(s);
        v_stage = stage, v_ring = ring;
        if (++stage == STAGES) stage = 0, ring ^= 1;
      }
      release(q_empty);
      barrier_wait(v_full + 8 * v_stage, v_ring);
      clear_tail(v_stage, (own_end - 1) / KEYS * KEYS);
      weighted_values(v_stage);
      product_wait<0>();
      release(v_empty + 8 * v_stage);
#else
    if (own_first < own_end) {
      for (int j0 = own_first; j0 < own_end; j0 += KEYS) {
        float s[KEYS / 2];
        barrier_wait(k_full + 8 * stage, ring);
        scores(s, stage);
        product_wait<0>();
        release(k_empty + 8 * stage);
        if (j0 + KEYS >= own_end) release(q_empty);
        if (masked(j0)) mask_tile<KEYS>(s, a, r, i, j0, lane);
        float shrink[2];
        if (softmax_tile<KEYS>(s, softmax, scale_log2, shrink)) rescale(shrink);
        rounded(s);
        barrier_wait(v_full + 8 * stage, ring);
        clear_tail(stage, j0);
        weighted_values(stage);
        product_wait<0>();
        release(v_empty + 8 * stage);
        if (++stage == STAGES) stage = 0, ring ^= 1;
      }
#endif
    } else {
      release(q_empty);
    }
    if (own_first < own_end) pass((own_end + KEYS - 1) / KEYS * KEYS, end);

    finish<WIDTH>(a, r, sums, softmax, i, own1, h, lane);
  }
}

// Where registers are moved between warpgroups the producer is a whole warpgroup.
const int THREADS = CONSUMERS + (CONSUMER_REGISTERS ? 128 : 32);

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    hopper_forward(Arguments a, const __grid_constant__ TensorMap map_q, const __grid_constant__ TensorMap map_k,
                   const __grid_constant__ TensorMap map_v) {
  extern __shared__ char bytes[];
  __shared__ Barriers barriers;
  __shared__ Task task;
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u;
  char* aligned = bytes + (start - shared_address(bytes));
  u32 q = start, k = q + Q_BYTES, v = k + STAGES * K_BYTES, b = shared_address(&barriers);
  if (threadIdx.x == 0) {
    barrier_init(b, 1);
    barrier_init(b + 8, 4 * GROUPS);
    for (int s = 0; s < STAGES; s++) {
      barrier_init(b + 16 + 8 * s, 1);
      barrier_init(b + 16 + 8 * (STAGES + s), 4 * GROUPS);
      barrier_init(b + 16 + 8 * (2 * STAGES + s), 1);
      barrier_init(b + 16 + 8 * (3 * STAGES + s), 4 * GROUPS);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= CONSUMERS) {
#if CONSUMER_REGISTERS
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
#endif
    if (threadIdx.x == CONSUMERS) produce(a, &map_q, &map_k, &map_v, q, k, v, b, &task);
  } else {
#if CONSUMER_REGISTERS
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#endif
    consume(a, q, k, v, aligned + Q_BYTES + STAGES * K_BYTES, b, &task);
  }
}

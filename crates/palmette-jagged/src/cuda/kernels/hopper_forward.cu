// Forward on Hopper: the tensor copy engine feeds K and V tiles to GROUPS warpgroups of
// 64 queries each, which multiply with wgmma and keep weights and sums in registers.
//
// One producer warp runs ahead through a ring of STAGES tiles. A consumer starts the
// scores of the next tile before the exponentials of this one, so the tensor cores work
// while the special function units do. The grid is persistent: a counter hands out
// (row, block of queries, head), longest row first. Each warpgroup has its own queries, task and
// barriers for them: under a causal mask the first of them see fewer keys, and begin the next task
// while the others are still at this one.

const int D = HEAD_DIM, WIDTH = D <= 64 ? 64 : D <= 128 ? 128 : 256, PANELS = WIDTH / 64;
const int QUERIES = 64 * GROUPS;
const int CONSUMERS = 128 * GROUPS;
const u32 Q_PANEL = QUERIES * 128, K_PANEL = KEYS * 128;
const u32 Q_BYTES = Q_PANEL * PANELS, K_BYTES = K_PANEL * PANELS;

struct Barriers {
  u64 q_full[GROUPS], q_empty[GROUPS], k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};
// Where they lie.
struct BarriersAt {
  u32 q_full, q_empty, k_full, k_empty, v_full, v_empty;
  DEVICE BarriersAt(u32 b)
      : q_full(b), q_empty(b + 8 * GROUPS), k_full(b + 16 * GROUPS), k_empty(k_full + 8 * STAGES),
        v_full(k_empty + 8 * STAGES), v_empty(v_full + 8 * STAGES) {}
};

// What a warpgroup works on: resolved by the producer, so that consumers do not wait for
// two dependent loads from device memory.
struct Task {
  Row row;
  int i0, head;  // head -1: no more work
};
template <class From> DEVICE void assign(volatile Task& to, const From& from) {
  to.row.start_q = from.row.start_q, to.row.start_k = from.row.start_k;
  to.row.n_q = from.row.n_q, to.row.n_k = from.row.n_k, to.row.shift = from.row.shift;
  to.i0 = from.i0, to.head = from.head;
}

DEVICE void produce(const Arguments& a, const TensorMap* map_q, const TensorMap* map_k, const TensorMap* map_v,
                    u32 q, u32 k, u32 v, BarriersAt at, Task* tasks) {
  u32 total = (u32)a.task_count * a.heads, parity = 0, stage = 0, ring = 0;
  u32 last = total + gridDim.x - 1;  // the counter wraps to 0 when every block has seen the end
  u32 next = atomicInc(a.counter, last);
  for (;; parity ^= 1) {
    u32 work = next;
    if (work >= total) {
      for (int group = 0; group < GROUPS; group++) {
        barrier_wait(at.q_empty + 8 * group, parity ^ 1);
        tasks[group].head = -1;
        barrier_arrive(at.q_full + 8 * group);
      }
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
    // The producer has few registers: it keeps the task in shared memory, too.
    volatile Task& own = tasks[GROUPS];
    assign(own, Task{r, i0, h});
    auto load_queries = [&](int group) {
      barrier_wait(at.q_empty + 8 * group, parity ^ 1);
      assign(tasks[group], own);
      barrier_expect(at.q_full + 8 * group, Q_BYTES / GROUPS);
#pragma unroll
      for (int p = 0; p < PANELS; p++)
        tensor_load(q + p * Q_PANEL + group * 64 * 128, map_q, at.q_full + 8 * group, p * 64, own.head,
                    (int)own.row.start_q + own.i0 + group * 64);
    };
    // Neither the first keys nor the queries of the first groups wait until all groups are done
    // with the last task. Queries of group n come before tile n: from tile STAGES on, a place in
    // the ring is free only when every group has begun.
    static_assert(GROUPS <= STAGES + 1, "groups begin before the ring is full");
    int group = 0;
    if (first < end_k) load_tile(k, map_k, at.k_full, at.k_empty, first);
    for (int j0 = first; j0 < end_k; j0 += KEYS) {
      if (group < GROUPS) load_queries(group++);
      if (j0 > first) load_tile(k, map_k, at.k_full, at.k_empty, j0);
      load_tile(v, map_v, at.v_full, at.v_empty, j0);
      if (++stage == STAGES) stage = 0, ring ^= 1;
    }
    for (; group < GROUPS; group++) load_queries(group);
  }
}

DEVICE void consume(const Arguments& a, u32 q, u32 k, u32 v, char* v_bytes, BarriersAt at, const Task* tasks) {
  int group = threadIdx.x / 128, t = threadIdx.x % 128, lane = t % 32;
  u32 parity = 0, stage = 0, ring = 0;
  const float scale_log2 = a.scale * LOG2E;
  q += group * 64 * 128;
  const u32 q_full = at.q_full + 8 * group, q_empty = at.q_empty + 8 * group;
  const u32 k_full = at.k_full, k_empty = at.k_empty, v_full = at.v_full, v_empty = at.v_empty;
  for (;; parity ^= 1) {
    barrier_wait(q_full, parity);
    int h = tasks[group].head, i0 = tasks[group].i0;
    if (h < 0) return;
    Row r = tasks[group].row;
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
  __shared__ Task tasks[GROUPS + 1];  // of each warpgroup and the producer
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u;
  char* aligned = bytes + (start - shared_address(bytes));
  u32 q = start, k = q + Q_BYTES, v = k + STAGES * K_BYTES;
  BarriersAt at(shared_address(&barriers));
  if (threadIdx.x == 0) {
    for (int g = 0; g < GROUPS; g++) {
      barrier_init(at.q_full + 8 * g, 1);
      barrier_init_of_warps(at.q_empty + 8 * g, 4);
    }
    for (int s = 0; s < STAGES; s++) {
      barrier_init(at.k_full + 8 * s, 1);
      barrier_init_of_warps(at.k_empty + 8 * s, 4 * GROUPS);
      barrier_init(at.v_full + 8 * s, 1);
      barrier_init_of_warps(at.v_empty + 8 * s, 4 * GROUPS);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= CONSUMERS) {
#if CONSUMER_REGISTERS
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
#endif
    if (threadIdx.x == CONSUMERS) produce(a, &map_q, &map_k, &map_v, q, k, v, at, tasks);
  } else {
#if CONSUMER_REGISTERS
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#endif
    consume(a, q, k, v, aligned + Q_BYTES + STAGES * K_BYTES, at, tasks);
  }
}

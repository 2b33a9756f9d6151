// Backward on Hopper, deterministic, without atomics or a workspace: one kernel gives dK
// and dV (FOR_KEYS 1), the other dQ (FOR_KEYS 0). Both keep a block of 64 rows a
// warpgroup in place, stream tiles of the other side past it and recompute
// S = X A^T and dP = Y B^T, where (X, Y) are the block's rows and (A, B) the tile's:
// (K, V) and (Q, dO) for keys, the other way round for queries. Then
//   keys:    dV += P B, dK += dS A;     queries: dQ += dS A,
// with P and dS straight from registers, so nothing but inputs passes through shared
// memory. Seven products instead of five is the price of the order of sums.

DEVICE void consume(const Arguments& a, u32 x, u32 tiles, char* tile_bytes, const Statistics* statistics, u32 barriers,
                    const Work* shared_work) {
  const u32 block_full = barriers, block_empty = barriers + 8, full = barriers + 16, empty = full + 8 * STAGES;
  int group = threadIdx.x / 128, t = threadIdx.x % 128, lane = t % 32;
  u32 parity = 0, stage = 0, ring = 0;
  const float scale_log2 = a.scale * LOG2E;
  x += group * 64 * 128;
  for (;; parity ^= 1) {
    barrier_wait(block_full, parity);
    Work w = *shared_work;
    if (w.head < 0) return;
    int own0 = w.row0 + group * 64, own1 = min(own0 + 64, w.rows);
    int own = own0 + t / 32 * 16 + lane / 4;
    int length = FOR_KEYS ? w.row.n_q : w.row.n_k;

    float first_sums[WIDTH / 2], second_sums[FOR_KEYS ? WIDTH / 2 : 1];
#pragma unroll
    for (int e = 0; e < WIDTH / 2; e++) first_sums[e] = 0.f;
#pragma unroll
    for (int e = 0; e < (FOR_KEYS ? WIDTH / 2 : 1); e++) second_sums[e] = 0.f;
    float row_lse[2] = {0.f, 0.f}, row_delta[2] = {0.f, 0.f};
    if (!FOR_KEYS) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        long long from = w.head * a.tokens_q + w.row.start_q + own + e * 8;
        row_lse[e] = own + e * 8 < w.rows ? base_2(a.lse[from]) : -NEG_INFINITY;
        row_delta[e] = own + e * 8 < w.rows ? a.delta[from] : 0.f;
      }
    }

    int steps = w.end > w.first ? (w.end - w.first + TILE - 1) / TILE * w.members : 0;
    if (own0 >= w.rows) {
      // Nothing to do for this group: only keep the ring turning, in step with it.
      for (; steps > 0; steps--) {
        barrier_wait(full + 8 * stage, ring);
        release(empty + 8 * stage);
        if (++stage == STAGES) stage = 0, ring ^= 1;
      }
      release(block_empty);
      continue;
    }
    int at = w.first;
    for (int left = steps; left > 0; left--) {
      u32 tile = tiles + stage * 2 * A_BYTES;
      barrier_wait(full + 8 * stage, ring);
      // The distance grows with the key and falls with the query.
      int near = (FOR_KEYS ? own0 - (at + TILE - 1) : at - (own0 + 63)) - w.row.shift;
      int far = (FOR_KEYS ? own0 + 63 - at : at + TILE - 1 - own0) - w.row.shift;
      // A tile that the mask hides from this group alone.
      if (GROUPS > 1 && !OVERLAP && (near > a.right || far < -a.left)) {
        release(empty + 8 * stage);
        if (++stage == STAGES) stage = 0, ring ^= 1;
        at += TILE;
        if (at >= w.end) at = w.first;
        continue;
      }
      if (at + TILE > length) {
        char* rows = tile_bytes + stage * 2 * A_BYTES;
        clear_rows(rows, A_PANEL, length - at, TILE, t);
        clear_rows(rows + A_BYTES, A_PANEL, length - at, TILE, t);
        fence_async();
        group_barrier(group);
      }
      float s[TILE / 2], dp[TILE / 2];
      u32 weights[TILE / 4];
      product_fence();
      scores(s, x, tile);
      product_commit();
      scores(dp, x + X_BYTES, tile + A_BYTES);
      product_commit();
      product_wait<1>();
      // With OVERLAP the last tile's sums ran beside these scores and are done now.
      if (OVERLAP && left != steps) release(empty + 8 * (stage ? stage - 1 : STAGES - 1));
      const Statistics& columns = statistics[stage];
      weights_tile<TILE, FOR_KEYS>(s, scale_log2, row_lse, columns.lse, lane);
      if (far > a.right || near < -a.left || (!FOR_KEYS && at + TILE > length))
        mask_weights<TILE, FOR_KEYS>(s, a, w.row, own, at, lane);
      if (FOR_KEYS) {
#pragma unroll
        for (int e = 0; e < TILE / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
        product_fence();
        weighted(second_sums, weights, tile + A_BYTES);
        product_commit();
        product_wait<1>();
      } else {
        product_wait<0>();
      }
      u32 gradients[TILE / 4];
      gradients_tile<TILE, FOR_KEYS>(gradients, s, dp, row_delta, columns.delta, lane);
      product_fence();
      weighted(first_sums, gradients, tile);
      product_commit();
      if (!OVERLAP) {
        product_wait<0>();
        release(empty + 8 * stage);
      }
      if (++stage == STAGES) stage = 0, ring ^= 1;
      at += TILE;
      if (at >= w.end) at = w.first;  // the next member of the group
    }
    if (OVERLAP) product_wait<0>();
    if (OVERLAP && steps > 0) release(empty + 8 * (stage ? stage - 1 : STAGES - 1));
    release(block_empty);

#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (own + e * 8 >= own1) continue;
      if (FOR_KEYS) {
        int heads = a.heads / a.group;
        store<D>(a.dk, first_sums, w.row.start_k + own + e * 8, heads, w.head, lane, e, a.scale);
        store<D>(a.dv, second_sums, w.row.start_k + own + e * 8, heads, w.head, lane, e, 1.f);
      } else {
        store<D>(a.dq, first_sums, w.row.start_q + own + e * 8, a.heads, w.head, lane, e, a.scale);
      }
    }
  }
}

// Where registers are moved between warpgroups the producer is a whole warpgroup.
const int THREADS = CONSUMERS + (CONSUMER_REGISTERS ? 128 : 32);

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    hopper_backward(Arguments a, const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_y,
                    const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b) {
  extern __shared__ char bytes[];
  __shared__ Barriers barriers;
  __shared__ Statistics statistics[STAGES];
  __shared__ Work work;
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u;
  char* aligned = bytes + (start - shared_address(bytes));
  u32 b = shared_address(&barriers);
  if (threadIdx.x == 0) {
    barrier_init(b, 1);
    barrier_init_of_warps(b + 8, 4 * GROUPS);
    for (int s = 0; s < STAGES; s++) {
      barrier_init(b + 16 + 8 * s, FOR_KEYS ? 32 : 1);  // every lane that writes statistics arrives
      barrier_init_of_warps(b + 16 + 8 * (STAGES + s), 4 * GROUPS);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= CONSUMERS) {
#if CONSUMER_REGISTERS
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
#endif
    if (threadIdx.x < CONSUMERS + 32)
      produce(a, &map_x, &map_y, &map_a, &map_b, start, start + 2 * X_BYTES, statistics, b, 0, &work);
  } else {
#if CONSUMER_REGISTERS
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
#endif
    consume(a, start, start + 2 * X_BYTES, aligned + 2 * X_BYTES, statistics, b, &work);
  }
}

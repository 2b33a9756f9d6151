// Backward on Hopper with atomics: dK, dV and dQ from one pass, five products instead of
// the seven of hopper_backward.cu. A block keeps 64 keys a warpgroup in place and streams
// tiles of queries past them:
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ^T = K^T dS^T.
// The last product sums over the block's keys only, so its result is added to f32 sums in
// device memory, in whatever order blocks finish: results can differ in their last bits from
// run to run. (Adding through the copy engine measured up to a tenth slower.) The sums lie in blocks of 64 queries and 64 columns in
// the order of the product's fragments; finish_queries (support.cu) puts them in order.

// The warpgroups share dQ of a tile: QUERIES_EACH queries by 64 columns at a time.
const int UNITS = PANELS * TILE / QUERIES_EACH, EACH = UNITS / GROUPS;
const u32 DS_PANEL = ROWS * 128, DS_BYTES = DS_PANEL * ((TILE + 63) / 64);
static_assert(UNITS % GROUPS == 0, "warpgroups share dQ evenly");

DEVICE void all_consumers() { asm volatile("bar.sync 8, %0;" ::"n"(CONSUMERS) : "memory"); }

// This warp's 16 rows of dS^T into the swizzled matrix [ROWS, TILE].
DEVICE void store_gradients(u32 to, const u32* gradients, int row0, int lane) {
  u32 row = to + (row0 + lane / 8 % 2 * 8 + lane % 8) * 128;
#pragma unroll
  for (int j = 0; j < TILE / 8; j += 2) {
    u32 chunk = j % 8 + lane / 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::
                 "r"(row + j / 8 * DS_PANEL + ((chunk ^ (lane % 8)) << 4)),
                 "r"(gradients[j * 2]), "r"(gradients[j * 2 + 1]), "r"(gradients[j * 2 + 2]), "r"(gradients[j * 2 + 3])
                 : "memory");
  }
}

DEVICE void consume(const Arguments& a, u32 x, u32 tiles, char* bytes, u32 gradient_tiles,
                    const Statistics* statistics, u32 barriers, const Work* shared_work) {
  const u32 block_full = barriers, block_empty = barriers + 8, full = barriers + 16, empty = full + 8 * STAGES;
  int group = threadIdx.x / 128, t = threadIdx.x % 128, lane = t % 32;
  u32 parity = 0, stage = 0, ring = 0, turn = 0;
  const float scale_log2 = a.scale * LOG2E;
  const u32 own_x = x + group * 64 * 128;
  for (;; parity ^= 1) {
    barrier_wait(block_full, parity);
    Work w = *shared_work;
    if (w.head < 0) return;
    int own0 = w.row0 + group * 64, own1 = min(own0 + 64, w.rows);
    int own = own0 + t / 32 * 16 + lane / 4;
    // dQ sums over all keys of the block: those past the row must not bring in a neighbour's NaN.
    bool cut = own0 + 64 > w.rows;
    if (cut) {
      int from = max(w.rows - w.row0, group * 64), chunks = (group * 64 + 64 - from) * 8;
      for (int e = t; e < chunks * PANELS; e += 128) {
        char* at = bytes + e / chunks * X_PANEL + from * 128 + e % chunks * 16;
        *(int4*)at = *(int4*)(at + X_BYTES) = make_int4(0, 0, 0, 0);
      }
      fence_async();
      group_barrier(group);
    }
    float dk[WIDTH / 2], dv[WIDTH / 2];
#pragma unroll
    for (int e = 0; e < WIDTH / 2; e++) dk[e] = dv[e] = 0.f;

    int steps = w.end > w.first ? (w.end - w.first + TILE - 1) / TILE * w.members : 0, at = w.first, member = 0;
    for (int left = steps; left > 0; left--, turn ^= 1) {
      u32 tile = tiles + stage * 2 * A_BYTES, own_gradients = gradient_tiles + turn * DS_BYTES;
      barrier_wait(full + 8 * stage, ring);
      if (at + TILE > w.row.n_q) {
        char* rows = bytes + (tile - x);
        clear_rows(rows, w.row.n_q - at, t);
        clear_rows(rows + A_BYTES, w.row.n_q - at, t);
        fence_async();
        group_barrier(group);
      }
      u32 gradients[TILE / 4];
      {
        float s[TILE / 2], dp[TILE / 2];
        u32 weights[TILE / 4];
        product_fence();
        scores(s, own_x, tile);
        product_commit();
        scores(dp, own_x + X_BYTES, tile + A_BYTES);
        product_commit();
        product_wait<1>();
        const Statistics& columns = statistics[stage];
        weights_tile<TILE, true>(s, scale_log2, nullptr, columns.lse, lane);
        int near = own0 - (at + TILE - 1), far = own0 + 63 - at;
        if (far - w.row.shift > a.right || near - w.row.shift < -a.left || cut)
          mask_weights<TILE, true>(s, a, w.row, own, at, cut ? w.rows : 1 << 30, lane);
        // With LATE the gradients are made first, which takes fewer registers; otherwise dV runs
        // beside that.
        if (LATE) {
          product_wait<0>();
          gradients_tile<TILE, true>(gradients, s, dp, nullptr, columns.delta, lane);
        }
#pragma unroll
        for (int e = 0; e < TILE / 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
        product_fence();
        weighted(dv, weights, tile + A_BYTES);
        product_commit();
        if (!LATE) {
          product_wait<1>();
          gradients_tile<TILE, true>(gradients, s, dp, nullptr, columns.delta, lane);
        }
      }
      store_gradients(own_gradients, gradients, group * 64 + t / 32 * 16, lane);
      fence_async();
      all_consumers();
      // dQ first: it is added to device memory while dK's product runs.
      int head = w.head * a.group + member;
      long long blocks = head * (long long)a.query_blocks + a.first_block[w.b];
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        int unit = group + i * GROUPS, panel = unit % PANELS, query = unit / PANELS * QUERIES_EACH;
        u32 left_side = x + panel * X_PANEL;
        u32 right_side = own_gradients + query / 64 * DS_PANEL + query % 64 * 2;
        float dq[QUERIES_EACH / 2];
        product_fence();
#pragma unroll
        for (int step = 0; step < ROWS / 16; step++)
          Product<QUERIES_EACH>::transposed(dq, descriptor(left_side + step * 2048, X_PANEL),
                                            descriptor(right_side + step * 2048, DS_PANEL), step > 0);
        product_commit();
        if (i == EACH - 1) {
          weighted(dk, gradients, tile);
          product_commit();
          product_wait<1>();
        } else {
          product_wait<0>();
        }
        float* sums = a.dq_sums + ((blocks + at / 64) * PANELS + panel) * 4096 + t * 4;
        query += TILE % 64 ? at % 64 : 0;
#pragma unroll
        for (int c = 0; c < QUERIES_EACH / 8; c++) {
          // Eight queries lie within one block of 64.
          int q = query + c * 8, from = q / 64 * PANELS * 4096 + q % 64 * 64;
          if (at / 64 * 64 + q < w.row.n_q)
            asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(sums + from), "f"(dq[c * 4]),
                         "f"(dq[c * 4 + 1]), "f"(dq[c * 4 + 2]), "f"(dq[c * 4 + 3]) : "memory");
        }
      }
      product_wait<0>();
      release(empty + 8 * stage);
      if (++stage == STAGES) stage = 0, ring ^= 1;
      at += TILE;
      if (at >= w.end) at = w.first, member++;
    }
    release(block_empty);
#pragma unroll
    for (int e = 0; e < 2; e++) {
      if (own + e * 8 >= own1) continue;
      int heads = a.heads / a.group;
      store<D>(a.dk, dk, w.row.start_k + own + e * 8, heads, w.head, lane, e, a.scale);
      store<D>(a.dv, dv, w.row.start_k + own + e * 8, heads, w.head, lane, e, 1.f);
    }
  }
}

const int THREADS = CONSUMERS + 128;

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    hopper_backward_fast(Arguments a, const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_y,
                         const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b) {
  extern __shared__ char bytes[];
  __shared__ Barriers barriers;
  __shared__ Statistics statistics[STAGES];
  __shared__ Work work;
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u;
  u32 b = shared_address(&barriers);
  if (threadIdx.x == 0) {
    barrier_init(b, 1);
    barrier_init(b + 8, 4 * GROUPS);
    for (int s = 0; s < STAGES; s++) {
      barrier_init(b + 16 + 8 * s, 32);  // every lane that writes statistics arrives
      barrier_init(b + 16 + 8 * (STAGES + s), 4 * GROUPS);
    }
    fence_barrier_init();
  }
  __syncthreads();
  u32 tiles = start + 2 * X_BYTES, gradients = tiles + STAGES * 2 * A_BYTES;
  if (threadIdx.x >= CONSUMERS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
    if (threadIdx.x < CONSUMERS + 32)
      produce(a, &map_x, &map_y, &map_a, &map_b, start, tiles, statistics, b, &work);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
    consume(a, start, tiles, bytes + (start - shared_address(bytes)), gradients, statistics, b, &work);
  }
}

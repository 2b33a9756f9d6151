// Backward on Hopper with atomics: dK, dV and dQ from one pass, five products instead of
// the seven of hopper_backward.cu. A block keeps 64 keys a warpgroup in place and streams
// tiles of queries past them:
//   S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ^T = K^T dS^T.
// The last product sums over the block's keys only, so its result is added to f32 sums in
// device memory, in whatever order blocks finish: results can differ in their last bits from
// run to run. It goes there through shared memory, from where a warp of its own has the copy
// engine add it, while the warpgroups go on.
//
// The sums: for each row and head as many panels as a head has 64 columns, in each of those
// eight queries after eight queries, in the order of the product's fragments;
// finish_queries (support.cu) puts them in order. Another warp zeroes them while the first blocks
// are computed, rows in the order in which blocks need them; `zeroed` says how far it is.

// The warpgroups share dQ of a tile: SHARE queries by 64 columns each.
const int SHARE = PANELS * TILE / GROUPS;
static_assert(PANELS * TILE % GROUPS == 0 && SHARE <= TILE && SHARE % 8 == 0, "warpgroups share dQ evenly");
const u32 DS_PANEL = TILE * 128, DS_BYTES = DS_PANEL * GROUPS;
const u32 SUMS_BYTES = SHARE * 64 * 4;
static_assert(TILE >= 64, "64 columns of a warpgroup's dK or dV fit its place for dS");

struct SumsBarriers {
  u64 y_empty, full[GROUPS], empty[GROUPS];
};

DEVICE void all_consumers() { asm volatile("bar.sync 8, %0;" ::"n"(CONSUMERS) : "memory"); }
DEVICE void store_matrices(u32 to, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b), "r"(c),
               "r"(d) : "memory");
}

// 16 queries of this warp's 16 rows of dS^T as columns of dS, a swizzled matrix [TILE, 64] a
// warpgroup.
DEVICE void store_gradients(u32 to, const u32* x, int warp, int lane) {
  to += (lane / 16 * 8 + lane % 8) * 128 + ((warp * 2 + lane / 8 % 2 ^ lane % 8) << 4);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x[0]),
               "r"(x[1]), "r"(x[2]), "r"(x[3]) : "memory");
}

// This warp's 16 rows times `factor` to `out`, whose rows are `pitch` elements apart: the first
// `count` of them, 64 columns after the other. `at` is the warp's place in shared memory, 16 rows
// of 128 bytes, swizzled.
DEVICE void store_rows(element* out, long long pitch, const float* sums, float factor, int count, char* at, int lane) {
  int own = lane % 16;
  u32 to = shared_address(at) + own * 128;
#pragma unroll
  for (int p = 0; p < PANELS; p++) {
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      const float* x = sums + p * 32 + j * 4;
      store_matrices(to + ((j + lane / 16 ^ own % 8) << 4), pack(x[0] * factor, x[1] * factor),
                     pack(x[2] * factor, x[3] * factor), pack(x[4] * factor, x[5] * factor),
                     pack(x[6] * factor, x[7] * factor));
    }
    __syncwarp();
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int row = e * 4 + lane / 8, chunk = lane % 8;
      if (row < count && p * 64 + chunk * 8 < D)
        *(int4*)(out + row * pitch + p * 64 + chunk * 8) = *(const int4*)(at + row * 128 + ((chunk ^ row % 8) << 4));
    }
    __syncwarp();
  }
}

// A thread of the producers for each warpgroup: adds its shares of dQ to the sums. It reads its work
// where that lies: with one spilled register here the assembler serialises every product.
DEVICE void add_sums(const Arguments& a, int group, u32 share, u32 barriers, u32 full, u32 empty,
                     const volatile Work& w) {
  const u32 block_full = barriers, block_empty = barriers + 8;
  const int panel = group % PANELS, share0 = group / PANELS * SHARE;
  u32 turn = 0;
  for (u32 parity = 0;; parity ^= 1) {
    barrier_wait(block_full, parity);
    if (w.head < 0) break;
    int steps = max(w.end - w.first + TILE - 1, 0) / TILE * w.members;
    const int top = max(w.end - w.first + TILE - 1, 0) / TILE * TILE - TILE;
    int at = w.first + top + share0;
    float* to = nullptr;
    if (steps > 0) {
      u32 zeroed;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(zeroed) : "l"(a.zeroed + w.b) : "memory");
      while (zeroed < (u32)w.blocks);
      // What others stored comes before what the copy engine adds.
      asm volatile("fence.proxy.async.global;" ::: "memory");
      long long panels = ((long long)w.first_sums * a.heads + w.head * a.group * w.blocks) * PANELS + w.blocks * panel;
      to = a.dq_sums + panels * 4096 + at * 64;
    } else {
      barrier_arrive(block_empty);
    }
    for (; steps > 0; steps--, turn ^= 1) {
      // Queries before the first that sees a key of the block have nothing to add.
      int from = max(max(w.row0 - w.row.shift - a.right, 0) / 8 * 8 - at, 0);
      int count = min((w.row.n_q - at + 7) / 8 * 8, SHARE) - from;
      if (steps == 1) barrier_arrive(block_empty);
      barrier_wait(full, turn);
      if (count > 0) {
        asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to + from * 64),
                     "r"(share + from * 256), "r"(count * 256) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
      }
      barrier_arrive(empty);
      at -= TILE, to -= TILE * 64;
      if (steps > 1 && at - share0 < w.first) {
        // The next head of the group.
        to += (long long)w.blocks * PANELS * 4096 + (w.first + top + share0 - at) * 64;
        at = w.first + top + share0;
      }
    }
  }
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// A warp of the producers: zeroes the sums, a block of 64 queries of all heads at a time.
DEVICE void zero_sums(const Arguments& a) {
  for (;;) {
    u32 next = 0;
    if (threadIdx.x % 32 == 0) next = atomicAdd(a.zeroed + a.rows, 1);
    next = __shfl_sync(~0u, next, 0);
    if (next >= (u32)a.block_count) return;
    int2 block = a.blocks[next];
    int blocks = (row_of(a, block.x).n_q + 63) / 64;
    float4* to = (float4*)a.dq_sums + ((long long)a.first_block[block.x] * a.heads * PANELS + block.y) * 1024;
    for (int piece = 0; piece < a.heads * PANELS; piece++, to += (long long)blocks * 1024)
#pragma unroll 8
      for (int e = threadIdx.x % 32; e < 1024; e += 32) to[e] = make_float4(0.f, 0.f, 0.f, 0.f);
    __threadfence();
    __syncwarp();
    if (threadIdx.x % 32 == 0) atomicAdd(a.zeroed + block.x, 1);
  }
}

// Waits for a tile; its rows past the sequence belong to a neighbour.
DEVICE void await_tile(u32 full, u32 ring, char* rows, int count, int group, int t) {
  barrier_wait(full, ring);
  if (count < TILE) {
    clear_rows(rows, A_PANEL, count, TILE, t);
    clear_rows(rows + A_BYTES, A_PANEL, count, TILE, t);
    fence_async();
    group_barrier(group);
  }
}

DEVICE void consume(const Arguments& a, u32 x, u32 tiles, char* bytes, u32 gradient_tiles, u32 shares,
                    const Statistics* statistics, u32 barriers, u32 sums_barriers,
                    const Work* shared_work) {
  const u32 block_full = barriers, block_empty = barriers + 8, full = barriers + 16, empty = full + 8 * STAGES;
  const int group = own_group(), t = threadIdx.x % 128, lane = t % 32, warp = t / 32;
  const u32 y_empty = sums_barriers, sums_full = y_empty + 8 + 8 * group, sums_empty = sums_full + 8 * GROUPS;
  u32 parity = 0, stage = 0, ring = 0, turn = 0, sums_parity = 1;
  const float scale_log2 = a.scale * LOG2E;
  const u32 own_x = x + group * 64 * 128;
  const u32 share = shares + group * SUMS_BYTES;
  const int panel = group % PANELS, share0 = group / PANELS * SHARE;
  for (;; parity ^= 1) {
    barrier_wait(block_full, parity);
    Work w = *shared_work;
    if (w.head < 0) break;
    int own0 = w.row0 + group * 64, own1 = min(own0 + 64, w.rows);
    int own = own0 + warp * 16 + lane / 4;
    // dQ sums over all keys of the block: those past the row must not bring in a neighbour's NaN.
    bool cut = own0 + 64 > w.rows;
    if (cut) {
      int from = max(w.rows - w.row0, group * 64);
      clear_rows(bytes, X_PANEL, from, group * 64 + 64, t);
      clear_rows(bytes + X_BYTES, X_PANEL, from, group * 64 + 64, t);
      fence_async();
      group_barrier(group);
    }
    float dk[WIDTH / 2], dv[WIDTH / 2];
#pragma unroll
    for (int e = 0; e < WIDTH / 2; e++) dk[e] = dv[e] = 0.f;

    int steps = w.steps(), at = w.begin();
    // dQ of a tile: this group's share, over the keys of all.
    auto multiply_queries = [&](float* dq, u32 own_gradients) {
      u32 left_side = matrix(x + panel * X_PANEL, X_PANEL), right_side = matrix(own_gradients + share0 * 128, 16);
      product_fence();
#pragma unroll
      for (int step = 0; step < ROWS / 16; step++)
        Product<SHARE>::left_transposed(dq, further(left_side, step * 2048),
                                        further(right_side, step / 4 * DS_PANEL + step % 4 * 32), step > 0);
      product_commit();
    };
    // Hands it to the thread that adds it to the sums.
    auto add_queries = [&](const float* dq) {
      barrier_wait(sums_empty, sums_parity);
      sums_parity ^= 1;
      float4* to = (float4*)(bytes + (share - x)) + t;
#pragma unroll
      for (int c = 0; c < SHARE / 8; c++) to[c * 128] = make_float4(dq[c * 4], dq[c * 4 + 1], dq[c * 4 + 2], dq[c * 4 + 3]);
      fence_async();
      release(sums_full);
    };
    auto next_tile = [&]() {
      release(empty + 8 * stage);
      if (++stage == STAGES) stage = 0, ring ^= 1;
      w.advance(at);
    };
    // dK and dV, through a place of score gradients that nobody reads any more.
    auto store_keys = [&](u32 place) {
      char* own_rows = bytes + (place - x) + group * DS_PANEL + warp * 16 * 128;
      int heads = a.heads / a.group, count = own1 - own0 - warp * 16;
      long long first = ((w.row.start_k + own0 + warp * 16) * heads + w.head) * D;
      store_rows((element*)a.dv + first, heads * D, dv, 1.f, count, own_rows, lane);
      store_rows((element*)a.dk + first, heads * D, dk, a.scale, count, own_rows, lane);
      group_barrier(group);
    };
    bool stored = false;
    for (int left = steps; left > 0; left--, turn ^= 1) {
      u32 tile = tiles + stage * 2 * A_BYTES, own_gradients = gradient_tiles + turn * DS_BYTES;
      int near = own0 - (at + TILE - 1) - w.row.shift, far = own0 + 63 - at - w.row.shift;
      // Hidden from this group, by the mask or the keys' end: its part of dS is zero.
      if (own0 >= w.rows || near > a.right || far < -a.left) {
        // The last tile is nothing to this group: its sums leave while the others are at it.
        if (left == 1) store_keys(own_gradients), stored = true;
        barrier_wait(full + 8 * stage, ring);
        if (left == 1) release(y_empty);
        for (int e = t; e < (int)DS_PANEL / 16; e += 128)
          *(int4*)(bytes + (own_gradients - x) + group * DS_PANEL + e * 16) = make_int4(0, 0, 0, 0);
        fence_async();
        all_consumers();
        float dq[SHARE / 2];
        multiply_queries(dq, own_gradients);
        product_wait<0>();
        if (left == 1) release(block_empty);
        add_queries(dq);
        next_tile();
        continue;
      }
      await_tile(full + 8 * stage, ring, bytes + (tile - x), w.row.n_q - at, group, t);
      u32 gradients[TILE / 4];
      {
        float s[TILE / 2], dp[TILE / 2];
        product_fence();
        scores(s, own_x, tile);
        product_commit();
        scores(dp, own_x + X_BYTES, tile + A_BYTES);
        product_commit();
        product_wait<1>();
        weights_tile<TILE, true>(s, scale_log2, nullptr, statistics[stage].lse, lane);
        if (far > a.right || near < -a.left) mask_weights<TILE, true>(s, a, w.row, own, at, lane);
        if (cut) {
#pragma unroll
          for (int e = 0; e < TILE / 2; e++)
            if (own + e / 2 % 2 * 8 >= w.rows) s[e] = 0.f;
        }
        product_wait<0>();
        if (left == 1) release(y_empty);
        float2 delta[TILE / 8];
#pragma unroll
        for (int j = 0; j < TILE / 8; j++) delta[j] = *(const float2*)(statistics[stage].delta + j * 8 + (lane & 3) * 2);
        // Sixteen queries after the other, so that dV's product begins early. Their gradients
        // leave the registers before it does, or the assembler finds too few.
        u32 right_side = matrix(tile + A_BYTES, A_PANEL), weights[TILE / 4];
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
#pragma unroll
          for (int e = step * 4; e < step * 4 + 4; e++)
            gradients[e] = pack(s[e * 2] * (dp[e * 2] - delta[e / 2].x), s[e * 2 + 1] * (dp[e * 2 + 1] - delta[e / 2].y));
          store_gradients(own_gradients + group * DS_PANEL + step * 2048, gradients + step * 4, warp, lane);
#pragma unroll
          for (int e = step * 4; e < step * 4 + 4; e++) weights[e] = pack(s[e * 2], s[e * 2 + 1]);
          product_fence();
          Product<WIDTH>::registers(dv, weights + step * 4, further(right_side, step * 2048), 1);
        }
        product_commit();
      }
      fence_async();
      all_consumers();
      // dQ first: it goes its way while dK's product runs.
      {
        float dq[SHARE / 2];
        multiply_queries(dq, own_gradients);
        weighted(dk, gradients, tile);
        product_commit();
        product_wait<1>();
        if (left == 1) release(block_empty);
        add_queries(dq);
      }
      product_wait<0>();
      next_tile();
    }
    if (steps == 0) release(y_empty), release(block_empty);
    if (!stored) store_keys(gradient_tiles + turn * DS_BYTES);
  }
}

const int THREADS = CONSUMERS + 128;
static_assert(GROUPS <= 2, "a warp of the producers for each warpgroup, one for tiles and one for zeros");

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    hopper_backward_fast(Arguments a, const __grid_constant__ TensorMap map_x, const __grid_constant__ TensorMap map_y,
                         const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b) {
  extern __shared__ char bytes[];
  __shared__ Barriers barriers;
  __shared__ SumsBarriers sums_barriers;
  __shared__ Statistics statistics[STAGES];
  __shared__ Work work;
  // The swizzle's pattern repeats every 1024 bytes.
  u32 start = (shared_address(bytes) + 1023) & ~1023u;
  u32 b = shared_address(&barriers), s = shared_address(&sums_barriers);
  if (threadIdx.x == 0) {
    barrier_init(b, 1);
    barrier_init(b + 8, 4 * GROUPS * ARRIVALS + GROUPS);  // and the threads that add
    for (int i = 0; i < STAGES; i++) {
      barrier_init(b + 16 + 8 * i, 32);  // every lane that writes statistics arrives
      barrier_init_of_warps(b + 16 + 8 * (STAGES + i), 4 * GROUPS);
    }
    barrier_init_of_warps(s, 4 * GROUPS);
    for (int g = 0; g < GROUPS; g++) barrier_init_of_warps(s + 8 + 8 * g, 4), barrier_init(s + 8 + 8 * (GROUPS + g), 1);
    fence_barrier_init();
  }
  __syncthreads();
  u32 tiles = start + 2 * X_BYTES, gradients = tiles + STAGES * 2 * A_BYTES, shares = gradients + 2 * DS_BYTES;
  if (threadIdx.x >= CONSUMERS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
    int warp = __shfl_sync(~0u, (threadIdx.x - CONSUMERS) / 32, 0);
    if (warp == 3) {
      zero_sums(a);
    } else if (warp == 0) {
      produce(a, &map_x, &map_y, &map_a, &map_b, start, tiles, statistics, b, s, &work);
    } else if (warp <= GROUPS && threadIdx.x % 32 == 0) {
      int g = warp - 1;
      add_sums(a, g, shares + g * SUMS_BYTES, b, s + 8 + 8 * g, s + 8 + 8 * (GROUPS + g), work);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
    consume(a, start, tiles, bytes + (start - shared_address(bytes)), gradients, shares, statistics, b, s,
            &work);
  }
}

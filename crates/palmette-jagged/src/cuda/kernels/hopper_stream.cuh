// What the Hopper backward kernels share: a block of 64 rows a warpgroup stays in place
// (X, Y), tiles of the other side (A, B) stream past it through a ring that one producer
// warp fills: (K, V) and (Q, dO) where the block's rows are keys (FOR_KEYS 1), the other way
// round where they are queries.

const int D = HEAD_DIM, WIDTH = D <= 64 ? 64 : 128, PANELS = WIDTH / 64;
const int ROWS = 64 * GROUPS;
const int CONSUMERS = 128 * GROUPS;
const u32 X_PANEL = ROWS * 128, A_PANEL = TILE * 128;
const u32 X_BYTES = X_PANEL * PANELS, A_BYTES = A_PANEL * PANELS;
static_assert(HEAD_DIM <= 128, "sums of two gradients fit the registers up to 128");

struct Barriers {
  u64 block_full, block_empty, full[STAGES], empty[STAGES];
};
// Log-sum-exp (base 2) and delta of a tile's queries.
struct Statistics {
  float lse[TILE], delta[TILE];
};

#ifndef FAST
#define FAST 0
#endif
// What a block has to do: resolved by the producer, so that consumers do not wait for two
// dependent loads from device memory.
struct Work {
  Row row;
  int b, head, row0, rows, first, end, members;
#if FAST
  // Where the f32 sums of the row's queries lie: how many blocks of 64 are before them, and how
  // many they are themselves.
  int first_sums, blocks;
#endif
  DEVICE int tiles() const { return max(end - first + TILE - 1, 0) / TILE; }
  DEVICE int steps() const { return tiles() * members; }
  // The fast backward takes the last tile first, and ends with the one that a causal mask cuts.
  DEVICE int begin() const { return FAST ? first + (tiles() - 1) * TILE : first; }
  // To the next tile; whether that is the next member's.
  DEVICE bool advance(int& at) const {
    at += FAST ? -TILE : TILE;
    if (FAST ? at >= first : at < end) return false;
    at = begin();
    return true;
  }
};
DEVICE Work work_of(const Arguments& a, u32 work) {
  int heads = FOR_KEYS ? a.heads / a.group : a.heads;
  int2 task = a.tasks[work / heads];
  Work w;
  w.head = work % heads;
  w.b = task.x;
  w.row = row_of(a, task.x);
  w.row0 = task.y * ROWS;
  w.rows = FOR_KEYS ? w.row.n_k : w.row.n_q;
  int row1 = min(w.row0 + ROWS, w.rows);
  w.first = (FOR_KEYS ? first_query(a, w.row, w.row0) : first_key(a, w.row, w.row0)) / TILE * TILE;
  w.end = FOR_KEYS ? end_query(a, w.row, row1) : end_key(a, w.row, row1);
  w.members = FOR_KEYS ? a.group : 1;
#if FAST
  // Tiles end where the queries do, so that a causal mask hides what they have too many of.
  int first = first_query(a, w.row, w.row0) / 8 * 8, length = max(w.end - first, 0);
  w.first = max(first - (TILE - 1 - (length + TILE - 1) % TILE) / 8 * 8, 0);
  w.first_sums = a.first_block[task.x];
  w.blocks = (w.row.n_q + 63) / 64;
#endif
  return w;
}
// Keeps blocks and tiles coming. `y_empty` is the barrier at which consumers have left Y, where
// they do before they leave X (0: together with X): then Y and the first tile of the next block
// arrive while the last tile of this one is computed.
DEVICE void produce(const Arguments& a, const TensorMap* map_x, const TensorMap* map_y, const TensorMap* map_a,
                    const TensorMap* map_b, u32 x, u32 tiles, Statistics* statistics, u32 barriers, u32 y_empty,
                    Work* shared_work) {
  const u32 block_full = barriers, block_empty = barriers + 8, full = barriers + 16, empty = full + 8 * STAGES;
  int lane = threadIdx.x % 32;
  u32 total = (u32)a.task_count * (FOR_KEYS ? a.heads / a.group : a.heads), last = total + gridDim.x - 1;
  u32 parity = 0, stage = 0, ring = 0;
  for (;; parity ^= 1) {
    u32 work = 0;
    if (lane == 0) work = atomicInc(a.counter, last);
    work = __shfl_sync(~0u, work, 0);
    Work w = work_of(a, work < total ? work : 0);
    if (work >= total) {
      barrier_wait(block_empty, parity ^ 1);
      if (lane == 0) shared_work->head = -1, barrier_arrive(block_full);
      return;
    }
    long long start_x = FOR_KEYS ? w.row.start_k : w.row.start_q;
    long long start_a = FOR_KEYS ? w.row.start_q : w.row.start_k;
    if (y_empty) {
      barrier_wait(y_empty, parity ^ 1);
      if (lane == 0)
#pragma unroll
        for (int p = 0; p < PANELS; p++)
          tensor_load(x + X_BYTES + p * X_PANEL, map_y, block_full, p * 64, w.head, (int)start_x + w.row0);
    }
    int steps = w.steps(), at = w.begin(), member = 0;
    for (int step = 0; step <= steps; step++) {
      // With an early Y the first tile, too, is on its way before X is.
      if (step == (y_empty ? min(steps, 1) : 0)) {
        barrier_wait(block_empty, parity ^ 1);
        if (lane == 0) {
          *shared_work = w;
          barrier_expect(block_full, 2 * X_BYTES);
#pragma unroll
          for (int p = 0; p < PANELS; p++) {
            tensor_load(x + p * X_PANEL, map_x, block_full, p * 64, w.head, (int)start_x + w.row0);
            if (!y_empty)
              tensor_load(x + X_BYTES + p * X_PANEL, map_y, block_full, p * 64, w.head, (int)start_x + w.row0);
          }
        }
      }
      if (step == steps) break;
      int head = FOR_KEYS ? w.head * a.group + member : w.head / a.group;
      float lse[(TILE + 31) / 32], delta[(TILE + 31) / 32];
      if (FOR_KEYS) {
#pragma unroll
        for (int e = 0; e < (TILE + 31) / 32; e++) {
          int i = at + lane + e * 32;
          long long from = head * a.tokens_q + start_a + i;
          lse[e] = i < w.row.n_q ? base_2(a.lse[from]) : -NEG_INFINITY;
          delta[e] = i < w.row.n_q ? a.delta[from] : 0.f;
        }
      }
      barrier_wait(empty + 8 * stage, ring ^ 1);
      if (FOR_KEYS) {
#pragma unroll
        for (int e = 0; e < (TILE + 31) / 32; e++) {
          if (lane + e * 32 >= TILE) break;
          statistics[stage].lse[lane + e * 32] = lse[e];
          statistics[stage].delta[lane + e * 32] = delta[e];
        }
        if (lane) barrier_arrive(full + 8 * stage);
      }
      if (lane == 0) {
        u32 target = tiles + stage * 2 * A_BYTES;
        barrier_expect(full + 8 * stage, 2 * A_BYTES);
#pragma unroll
        for (int p = 0; p < PANELS; p++) {
          tensor_load(target + p * A_PANEL, map_a, full + 8 * stage, p * 64, head, (int)start_a + at);
          tensor_load(target + A_BYTES + p * A_PANEL, map_b, full + 8 * stage, p * 64, head, (int)start_a + at);
        }
      }
      if (++stage == STAGES) stage = 0, ring ^= 1;
      member += w.advance(at);
    }
  }
}

// [64, TILE] = this group's rows of X times the tile's rows, both K-major.
DEVICE void scores(float* s, u32 x, u32 tile) {
  u32 left = matrix(x, 16), right = matrix(tile, 16);
#pragma unroll
  for (int step = 0; step < WIDTH / 16; step++) {
    u32 panel = step / 4, column = step % 4 * 32;
    Product<TILE>::shared(s, further(left, panel * X_PANEL + column), further(right, panel * A_PANEL + column),
                          step > 0);
  }
}
// sums [64, WIDTH] += weights [64, TILE] times the tile's rows.
DEVICE void weighted(float* sums, const u32* weights, u32 tile) {
  u32 right = matrix(tile, A_PANEL);
#pragma unroll
  for (int step = 0; step < TILE / 16; step++)
    Product<WIDTH>::registers(sums, weights + step * 4, further(right, step * 2048), 1);
}

// Rows past the sequence belong to a neighbour, and 0 times its NaN would be NaN.
DEVICE void clear_rows(char* tile, u32 panel_bytes, int from, int end, int t) {
  for (int row = from + t / 8; row < end; row += 16)
#pragma unroll
    for (int p = 0; p < PANELS; p++)
      *(int4*)(tile + p * panel_bytes + row * 128 + t % 8 * 16) = make_int4(0, 0, 0, 0);
}

// Softmax over the elements of each jagged row, separately for every column.
//
// A row and up to 128 bytes of its columns (a line of memory) take a warp or, the longer it is, a
// quarter, half or whole block; each lane follows its own vector through the row, SLOTS of them on
// their way at a time. A lane keeps them in shared memory that no other lane touches, so that nothing waits at
// a barrier while a row arrives, and reads a second time only what no longer fits.
// The host defines THREADS, BLOCKS (on a multiprocessor), SLOTS and, of these, DEPTH batches.

struct Rows {
  const element *x, *y;
  element* out;
  const longlong2* list;  // each row's start and length, longest first
  int ends[4];            // of the rows that take a block, half of one, a quarter, a warp
  int vectors, parts, columns_log;
};

const int WARPS = THREADS / 32, LINE = 128 / sizeof(element);

extern __shared__ __align__(16) Pack shared[];

constexpr DEVICE int log2_of(int x) { return x == 1 ? 0 : 1 + log2_of(x / 2); }

// What a thread has of a row.
struct Part {
  long long at;  // its first vector
  int count, lanes_log;
  int warps, first_warp;  // that share the row
};
DEVICE Part part_of(const Rows& a) {
  int block = blockIdx.x, part = 0, row = 0, end = 0;
  if (a.parts > 1) block = blockIdx.x / a.parts, part = blockIdx.x % a.parts;
  Part p;
#pragma unroll
  for (int s = 0, begin = 0; s < 4; begin = a.ends[s++]) {
    const int warps_log = s < 3 ? log2_of(WARPS) - s : 0, each = WARPS >> warps_log;
    int blocks = (a.ends[s] - begin + each - 1) / each;
    if (block >= 0 && block < blocks) {
      p.warps = 1 << warps_log, p.lanes_log = 5 + warps_log - a.columns_log;
      row = begin + block * each + (threadIdx.x / 32 >> warps_log), end = a.ends[s];
    }
    block -= blocks;
  }
  p.first_warp = threadIdx.x / 32 & -p.warps;
  int t = threadIdx.x - p.first_warp * 32, lane = t >> a.columns_log;
  int column = (part << a.columns_log) + (t & ((1 << a.columns_log) - 1));
  // A thread without a column or row has no elements, and takes part in what the others exchange.
  bool some = row < end && column < a.vectors;
  longlong2 range = some ? a.list[row] : make_longlong2(0, 0);
  p.count = ((u32)range.y - lane + (1 << p.lanes_log) - 1) >> p.lanes_log;
  p.at = (range.x + lane) * a.vectors + column;
  return p;
}
// Waits for the warps that share the row.
DEVICE void meet(const Part& p) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + p.first_warp / p.warps), "r"(p.warps * 32) : "memory");
}

DEVICE Pack filled(float x) {
  Pack r;
#pragma unroll
  for (int e = 0; e < VECTOR; e++) r.e[e] = narrow(x);
  return r;
}
DEVICE void unpack(float* x, const Pack& p) {
#pragma unroll
  for (int e = 0; e < VECTOR; e++)
#if ELEMENT == 1 && VECTOR > 1
    // One instruction each: a bf16 is the upper half of its f32.
    x[e] = __uint_as_float(e % 2 ? ((const u32*)&p)[e / 2] & 0xffff0000u : ((const u32*)&p)[e / 2] << 16);
#else
    x[e] = widen(p.e[e]);
#endif
}
DEVICE Pack most(const Pack& x, const Pack& y) {
  Pack r;
#if ELEMENT == 0 || VECTOR == 1
#pragma unroll
  for (int e = 0; e < VECTOR; e++) r.e[e] = narrow(fmaxf(widen(x.e[e]), widen(y.e[e])));
#else
#pragma unroll
  for (int e = 0; e < VECTOR / 2; e++)
#if ELEMENT == 1
    asm("max.bf16x2 %0, %1, %2;" : "=r"(((u32*)&r)[e]) : "r"(((const u32*)&x)[e]), "r"(((const u32*)&y)[e]));
#else
    asm("max.f16x2 %0, %1, %2;" : "=r"(((u32*)&r)[e]) : "r"(((const u32*)&x)[e]), "r"(((const u32*)&y)[e]));
#endif
#endif
  return r;
}
// Whether an element of x is above that of the limit.
DEVICE bool above(const Pack& x, const Pack& limit) {
  bool any = false;
#if ELEMENT == 0 || VECTOR == 1
#pragma unroll
  for (int e = 0; e < VECTOR; e++) any |= widen(x.e[e]) > widen(limit.e[e]);
#else
  Pack r = most(x, limit);
#pragma unroll
  for (int e = 0; e < VECTOR / 2; e++) any |= ((const u32*)&r)[e] != ((const u32*)&limit)[e];
#endif
  return any;
}
DEVICE float inverse(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return x == 0.f ? 0.f : r;  // a NaN stays one
}

// The vectors of one thread, of INPUTS tensors, in batches of BATCH; a batch's vectors past the
// end of the row are `neutral`.
template <int INPUTS> struct Lane {
  static const int BATCH = SLOTS / DEPTH / INPUTS, PITCH = BATCH * INPUTS * THREADS;
  static_assert(BATCH * DEPTH * INPUTS == SLOTS, "batches fill the slots");
  const char* from[INPUTS];  // of the batch that is fetched next
  long long step;            // bytes from a vector to the next
  int count, batches;
  u32 last;  // where the last batch lies
  float neutral;

  DEVICE Lane(const Rows& a, const Part& p, float neutral) : neutral(neutral) {
    from[0] = (const char*)a.x + p.at * sizeof(Pack);
    if (INPUTS == 2) from[INPUTS - 1] = (const char*)a.y + p.at * sizeof(Pack);
    step = (long long)(a.vectors << p.lanes_log) * sizeof(Pack);
    count = p.count;
    batches = (count + BATCH - 1) / BATCH;
    last = threadIdx.x;
  }
  static DEVICE Pack* slot(u32 batch, int r, int input) { return shared + batch + (r * INPUTS + input) * THREADS; }
  // Puts the vectors from number `first` on their way.
  DEVICE void fetch(u32 batch, int first) {
#pragma unroll
    for (int input = 0; input < INPUTS; input++) {
      const char* at = from[input];
#pragma unroll
      for (int r = 0; r < BATCH; r++, at += step) {
        Pack* to = slot(batch, r, input);
        if (first + r >= count)
          *to = filled(neutral);
        else if (sizeof(Pack) == 16)
          asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(at)
                       : "memory");
        else if (sizeof(Pack) >= 4)
          asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(at),
                       "n"(sizeof(Pack) < 4 ? 4 : sizeof(Pack)) : "memory");
        else
          *to = *(const Pack*)at;
      }
    }
  }
  static DEVICE void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  DEVICE void arrived(u32 batch, Pack (*x)[BATCH]) {
    asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 1) : "memory");
#pragma unroll
    for (int r = 0; r < BATCH; r++)
#pragma unroll
      for (int input = 0; input < INPUTS; input++) x[input][r] = *slot(batch, r, input);
  }
  DEVICE void move(int vectors) {
#pragma unroll
    for (int input = 0; input < INPUTS; input++) from[input] += vectors * step;
  }
  // Calls use(vectors of a batch) for every batch of the row, first to last.
  template <class Use> DEVICE void up(Use use) {
    u32 at = threadIdx.x;
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      if (d < batches) fetch(at + d * PITCH, d * BATCH), move(BATCH);
      commit();
    }
    for (int b = 0; b < batches; b++) {
      Pack x[INPUTS][BATCH];
      arrived(at, x);
      if (b + DEPTH < batches) fetch(at, (b + DEPTH) * BATCH), move(BATCH);
      commit();
      use(x);
      last = at;
      at = at >= (DEPTH - 1) * PITCH ? threadIdx.x : at + PITCH;
    }
  }
  // Calls use(number of the first vector, vectors) for every batch, last to first: the last ones
  // still lie in shared memory.
  template <class Use> DEVICE void down(Use use) {
    u32 at = last;
    move(-BATCH * (DEPTH + 1));
    for (int b = batches - 1; b >= 0; b--) {
      Pack x[INPUTS][BATCH];
      arrived(at, x);
      if (b >= DEPTH) fetch(at, (b - DEPTH) * BATCH), move(-BATCH);
      commit();
      use(b * BATCH, x);
      at = at < PITCH ? at + (DEPTH - 1) * PITCH : at - PITCH;
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) softmax_forward(Rows a) {
  __shared__ __align__(16) float bases[WARPS][LINE], totals[WARPS][LINE];
  Part p = part_of(a);
  start_next();
  wait_for_stream();
  Lane<1> lane(a, p, NEG_INFINITY);
  const int BATCH = Lane<1>::BATCH;
  // Weights are exp(x - base). The base follows the maximum only when that has grown by more than
  // 22: sums stay far from overflow and are as exact. (Rounding base log2(e) once instead would save
  // an instruction, and take weights out of f32 from |x| = 1e9 on, where masks are.)
  const float NONE = -3.402823466e38f, MOST = 22.f;
  float base[VECTOR], total[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) base[e] = NONE, total[e] = 0.f;
  Pack limit = filled(NEG_INFINITY);
  lane.up([&](const Pack (*x)[BATCH]) {
    Pack largest = x[0][0];
#pragma unroll
    for (int r = 1; r < BATCH; r++) largest = most(largest, x[0][r]);
    if (above(largest, limit)) {
#pragma unroll
      for (int e = 0; e < VECTOR; e++) {
        float m = widen(largest.e[e]), before = base[e];
        if (!(m > widen(limit.e[e]))) continue;
        base[e] = m;
        total[e] *= exp2_fast((before - m) * LOG2E);
        limit.e[e] = narrow(m + MOST);
      }
    }
#pragma unroll
    for (int r = 0; r < BATCH; r++) {
      float v[VECTOR];
      unpack(v, x[0][r]);
#pragma unroll
      for (int e = 0; e < VECTOR; e++) total[e] += exp2_fast((v[e] - base[e]) * LOG2E);
    }
  });
  // One base and total for all lanes of a column, in one order.
  const int columns = 1 << a.columns_log, warp = threadIdx.x / 32, column = threadIdx.x % columns * VECTOR;
  float own[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) own[e] = base[e];
  for (int step = columns; step < 32; step *= 2)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) base[e] = fmaxf(base[e], __shfl_xor_sync(~0u, base[e], step));
#pragma unroll
  for (int e = 0; e < VECTOR; e++) total[e] *= exp2_fast((own[e] - base[e]) * LOG2E);
  for (int step = columns; step < 32; step *= 2)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) total[e] += __shfl_xor_sync(~0u, total[e], step);
  if (p.warps > 1) {
    const int own = threadIdx.x - p.first_warp * 32, first = p.first_warp;
    if (threadIdx.x % 32 < columns)
#pragma unroll
      for (int e = 0; e < VECTOR; e++) bases[warp][column + e] = base[e], totals[warp][column + e] = total[e];
    meet(p);
    if (own < columns * VECTOR) {
      float m = bases[first][own], sum = 0.f;
      for (int w = 1; w < p.warps; w++) m = fmaxf(m, bases[first + w][own]);
      for (int w = 0; w < p.warps; w++) sum += totals[first + w][own] * exp2_fast((bases[first + w][own] - m) * LOG2E);
      bases[first][own] = m;
      totals[first][own] = inverse(sum);
    }
    meet(p);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) base[e] = bases[first][column + e], total[e] = totals[first][column + e];
  } else {
#pragma unroll
    for (int e = 0; e < VECTOR; e++) total[e] = inverse(total[e]);
  }
  char* out = (char*)a.out + p.at * sizeof(Pack);
  lane.down([&](int i, const Pack (*x)[BATCH]) {
    char* to = out + i * lane.step;
#pragma unroll
    for (int r = 0; r < BATCH; r++, to += lane.step) {
      if (i + r >= lane.count) continue;
      float y[VECTOR];
      unpack(y, x[0][r]);
#pragma unroll
      for (int e = 0; e < VECTOR; e++) y[e] = exp2_fast((y[e] - base[e]) * LOG2E) * total[e];
      *(Pack*)to = packed(y);
    }
  });
}

// dx = (dy - sum_i dy_i y_i) y, with x the output y and y its gradient dy.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) softmax_backward(Rows a) {
  __shared__ __align__(16) float dots[WARPS][LINE];
  Part p = part_of(a);
  start_next();
  wait_for_stream();
  Lane<2> lane(a, p, 0.f);
  const int BATCH = Lane<2>::BATCH;
  float dot[VECTOR];
#pragma unroll
  for (int e = 0; e < VECTOR; e++) dot[e] = 0.f;
  lane.up([&](const Pack (*x)[BATCH]) {
#pragma unroll
    for (int r = 0; r < BATCH; r++) {
      float y[VECTOR], d[VECTOR];
      unpack(y, x[0][r]);
      unpack(d, x[1][r]);
#pragma unroll
      for (int e = 0; e < VECTOR; e++) dot[e] = fmaf(y[e], d[e], dot[e]);
    }
  });
  const int columns = 1 << a.columns_log, warp = threadIdx.x / 32, column = threadIdx.x % columns * VECTOR;
  for (int step = columns; step < 32; step *= 2)
#pragma unroll
    for (int e = 0; e < VECTOR; e++) dot[e] += __shfl_xor_sync(~0u, dot[e], step);
  if (p.warps > 1) {
    const int own = threadIdx.x - p.first_warp * 32, first = p.first_warp;
    if (threadIdx.x % 32 < columns)
#pragma unroll
      for (int e = 0; e < VECTOR; e++) dots[warp][column + e] = dot[e];
    meet(p);
    if (own < columns * VECTOR) {
      float sum = 0.f;
      for (int w = 0; w < p.warps; w++) sum += dots[first + w][own];
      dots[first][own] = sum;
    }
    meet(p);
#pragma unroll
    for (int e = 0; e < VECTOR; e++) dot[e] = dots[first][column + e];
  }
  char* out = (char*)a.out + p.at * sizeof(Pack);
  lane.down([&](int i, const Pack (*x)[BATCH]) {
    char* to = out + i * lane.step;
#pragma unroll
    for (int r = 0; r < BATCH; r++, to += lane.step) {
      if (i + r >= lane.count) continue;
      float y[VECTOR], d[VECTOR];
      unpack(y, x[0][r]);
      unpack(d, x[1][r]);
#pragma unroll
      for (int e = 0; e < VECTOR; e++) d[e] = (d[e] - dot[e]) * y[e];
      *(Pack*)to = packed(d);
    }
  });
}

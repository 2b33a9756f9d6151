// Shared by every kernel. No header is included, so NVRTC needs no include path.
// The host defines ELEMENT (0 f32, 1 bf16, 2 f16) and HEAD_DIM on the command line.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

#define DEVICE __device__ __forceinline__

// The arguments of every attention kernel; `AttentionArguments` in Rust is its twin.
struct Arguments {
  const void *q, *k, *v, *o, *d_o;
  void *out, *dq, *dk, *dv;
  float *lse, *delta;
  const float *bias;
  float *dbias;
  const long long *offsets_q, *offsets_k;
  const int2 *tasks;  // row, block; longest row first
  float *dq_sums;          // the fast backward's sums, in blocks of 64 queries
  const int *first_block;  // each row's first of them
  const int2 *blocks;      // row, block of 64 queries; longest row first
  u32 *zeroed;             // how many of a row's blocks are zero, and, after all rows, taken to be zeroed
  u32 *counter;
  long long tokens_q;
  int max_q, max_k;  // truncation limits
  int heads, group, head_dim;
  int left, right;  // a key may be `left` before the query's own position, `right` after
  int bias_batch, bias_heads, bias_q, bias_k;
  int rows, task_count, block_count, bias_transposed;
  float scale;
};

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f
#define NEG_INFINITY __int_as_float(0xff800000)

#if ELEMENT == 0
typedef float element;
DEVICE float widen(element x) { return x; }
DEVICE element narrow(float x) { return x; }
#elif ELEMENT == 1
struct element { u16 bits; };
DEVICE float widen(element x) { return __uint_as_float((u32)x.bits << 16); }
DEVICE element narrow(float x) {
  element r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
  return r;
}
#else
struct element { u16 bits; };
DEVICE float widen(element x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x.bits));
  return r;
}
DEVICE element narrow(float x) {
  element r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
  return r;
}
#endif

// Two sums rounded into one register, `low` in the low half.
DEVICE u32 pack(float low, float high) {
  u32 r;
#if ELEMENT == 2
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#else
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
  return r;
}
DEVICE float exp2_fast(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}
DEVICE float log2_fast(float x) {
  float r;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// From Hopper on a kernel may start before the one before it in the stream has ended: waits until
// its results are there. Nothing that another kernel writes may be touched before.
DEVICE void wait_for_stream() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel in the stream may start once every block has said so.
DEVICE void start_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// One row of the batch as an operator sees it.
struct Row {
  long long start_q, start_k;
  int n_q, n_k, shift;
};
DEVICE Row row_of(const Arguments& a, int b) {
  Row r;
  r.start_q = a.offsets_q[b];
  r.start_k = a.offsets_k[b];
  r.n_q = (int)min(a.offsets_q[b + 1] - r.start_q, (long long)a.max_q);
  r.n_k = (int)min(a.offsets_k[b + 1] - r.start_k, (long long)a.max_k);
  r.shift = r.n_k - r.n_q;
  return r;
}
DEVICE bool allowed(const Arguments& a, const Row& r, int i, int j) {
  int distance = j - i - r.shift;
  return i < r.n_q && j < r.n_k && distance <= a.right && distance >= -a.left;
}
// First and one past the last key that queries i0..i1 see, and the other way round.
DEVICE int first_key(const Arguments& a, const Row& r, int i0) {
  return min(max(i0 + r.shift - a.left, 0), r.n_k);
}
DEVICE int end_key(const Arguments& a, const Row& r, int i1) {
  return max(min(i1 - 1 + r.shift + a.right + 1, r.n_k), 0);
}
DEVICE int first_query(const Arguments& a, const Row& r, int j0) {
  return min(max(j0 - r.shift - a.right, 0), r.n_q);
}
DEVICE int end_query(const Arguments& a, const Row& r, int j1) {
  return max(min(j1 - 1 - r.shift + a.left + 1, r.n_q), 0);
}
DEVICE long long bias_at(const Arguments& a, int b, int h, int i, int j) {
  long long row = (long long)(a.bias_batch == 1 ? 0 : b) * a.bias_heads + (a.bias_heads == 1 ? 0 : h);
  return a.bias_transposed ? (row * a.bias_k + j) * a.bias_q + i : (row * a.bias_q + i) * a.bias_k + j;
}

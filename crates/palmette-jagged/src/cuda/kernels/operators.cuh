// What the small operators over jagged rows are given.
// The host defines VECTOR, the elements of one access (a divisor of every width used).

struct Operands {
  const element *x, *y, *z;
  element *out, *out_2;
  const long long* offsets;
  const long long* list;  // what a kernel says
  long long rows;
  int max_len, width, mode;
  float padding;
};
struct __align__(sizeof(element) * VECTOR) Pack { element e[VECTOR]; };

// Rounded two at a time where that is one instruction.
DEVICE Pack packed(const float* x) {
  Pack y;
#if ELEMENT == 0 || VECTOR == 1
#pragma unroll
  for (int e = 0; e < VECTOR; e++) y.e[e] = narrow(x[e]);
#else
#pragma unroll
  for (int e = 0; e < VECTOR; e += 2) ((u32*)&y)[e / 2] = pack(x[e], x[e + 1]);
#endif
  return y;
}

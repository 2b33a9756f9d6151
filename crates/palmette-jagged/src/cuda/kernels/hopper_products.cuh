// What the products of jagged and dense matrices share on Hopper: the tensor copy engine brings
// slices of 64 tokens through a ring of STAGES, warpgroups multiply them with wgmma, the grid is
// persistent and a counter hands out tasks, the largest first. Such products are short of
// arithmetic: what counts is that bytes are always on their way, from one task into the next.
// The host defines TERMS and COLUMNS (of the dense matrix, multiples of 64), STAGES, GROUPS.

const int TOKENS = 64, CONSUMERS = 128 * GROUPS;

struct Task {
  int row, column;    // of the batch; of the dense matrix
  int token, tokens;  // first token and their number
};
struct Products {
  element* out;
  const Task* tasks;
  u32* counter;
  int count, terms, columns;
};

// Tasks of this block. The counter is 0 again after the launch.
struct Queue {
  const Products& a;
  u32 next;
  Task first;  // read before the kernel before this one has ended
  DEVICE Queue(const Products& a) : a(a), next(blockIdx.x), first(a.tasks[blockIdx.x]) {}
  // False at the end.
  DEVICE bool pop(Task& task) {
    if (next >= (u32)a.count) return false;
    task = next == blockIdx.x ? first : a.tasks[next];
    next = gridDim.x + atomicInc(a.counter, a.count - 1);
    return true;
  }
};

DEVICE void advance(u32& stage, u32& ring) {
  if (++stage == STAGES) stage = 0, ring ^= 1;
}

// Writes this warp's 16 rows of a [64, COLUMNS] tile of results, through shared memory of its own
// so that whole lines are written. `rows` and `columns` are what there is of the matrix.
const int PITCH = COLUMNS + 8;
DEVICE void write_rows(element* staging, const float* sums, element* to, int pitch, int rows, int columns) {
  int lane = threadIdx.x % 32;
  u32 at = shared_address(staging + lane % 16 * PITCH + lane / 16 * 8);
  __syncwarp();
#pragma unroll
  for (int j = 0; j < COLUMNS / 16; j++) {
    const float* s = sums + j * 8;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at + j * 32),
                 "r"(pack(s[0], s[1])), "r"(pack(s[2], s[3])), "r"(pack(s[4], s[5])), "r"(pack(s[6], s[7])) : "memory");
  }
  __syncwarp();
#pragma unroll
  for (int e = lane; e < 16 * COLUMNS / 8; e += 32) {
    int row = e / (COLUMNS / 8), column = e % (COLUMNS / 8) * 8;
    if (row < rows && column < columns)
      *(int4*)(to + (long long)row * pitch + column) = *(const int4*)(staging + row * PITCH + column);
  }
}

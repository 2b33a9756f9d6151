// Hopper's building blocks: mbarriers, the tensor copy engine, warpgroup products.

#if ELEMENT == 2
#define TYPES "f32.f16.f16"
#else
#define TYPES "f32.bf16.bf16"
#endif

struct __align__(64) TensorMap { u64 opaque[16]; };

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void barrier_init(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count));
}
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// One arrival a warp, after all its lanes are done with what the barrier guards: __syncwarp orders
// theirs before it. Racecheck does not follow that, so that it is run with -DARRIVALS=32: every
// lane arrives.
#ifndef ARRIVALS
#define ARRIVALS 1
#endif
DEVICE void barrier_init_of_warps(u32 barrier, u32 warps) { barrier_init(barrier, warps * ARRIVALS); }
DEVICE void release(u32 barrier) {
  __syncwarp();
  if (threadIdx.x % (32 / ARRIVALS) == 0) barrier_arrive(barrier);
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\nbra again;\nover:\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// 64 columns of some rows of one head: coordinates column, head, token.
DEVICE void tensor_load(u32 target, const TensorMap* map, u32 barrier, int column, int head, int token) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
      ::"r"(target), "l"(map), "r"(barrier), "r"(column), "r"(head), "r"(token) : "memory");
}
DEVICE void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void product_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEVICE void product_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
DEVICE void group_barrier(int group) { asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory"); }

// A matrix in shared memory with the 128-byte swizzle. K-major operands: one k16 step is
// 32 bytes on, `leading` is not read. MN-major operands: a k16 step is 2048 bytes on and
// `leading` the distance between panels of 64 columns.
DEVICE u64 descriptor(u32 address, u32 leading) {
  return (u64)((address & 0x3FFFF) >> 4) | ((u64)(leading >> 4) << 16) | ((u64)(1024 >> 4) << 32) | (1ull << 62);
}
// The same in two steps, for loops: the half of a descriptor that depends on the address, made
// once, and the descriptor `bytes` further on, which is one addition.
DEVICE u32 matrix(u32 address, u32 leading) { return address >> 4 | (leading >> 4) << 16; }
DEVICE u64 further(u32 matrix, u32 bytes) { return (u64)(1024 >> 4 | 1u << 30) << 32 | (matrix + (bytes >> 4)); }
// The warpgroup of a thread, as a number that the compiler knows to be the same in a warp.
DEVICE int own_group() { return __shfl_sync(~0u, threadIdx.x / 128, 0); }

// D [64, N] += A [64, 16] B [16, N]. `shared`: A and B K-major in shared memory;
// `registers`: A as this warpgroup's fragments, B MN-major in shared memory; `columns`: A K-major,
// B MN-major, both in shared memory.
#define F4(d, o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3])
#define F16(d, o) F4(d, o), F4(d, o + 4), F4(d, o + 8), F4(d, o + 12)
#define F32(d, o) F16(d, o), F16(d, o + 16)
#define REGISTERS_32 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define F40(d) F32(d, 0), F4(d, 32), F4(d, 36)
#define REGISTERS_40 REGISTERS_32 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define REGISTERS_64 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define REGISTERS_128 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15," \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63," \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79," \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95," \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
  "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
// `transposed`: A and B MN-major in shared memory; `left_transposed`: A MN-major, B K-major there.
template <int N> struct Product;
template <> struct Product<64> {
  static DEVICE void columns(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16." TYPES
                 " {" REGISTERS_32 "}, %32, %33, p, 1, 1, 0, 1;}"
                 : F32(d, 0) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void transposed(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16." TYPES
                 " {" REGISTERS_32 "}, %32, %33, p, 1, 1, 1, 1;}"
                 : F32(d, 0) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void left_transposed(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16." TYPES
                 " {" REGISTERS_32 "}, %32, %33, p, 1, 1, 1, 0;}"
                 : F32(d, 0) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void shared(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16." TYPES
                 " {" REGISTERS_32 "}, %32, %33, p, 1, 1, 0, 0;}"
                 : F32(d, 0) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void registers(float* d, const u32* a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16." TYPES
                 " {" REGISTERS_32 "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;}"
                 : F32(d, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
  }
};
template <> struct Product<80> {
  static DEVICE void left_transposed(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %42, 0; wgmma.mma_async.sync.aligned.m64n80k16." TYPES
                 " {" REGISTERS_40 "}, %40, %41, p, 1, 1, 1, 0;}"
                 : F40(d) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void shared(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %42, 0; wgmma.mma_async.sync.aligned.m64n80k16." TYPES
                 " {" REGISTERS_40 "}, %40, %41, p, 1, 1, 0, 0;}"
                 : F40(d) : "l"(a), "l"(b), "r"(add));
  }
};
template <> struct Product<128> {
  static DEVICE void columns(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16." TYPES
                 " {" REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 1;}"
                 : F32(d, 0), F32(d, 32) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void transposed(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16." TYPES
                 " {" REGISTERS_64 "}, %64, %65, p, 1, 1, 1, 1;}"
                 : F32(d, 0), F32(d, 32) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void shared(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16." TYPES
                 " {" REGISTERS_64 "}, %64, %65, p, 1, 1, 0, 0;}"
                 : F32(d, 0), F32(d, 32) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void registers(float* d, const u32* a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16." TYPES
                 " {" REGISTERS_64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;}"
                 : F32(d, 0), F32(d, 32) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
  }
};
template <> struct Product<256> {
  static DEVICE void shared(float* d, u64 a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16." TYPES
                 " {" REGISTERS_128 "}, %128, %129, p, 1, 1, 0, 0;}"
                 : F32(d, 0), F32(d, 32), F32(d, 64), F32(d, 96) : "l"(a), "l"(b), "r"(add));
  }
  static DEVICE void registers(float* d, const u32* a, u64 b, int add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %133, 0; wgmma.mma_async.sync.aligned.m64n256k16." TYPES
                 " {" REGISTERS_128 "}, {%128,%129,%130,%131}, %132, p, 1, 1, 1;}"
                 : F32(d, 0), F32(d, 32), F32(d, 64), F32(d, 96) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
  }
};

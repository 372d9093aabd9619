/*
 * What Hopper (sm_90a) adds for matrix kernels, one thin function per instruction.
 *
 * Older GPUs feed their tensor cores from registers: every warp loads its own fragments. Hopper can
 * do without that:
 *
 *   TMA        one thread asks for a whole tile; the copy engine computes the addresses, fills
 *              shared memory, writes zeros for what lies outside the tensor, and reports the bytes
 *              to an mbarrier.
 *   mbarrier   a counter in shared memory on which any thread can wait: for arrivals, for bytes, or
 *              for both.
 *   wgmma      four warps multiply 64 x 16 by 16 x N straight from shared memory, and go on while
 *              it runs.
 *   setmaxnreg moves registers from the warps that only copy to the warps that compute.
 *
 * The section names refer to NVIDIA's "PTX ISA" manual, chapter "Instruction Set". wgmma and
 * setmaxnreg exist for the target sm_90a alone: a kernel that uses this file has its body between
 * #if HOPPER_CODE and #endif, so that the same source also compiles for other targets (where its
 * launcher must not call it).
 */
#ifndef COMMON_HOPPER_CUH
#define COMMON_HOPPER_CUH

#include "gpu.cuh"
#include "mma.cuh"

#include <cuda.h> /* types only: its one function is found at run time, nothing links libcuda */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER_CODE 1
#else
#define HOPPER_CODE 0
#endif

/* ---- tensor maps: the host describes a tensor and the box that one TMA copy moves ---- */

/*
 * A map of a tensor of up to 5 dimensions, the fastest first: sizes in elements, strides in bytes
 * of dimensions 1 .. rank - 1 (multiples of 16, as the base is), box in elements. With 128-byte
 * swizzle the box's row (box[0] elements) is at most 128 bytes. Elements outside the tensor read as
 * zero and are not written. It is passed to a kernel as `const __grid_constant__ CUtensorMap`.
 * Returns 0 when the hardware cannot map this tensor (alignment), else 1.
 */
static inline int tensor_map_make(CUtensorMap *map, CUtensorMapDataType type, const void *base,
                                  int rank, const uint64_t *sizes, const uint64_t *strides,
                                  const uint32_t *box, CUtensorMapSwizzle swizzle) {
    typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                               const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                               const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *function = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                cudaEnableDefault, &found));
#else
    CUDA_CHECK(
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found));
#endif
    if (!function || found != cudaDriverEntryPointSuccess)
        fatal("the CUDA driver has no cuTensorMapEncodeTiled: a driver of CUDA 12 or newer is "
              "needed on this GPU");
    cuuint64_t size[5], stride[4];
    cuuint32_t extent[5], step[5];
    for (int i = 0; i < rank; i++) {
        size[i] = sizes[i];
        if (i > 0) stride[i - 1] = strides[i - 1];
        extent[i] = box[i];
        step[i] = 1;
    }
    return ((Encode)function)(map, type, (cuuint32_t)rank, (void *)base, size, stride, extent, step,
                              CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                              CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                              CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#if HOPPER_CODE

/*
 * ---- mbarrier ("Parallel Synchronization and Communication Instructions: mbarrier") ----
 *
 * A phase ends when `count` threads have arrived and all bytes that were announced have come.
 * Phases are numbered by their parity: mbarrier_wait(b, 0) waits for the first phase to end, then
 * (b, 1), (b, 0), ... A fresh barrier lets mbarrier_wait(b, 1) pass at once: that is how a producer
 * finds all of its buffers empty in the first round.
 */
__device__ __forceinline__ void mbarrier_init(uint64_t *barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(count)
                 : "memory");
}

/* After the inits, by the thread that did them, before the block's __syncthreads(): shows them to
 * the copy engine. */
__device__ __forceinline__ void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t *barrier) {
    asm volatile(
        "mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
        : "memory");
}

/* Arrives, and announces that the copy engine will bring `bytes` bytes in this phase. */
__device__ __forceinline__ void mbarrier_expect(uint64_t *barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

/* Has the phase of this parity ended? The hardware may let the thread sleep a while before it says
 * no. */
__device__ __forceinline__ bool mbarrier_test(uint64_t *barrier, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(done)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return done;
}

__device__ __forceinline__ void mbarrier_wait(uint64_t *barrier, uint32_t parity) {
    while (!mbarrier_test(barrier, parity)) {}
}

/*
 * ---- clusters: a few blocks on neighbouring SMs that see each other's shared memory ----
 *
 * The kernel is declared with __cluster_dims__(n, 1, 1).
 */
__device__ __forceinline__ int cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

/* All threads of all blocks of the cluster meet. */
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

/* Arrives at the barrier that lies at this address in block `rank` of the cluster. For threads that
 * only READ the data the barrier guards: publishing writes to another SM would need
 * .release.cluster, which costs a memory barrier of the whole GPU at each arrival (measured: a
 * quarter of a matrix kernel's time). */
__device__ __forceinline__ void mbarrier_arrive_cluster(uint64_t *barrier, int rank) {
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}\n" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}

/*
 * ---- TMA ("Data Movement and Conversion Instructions: cp.async.bulk.tensor") ----
 *
 * One thread issues the copy of one box; x0 .. x4 are the box's first element in the tensor, the
 * fastest dimension first. The shared address is a multiple of 128 bytes (1024 with 128-byte
 * swizzle).
 */
__device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void tma_load_2d(void *shared, const CUtensorMap *map, uint64_t *barrier,
                                            int x0, int x1) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1)
                 : "memory");
}

__device__ __forceinline__ void tma_load_3d(void *shared, const CUtensorMap *map, uint64_t *barrier,
                                            int x0, int x1, int x2) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2)
                 : "memory");
}

__device__ __forceinline__ void tma_load_4d(void *shared, const CUtensorMap *map, uint64_t *barrier,
                                            int x0, int x1, int x2, int x3) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
}

__device__ __forceinline__ void tma_load_5d(void *shared, const CUtensorMap *map, uint64_t *barrier,
                                            int x0, int x1, int x2, int x3, int x4) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                 : "memory");
}

/* The same box to the same shared address of every block of the cluster whose bit is set in
 * `blocks`; the bytes are reported to the barrier at that address in each of them. */
__device__ __forceinline__ void tma_load_2d_multicast(void *shared, const CUtensorMap *map,
                                                      uint64_t *barrier, uint16_t blocks, int x0,
                                                      int x1) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(x0), "r"(x1), "h"(blocks)
        : "memory");
}

/* Contiguous bytes without a map: address, length and source are multiples of 16. */
__device__ __forceinline__ void bulk_load(void *shared, const void *global, uint32_t bytes,
                                          uint64_t *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

/*
 * Stores. Threads that wrote the tile call async_proxy_fence() first, then meet at a barrier; then
 * one thread stores, commits, and waits before the shared memory is used again
 * (tma_store_wait_read) or before the kernel's results are needed elsewhere.
 */
__device__ __forceinline__ void tma_store_2d(const CUtensorMap *map, const void *shared, int x0,
                                             int x1) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group "
                 "[%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1)
                 : "memory");
}

__device__ __forceinline__ void tma_store_3d(const CUtensorMap *map, const void *shared, int x0,
                                             int x1, int x2) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1), "r"(x2)
                 : "memory");
}

__device__ __forceinline__ void tma_store_4d(const CUtensorMap *map, const void *shared, int x0,
                                             int x1, int x2, int x3) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
}

/* Adds the tile to global memory (the addition happens in the L2 cache), element by element. */
__device__ __forceinline__ void tma_reduce_add_2d(const CUtensorMap *map, const void *shared,
                                                  int x0, int x1) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group "
                 "[%0, {%2, %3}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1)
                 : "memory");
}

__device__ __forceinline__ void tma_reduce_add_3d(const CUtensorMap *map, const void *shared,
                                                  int x0, int x1, int x2) {
    asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group "
                 "[%0, {%2, %3, %4}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1), "r"(x2)
                 : "memory");
}

__device__ __forceinline__ void tma_reduce_add_4d(const CUtensorMap *map, const void *shared,
                                                  int x0, int x1, int x2, int x3) {
    asm volatile("cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(shared_address(shared)), "r"(x0), "r"(x1), "r"(x2), "r"(x3)
                 : "memory");
}

/* The same for contiguous F32 numbers without a map ("cp.reduce.async.bulk"). */
__device__ __forceinline__ void bulk_reduce_add_f32(float *global, const void *shared,
                                                    uint32_t bytes) {
    asm volatile(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(global),
        "r"(shared_address(shared)), "r"(bytes)
        : "memory");
}

/* And a plain store of contiguous bytes (multiples of 16). */
__device__ __forceinline__ void bulk_store(void *global, const void *shared, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
                 "r"(shared_address(shared)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void tma_store_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's newest groups still read shared memory. */
template <int N> __device__ __forceinline__ void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* Waits until at most N of this thread's newest groups have not reached global memory. */
template <int N> __device__ __forceinline__ void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

/*
 * Ordinary stores and the copy engine or wgmma see shared memory through different "proxies"
 * ("Memory Consistency Model: Proxies"). Each thread that wrote calls this before the barrier after
 * which TMA or wgmma reads.
 */
__device__ __forceinline__ void async_proxy_fence() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/*
 * In turn: blocks that add to the same place one after the other, so that the sum is the same in
 * every run, count in global memory how many have added. One who has: tma_store_wait<0>(), the
 * fence, store_release(). One whose turn it is to be: load_acquire() until it is, the fence.
 */
__device__ __forceinline__ int load_acquire(const int *p) {
    int value;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
}
__device__ __forceinline__ void store_release(int *p, int value) {
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
}
/* Between what the copy engine does in global memory and what this thread says or learns about it.
 * */
__device__ __forceinline__ void async_proxy_fence_global() {
    asm volatile("fence.proxy.async.global;" ::: "memory");
}

/*
 * ---- warps ----
 */

/* setmaxnreg: a warpgroup gives registers back to the block's pool, or takes some (multiples of 8,
 * 24 .. 256). It needs a register cap at entry: __launch_bounds__(threads, 1). */
template <int REGISTERS> __device__ __forceinline__ void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS> __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* The 16 hardware barriers of a block ("bar"; __syncthreads() is number 0). sync waits for
 * `threads` threads in all, arrive counts without waiting: together they hand a turn from one group
 * of warps to another. */
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/*
 * ---- wgmma ("Asynchronous Warpgroup Level Matrix Instructions") ----
 *
 * D (64 x N, F32, registers) = A (64 x 16, BF16) B (16 x N, BF16) + D, by the 128 threads of a
 * warpgroup together.
 *
 * Registers. Warp w of the group owns rows 16 w .. 16 w + 15. Thread t of the warp holds, in
 * d[4 j .. 4 j + 3], columns 8 j + 2 (t % 4) and + 1 of row t / 4, then of row t / 4 + 8. A from
 * registers has mma.m16n8k16's layout (mma.cuh): d[8 k .. 8 k + 7], rounded and packed in pairs,
 * is the A of K step k.
 *
 * Shared memory. Tiles are stored in blocks 64 numbers (128 bytes) wide: element (r, c) of a block
 * lies in row r, and of the row's eight 16-byte pieces the one at c / 8 ^ r % 8. This swizzle is
 * what TMA writes with CU_TENSOR_MAP_SWIZZLE_128B; it spreads a column of pieces over all 32 banks.
 * A block starts at a multiple of 1024 bytes.
 *
 *   K-major   a row is an m (or n), and runs along k. Eight rows are 1024 bytes; the 16 k's of one
 *             instruction are 32 bytes of each row, so the next K step's descriptor is desc + 2
 *             (addresses count in 16 bytes).
 *   MN-major  a row is a k, and runs along m (or n). The 16 k's of one instruction are 2 groups of
 *             8 rows, 1024 bytes apart; the next K step starts 2048 bytes on: desc + 128. N > 64
 *             takes several blocks, `block_bytes` apart.
 */
__device__ __forceinline__ uint64_t wgmma_descriptor(const void *shared, int leading_bytes,
                                                     int stride_bytes) {
    uint64_t address = shared_address(shared) & 0x3FFFF;
    return address >> 4 | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | (uint64_t)1 << 62; /* 1: 128-byte swizzle */
}
__device__ __forceinline__ uint64_t wgmma_k_major(const void *shared) {
    return wgmma_descriptor(shared, 16, 1024); /* the leading offset is not used */
}
__device__ __forceinline__ uint64_t wgmma_mn_major(const void *shared, int block_bytes) {
    return wgmma_descriptor(shared, block_bytes, 1024);
}
enum { WGMMA_K_STEP = 32 >> 4, WGMMA_MN_STEP = 2048 >> 4 }; /* descriptor increments for 16 k's */

/* Byte offset of element (row, column) in one swizzled block, for threads that read or write a tile
 * themselves. */
__device__ __forceinline__ int swizzle_128(int row, int column) {
    return row * 128 + ((column / 8 ^ row % 8) * 16) + column % 8 * 2;
}

/*
 * stmatrix, ldmatrix's counterpart: four 8 x 8 blocks of 16-bit numbers from the registers'
 * fragment layout to shared memory; thread t gives the address of row t % 8 of block t / 8.
 */
__device__ __forceinline__ void stmatrix_x4(void *row, const uint32_t *r) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
/* The same, each block transposed. */
__device__ __forceinline__ void stmatrix_x4_transposed(void *row, const uint32_t *r) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

/* Tells the compiler that these registers change here: it must not move their uses across. No
 * instruction. */
template <int N> __device__ __forceinline__ void wgmma_touch(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i]));
}
template <int N> __device__ __forceinline__ void wgmma_touch(uint32_t (&a)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(a[i]));
}

/*
 * Before the first wgmma that reads registers or an accumulator which other instructions wrote.
 * Name these registers: the compiler would otherwise compute them after the fence, notice, and put
 * a second one in (C7519), or give up on running wgmmas side by side (C7520).
 */
template <typename... Registers> __device__ __forceinline__ void wgmma_fence(Registers &...d) {
    (wgmma_touch(d), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* The wgmmas since the last commit become a group, to be waited for together. */
__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N of the newest groups still run; the accumulators named are then ready to be
 * read. */
template <int N, typename... Registers>
__device__ __forceinline__ void wgmma_wait(Registers &...d) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
    (wgmma_touch(d), ...);
}

/*
 * Wgmma<N>::shared<A_MN, B_MN>(d, a, b, accumulate): A and B from shared memory, descriptors a, b.
 *
 * Wgmma<N>::registers<B_MN>(d, a, b, accumulate): A from registers.
 *
 * A_MN / B_MN: 1 when that operand is MN-major. accumulate 0 overwrites d.
 */
template <int N> struct Wgmma;

/* "%0, %1, ..." for the first 8 n accumulators, and the operands that belong to them. */
#define WGMMA_R1  "%0,%1,%2,%3,%4,%5,%6,%7"
#define WGMMA_R2  WGMMA_R1 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_R3  WGMMA_R2 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define WGMMA_R4  WGMMA_R3 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_R5  WGMMA_R4 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WGMMA_R6  WGMMA_R5 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define WGMMA_R7  WGMMA_R6 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define WGMMA_R8  WGMMA_R7 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_R9  WGMMA_R8 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define WGMMA_R10 WGMMA_R9 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define WGMMA_R11 WGMMA_R10 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define WGMMA_R12 WGMMA_R11 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define WGMMA_R13 WGMMA_R12 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define WGMMA_R14 WGMMA_R13 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define WGMMA_R15 WGMMA_R14 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define WGMMA_R16 WGMMA_R15 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define WGMMA_D(i)                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_D1  WGMMA_D(0)
#define WGMMA_D2  WGMMA_D1, WGMMA_D(8)
#define WGMMA_D3  WGMMA_D2, WGMMA_D(16)
#define WGMMA_D4  WGMMA_D3, WGMMA_D(24)
#define WGMMA_D5  WGMMA_D4, WGMMA_D(32)
#define WGMMA_D6  WGMMA_D5, WGMMA_D(40)
#define WGMMA_D7  WGMMA_D6, WGMMA_D(48)
#define WGMMA_D8  WGMMA_D7, WGMMA_D(56)
#define WGMMA_D9  WGMMA_D8, WGMMA_D(64)
#define WGMMA_D10 WGMMA_D9, WGMMA_D(72)
#define WGMMA_D11 WGMMA_D10, WGMMA_D(80)
#define WGMMA_D12 WGMMA_D11, WGMMA_D(88)
#define WGMMA_D13 WGMMA_D12, WGMMA_D(96)
#define WGMMA_D14 WGMMA_D13, WGMMA_D(104)
#define WGMMA_D15 WGMMA_D14, WGMMA_D(112)
#define WGMMA_D16 WGMMA_D15, WGMMA_D(120)

/* groups = N / 16; i0 .. i6 are the numbers of the operands after the N / 2 accumulators. */
#define WGMMA_DEFINE(N, groups, i0, i1, i2, i3, i4, i5, i6)                                        \
    template <> struct Wgmma<N> {                                                                  \
        template <int A_MN, int B_MN>                                                              \
        static __device__ __forceinline__ void shared(float (&d)[N / 2], uint64_t a, uint64_t b,   \
                                                      int accumulate) {                            \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #i2 ", 0;\n"                         \
                         "wgmma.mma_async.sync.aligned.m64n" #N                                    \
                         "k16.f32.bf16.bf16 {" WGMMA_R##groups                                     \
                         "}, %" #i0 ", %" #i1 ", p, 1, 1, %" #i3 ", %" #i4 ";\n}\n"                \
                         : WGMMA_D##groups                                                         \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(A_MN), "n"(B_MN));                 \
        }                                                                                          \
        template <int B_MN>                                                                        \
        static __device__ __forceinline__ void registers(float (&d)[N / 2], const uint32_t *a,     \
                                                         uint64_t b, int accumulate) {             \
            asm volatile(                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %" #i5 ", 0;\n"                                  \
                "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" WGMMA_R##groups       \
                "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 "}, %" #i4 ", p, 1, 1, %" #i6 ";\n}\n"      \
                : WGMMA_D##groups                                                                  \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(B_MN)); \
        }                                                                                          \
    };
WGMMA_DEFINE(32, 2, 16, 17, 18, 19, 20, 21, 22)
WGMMA_DEFINE(64, 4, 32, 33, 34, 35, 36, 37, 38)
WGMMA_DEFINE(80, 5, 40, 41, 42, 43, 44, 45, 46)
WGMMA_DEFINE(96, 6, 48, 49, 50, 51, 52, 53, 54)
WGMMA_DEFINE(112, 7, 56, 57, 58, 59, 60, 61, 62)
WGMMA_DEFINE(128, 8, 64, 65, 66, 67, 68, 69, 70)
WGMMA_DEFINE(144, 9, 72, 73, 74, 75, 76, 77, 78)
WGMMA_DEFINE(160, 10, 80, 81, 82, 83, 84, 85, 86)
WGMMA_DEFINE(176, 11, 88, 89, 90, 91, 92, 93, 94)
WGMMA_DEFINE(192, 12, 96, 97, 98, 99, 100, 101, 102)
WGMMA_DEFINE(208, 13, 104, 105, 106, 107, 108, 109, 110)
WGMMA_DEFINE(224, 14, 112, 113, 114, 115, 116, 117, 118)
WGMMA_DEFINE(240, 15, 120, 121, 122, 123, 124, 125, 126)
WGMMA_DEFINE(256, 16, 128, 129, 130, 131, 132, 133, 134)

#endif /* HOPPER_CODE */
#endif

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

#include "common/cuda/gpu.cuh"
#include "common/cuda/mma.cuh"

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
 * A warp arrives once, when all its lanes are here: __syncwarp() orders what they did before the
 * one lane's arrival, for a release takes along what the lane itself has seen. The racecheck of
 * compute-sanitizer does not follow that chain and reports hazards that are none; in a build with
 * RACECHECK=1 every lane arrives, which it does follow. So a barrier at which N warps arrive is
 * made with N * WARP_ARRIVALS.
 */
#ifdef RACECHECK
enum { WARP_ARRIVALS = 32 };
#else
enum { WARP_ARRIVALS = 1 };
#endif
__device__ __forceinline__ bool lane_arrives() {
    __syncwarp();
    return threadIdx.x % 32 < WARP_ARRIVALS;
}
__device__ __forceinline__ void mbarrier_arrive_warp(uint64_t *barrier) {
    if (lane_arrives()) mbarrier_arrive(barrier);
}

/* Arrives when all cp.async that this thread has asked for are done: the hardware does it then. The
 * barrier counts on an arrival of each such thread. */
__device__ __forceinline__ void mbarrier_arrive_behind_copies(uint64_t *barrier) {
    asm volatile(
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
        : "memory");
}

/* A ring of STAGES buffers seen from one side: which is next, and in which phase its barriers
 * are. */
template <int STAGES> struct Ring {
    int stage = 0;
    uint32_t parity = 0;
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

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

/* Where the variable of that name lies in block `rank` of the cluster, and what is in it. */
__device__ __forceinline__ uint32_t cluster_address(const void *mine, int rank) {
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(there)
        : "r"(shared_address(mine)), "r"(rank));
    return there;
}
__device__ __forceinline__ uint32_t cluster_load(const void *mine, int rank) {
    uint32_t value;
    asm volatile("ld.shared::cluster.u32 %0, [%1];"
                 : "=r"(value)
                 : "r"(cluster_address(mine, rank))
                 : "memory");
    return value;
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

/* A warp arrives in each of the cluster's blocks, one lane for each. */
template <int CLUSTER>
__device__ __forceinline__ void mbarrier_arrive_warp_in_each(uint64_t *barrier) {
    __syncwarp();
    for (int i = threadIdx.x % 32; i < CLUSTER * WARP_ARRIVALS; i += 32)
        mbarrier_arrive_cluster(barrier, i / WARP_ARRIVALS);
}

/*
 * ---- TMA ("Data Movement and Conversion Instructions: cp.async.bulk.tensor") ----
 *
 * One thread issues the copy of one box; x0 .. x4 are the box's first element in the tensor, the
 * fastest dimension first. The shared address is a multiple of 128 bytes (1024 with 128-byte
 * swizzle).
 */
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
 * every run, count in global memory how many have added. A block that has added:
 * tma_store_wait<0>(), the fence, store_release(). A block that waits for its turn: load_acquire()
 * until it is, the fence.
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

#endif /* HOPPER_CODE */

#include "common/cuda/wgmma.cuh"

#endif

/*
 * Absorbed decoding on Hopper over lists: how rows of 1152 bytes that lie anywhere get into the
 * ring (mla_decode_hopper.cuh) as a page would.
 *
 * The copy engine moves boxes. A row of its own would be nine of them, 128 bytes each, 576 for 64
 * rows, too many for it. So threads fetch, 16 bytes at a time (cp.async), and put them where the
 * swizzle wants them. There is no room for a warp that does nothing else; but the weighers wait for
 * the tensor cores much of the time. All 256 of them do it together, after they have weighed a page
 * and met: a warp takes 512 bytes of a row, half of its value, or the rope parts of four rows.
 *
 * One of them plans: what comes next, queries or which 64 entries of which list. The plan is made
 * while the rows before it are on their way, and is read after the next meeting. Queries still come
 * by the copy engine.
 *
 * A stage is full when all of them have their rows (their arrivals are made by the hardware when
 * the copies end), and the planner, whose arrival takes along what the stage holds. Rows that
 * cp.async wrote are read by wgmma, through another proxy: who reads fences first.
 *
 * Blocks do not share a list's rows: with 128 heads the two that need them find them in the L2
 * cache.
 */
#ifndef MLA_DECODE_SPARSE_HOPPER_CUH
#define MLA_DECODE_SPARSE_HOPPER_CUH

#include "04_mla/cuda/mla_decode_hopper.cuh"

#if HOPPER_CODE

enum { FULL_ARRIVALS = WEIGHERS + 1 };

/* What comes after f.use, into f.stage. One thread. */
__device__ __forceinline__ void make_plan(Plan &plan, Feed &f, const Arguments &a) {
    plan.done = f.done;
    if (f.done) return;
    plan.query = f.query;
    plan.stage = f.stage;
    if (f.query) {
        next_piece(f, a, 1, 0);
        f.done = f.use.left == 0; /* no more: this, too, travels through the ring */
    } else {
        f.use.page++;
        f.use.left--;
    }
    plan.use = f.use;
    f.query = f.use.left == 0;
    f.stage = (f.stage + 1) % STAGES;
}

/* Where the warp's rows of a page of a list are, read ahead: warp + 4 lane of its 64, by the first
 * 16 lanes. Reading them takes as long as half a page's products. */
__device__ __forceinline__ int look_ahead(const Arguments &a, const Use &use, int page) {
    int e = page * PAGE_TOKENS + threadIdx.x % 128 / 32 + threadIdx.x % 32 * 4;
    bool there = threadIdx.x % 32 < 16 && e < use.length;
    return there ? a.list[(int64_t)use.batch * a.shape.max_length + e] : -1;
}

/* The rows: half `half` of their values, and of every second eight of them the rope parts. */
__device__ __forceinline__ void fetch_rows(LatentBoxes &page, const Arguments &a, int there,
                                           int ids, int half) {
    int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
    auto row_of = [&](int i) {
        int id = __shfl_sync(~0u, ids, i);
        return (const char *)(id < 0 ? a.zeros : a.latent + (int64_t)id * WIDTH);
    };
    char *box = (char *)page.box[half * 4 + lane / 8];
#pragma unroll 4
    for (int i = 0; i < 16; i++) {
        int r = warp + 4 * i;
        const char *row = row_of(i) + half * 512 + lane * 16;
        if (r < there) cp_async_16(box + r * 128 + (lane % 8 ^ r % 8) * 16, row, true);
    }
#pragma unroll
    for (int j = 0; j < 2; j++) {
        int i = half * 8 + j * 4 + lane / 8, r = warp + 4 * i;
        const char *row = row_of(i) + RANK * 2 + lane % 8 * 16;
        if (r < there)
            cp_async_16((char *)page.box[ROPE_BOX] + r * 128 + (lane % 8 ^ r % 8) * 16, row, true);
    }
}

/* What a weigher remembers of its fetching. */
struct Fetching {
    int turn; /* of the plans */
    int ids;  /* look_ahead() of the next page */
};

/* By all weighers, when they are done with a stage: the next thing into it. */
__device__ __forceinline__ void refill_from_lists(Tiles &s, const Arguments &a,
                                                  const CUtensorMap *q_map, int half, Fetching &f) {
    named_barrier_sync(FEED_BARRIER, WEIGHERS);
    const Plan &plan = s.plan[f.turn];
    f.turn ^= 1;
    bool planner = threadIdx.x == 128, last = plan.query && plan.use.left == 0;
    if (plan.done) {
        if (planner) s.plan[f.turn].done = true;
        return;
    }
    int stage = plan.stage, page = plan.use.page;
    uint64_t *full = &s.full[stage];
    if (planner) {
        s.use[stage] = plan.use;
        if (plan.query && !last) {
            async_proxy_fence();
            mbarrier_expect(full, PAGE_BYTES);
            tma_load_4d(&s.ring[stage], q_map, full, 0, plan.use.tile * TILE, 0, plan.use.batch);
        } else {
            mbarrier_arrive(full);
        }
    }
    __syncwarp();
    if (plan.query) {
        mbarrier_arrive(full);
    } else {
        fetch_rows(s.ring[stage], a, plan.use.length - page * PAGE_TOKENS, f.ids, half);
        mbarrier_arrive_behind_copies(full);
    }
    if (plan.use.left) f.ids = look_ahead(a, plan.use, page + 1);
    if (planner) make_plan(s.plan[f.turn], s.feed, a);
    __syncwarp();
}

#endif /* HOPPER_CODE */
#endif

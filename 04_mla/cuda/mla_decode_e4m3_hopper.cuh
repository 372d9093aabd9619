/*
 * Absorbed decoding from rows of eight bits with wgmma: what a block keeps in shared memory, how it
 * walks along its pages, and how pages and queries get there.
 *
 * The pages of all sequences stand in a line (mla_decode.cuh), and a block takes an equal piece of
 * it; more than 64 rows of queries are two blocks' work, a team's, who walk along the same pages at
 * the same time: so memory gives a page out once, and the L2 cache twice. A page is 41,984 bytes in
 * a row, and one copy without a map. Three or four of them are in the ring, and the warp that gives
 * a stage back last fills it again; it keeps in shared memory (Feed) what is to be fetched next.
 *
 * With LISTS (mla_decode_sparse.cuh) a page is 64 rows of a list. All warps of the weighers fetch
 * eight each, 16 bytes a lane, when they have met behind a page that is weighed; one thread has
 * planned meanwhile which they are. Nothing else is different: the list's rows lie in shared memory
 * as a page's would. (Asked of the copy engine, 656 bytes at a time, they took one warp so long
 * that all waited for it: 440 us instead of 262.)
 */
#ifndef MLA_DECODE_E4M3_HOPPER_CUH
#define MLA_DECODE_E4M3_HOPPER_CUH

#include "04_mla/cuda/mla_decode_sparse.cuh"
#include "common/cuda/codes.cuh"
#include "common/cuda/hopper.cuh"

enum {
    RANK = 512,
    ROPE = 64,
    ROW_BYTES = RANK + 16 + 2 * ROPE,
    KEY = RANK + 16, /* of a row */
    PAGE_BYTES = PAGE_TOKENS * ROW_BYTES,
    BOXES = 9,          /* of 64 columns of Q */
    SCORER_BARRIER = 1, /* and 2, of a second one */
    FEED_BARRIER = 3,   /* of the weighers, when they fetch */
    UNKNOWN = -2
};

/* A block's part of a sequence; count 0: there are no more. */
struct Piece {
    int b, group, first, count, slot, length;
    int parity; /* of its number */
};

/* What is to be fetched next; one warp's. */
struct Feed {
    MlaWalk walk;
    int page, end; /* of the walk's sequence */
    int length;    /* of the walk's list */
    int stage, parity;
    bool done;
};

/* With lists: the page that goes into a stage. */
struct Plan {
    int b, page, length; /* length: of the list */
    bool last, done;     /* last: of the list's piece; done: there is none */
};

/* N: rows of queries of a block. */
template <int N_> struct Tiles {
    static constexpr int N = N_, STAGES = N == 64 ? 3 : 4, BOX_BYTES = N * 128;
    static constexpr int SCORERS =
        N == 16 ? 2 : 1; /* groups of 128 threads; then two of weighers */
    static constexpr int FIRST = 128 * SCORERS, WORKERS = FIRST + 256; /* the first weigher */
    alignas(1024) char q[BOXES][BOX_BYTES];  /* swizzled; the first eight boxes in half precision */
    alignas(1024) char p[STAGES][BOX_BYTES]; /* swizzled: a row for each of queries */
    alignas(128) unsigned char ring[STAGES][PAGE_BYTES];
    alignas(16) float factor[STAGES][N]; /* what O is multiplied by before the page .. */
    int changed[STAGES];                 /* .. unless all are 1 */
    alignas(16) float base[STAGES][N];   /* of the page's exponents, for the other scorer */
    /* Of each row, about the maximum so far in pages of a kind; see raise(). */
    alignas(16) uint32_t top[2 * SCORERS][N];
    alignas(16) float last[N], sum[4 * SCORERS][N]; /* base and warps' sums of the whole piece */
    Piece piece;
    MlaWalk walk;
    Feed feed;
    Plan plan[STAGES];
    /* as in mla_decode_hopper.cuh */
    uint64_t full[STAGES], scored[STAGES], turn[STAGES], empty[STAGES];
    uint64_t based[STAGES], summed, met; /* base is there; sum and last are; all workers are */
};
static_assert(sizeof(Tiles<16>) <= 227 * 1024 && sizeof(Tiles<32>) <= 227 * 1024 &&
                  sizeof(Tiles<64>) <= 227 * 1024,
              "more than a block can have");

struct Arguments {
    MlaDecodeShape shape;
    const bf16 *q;
    const unsigned char *latent;
    const int32_t *block_table, *lengths;
    bf16 *o;
    float *scratch;
    int team;   /* blocks that share the pages */
    int groups; /* of the team's rows, in a sequence */
    float scale_log2;
    const int32_t *rows; /* of lists [batch, max_length] */
    const unsigned char *zeros;
};

#if HOPPER_CODE

__device__ __forceinline__ int lane_of() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp_of() { return threadIdx.x % 128 / 32; } /* of the group */

/* ---- pages ---- */

/* To the page after this one, of this or the next piece. One thread. */
template <int N> __device__ __forceinline__ void next_page(Tiles<N> &s, const Arguments &a) {
    Feed &f = s.feed;
    f.stage = (f.stage + 1) % s.STAGES;
    f.parity ^= f.stage == 0;
    if (++f.page < f.end) return;
    f.done = !f.walk.next(a.lengths, a.groups);
    f.page = f.walk.first;
    f.end = f.walk.first + f.walk.count;
}

/* Asks for the next page, as soon as its stage is empty. One thread. `id`: of that page. */
template <int N> __device__ __forceinline__ void refill(Tiles<N> &s, const Arguments &a, int &id) {
    Feed &f = s.feed;
    if (f.done) return;
    mbarrier_wait(&s.empty[f.stage], f.parity ^ 1);
    mbarrier_expect(&s.full[f.stage], PAGE_BYTES);
    bulk_load(s.ring[f.stage], a.latent + (int64_t)id * PAGE_BYTES, PAGE_BYTES, &s.full[f.stage]);
    next_page(s, a);
    if (!f.done) id = a.block_table[(int64_t)f.walk.b * a.shape.max_pages + f.page];
}

/* What goes into f.stage, and on to the next. One thread. */
template <int N> __device__ __forceinline__ void make_plan(Tiles<N> &s, const Arguments &a) {
    Feed &f = s.feed;
    Plan &p = s.plan[f.stage];
    p.done = f.done;
    if (f.done) return;
    if (f.page == f.walk.first) f.length = a.lengths[f.walk.b];
    p.b = f.walk.b, p.page = f.page, p.length = f.length, p.last = f.page + 1 == f.end;
    next_page(s, a);
}

/* Where the warp's rows of a page are: warp + 8 lane, by the first eight lanes. */
template <int FIRST>
__device__ __forceinline__ int look_ahead(const Arguments &a, const Plan &p, int page) {
    int e = page * PAGE_TOKENS + (threadIdx.x - FIRST) / 32 + 8 * lane_of();
    return lane_of() < 8 && e < p.length ? a.rows[(int64_t)p.b * a.shape.max_length + e] : -1;
}

/* The rows of a stage's plan, by all weighers, when they are done with what it had. ids: those of
 * this page, if it is not a list's first; afterwards of the next. */
template <int N>
__device__ __forceinline__ void refill_rows(Tiles<N> &s, const Arguments &a, int stage, int &ids) {
    constexpr int FIRST = Tiles<N>::FIRST;
    named_barrier_sync(FEED_BARRIER, 256);
    const Plan &p = s.plan[stage];
    if (p.done) {
        if (threadIdx.x == FIRST) s.plan[(stage + 1) % s.STAGES].done = true;
        return;
    }
    int warp = (threadIdx.x - FIRST) / 32, lane = lane_of();
    int there = p.length - p.page * PAGE_TOKENS;
    if (ids == UNKNOWN) ids = look_ahead<FIRST>(a, p, p.page);
    unsigned char *page = s.ring[stage];
    auto row_of = [&](int i) {
        int id = __shfl_sync(~0u, ids, i);
        return id < 0 ? a.zeros : a.latent + (int64_t)id * ROW_BYTES;
    };
#pragma unroll 2
    for (int i = 0; i < 8; i++) { /* 512 bytes of a row */
        const unsigned char *row = row_of(i);
        int r = warp + 8 * i;
        if (r < there) cp_async_16(page + r * ROW_BYTES + lane * 16, row + lane * 16, true);
    }
#pragma unroll
    for (int j = 0; j < 3; j++) { /* the 144 behind them, of three rows */
        int i = lane / 9 + 3 * j, r = warp + 8 * i, at = RANK + lane % 9 * 16;
        const unsigned char *row = row_of(i % 8);
        if (lane < 27 && i < 8 && r < there) cp_async_16(page + r * ROW_BYTES + at, row + at, true);
    }
    mbarrier_arrive_behind_copies(&s.full[stage]);
    ids = p.last ? UNKNOWN : look_ahead<FIRST>(a, p, p.page + 1);
    if (threadIdx.x == FIRST) make_plan(s, a);
    __syncwarp();
}

/* Fills the ring: by one thread, which gets the next page's id; with lists by all weighers. */
template <int N, bool LISTS>
__device__ __forceinline__ int begin_pages(Tiles<N> &s, const Arguments &a) {
    Feed &f = s.feed;
    int id = LISTS ? UNKNOWN : 0;
    if (!LISTS || threadIdx.x == s.FIRST) {
        f.stage = f.parity = 0;
        f.done = !f.walk.next(a.lengths, a.groups);
        f.page = f.walk.first;
        f.end = f.walk.first + f.walk.count;
        if (LISTS) make_plan(s, a);
        if (!LISTS && !f.done) id = a.block_table[(int64_t)f.walk.b * a.shape.max_pages + f.page];
    }
    for (int i = 0; i < s.STAGES; i++)
        if (LISTS)
            refill_rows(s, a, i, id);
        else
            refill(s, a, id);
    return id;
}

/* ---- queries ---- */

/* The block's rows of the piece, by all threads: eight columns at a time, in multiply_scores'
 * order. Zeros past the last row. */
template <int N>
__device__ __forceinline__ void load_queries(Tiles<N> &s, const Arguments &a, int first_row) {
    int rows = mla_rows(a.shape), b = s.piece.b;
    for (int i = threadIdx.x; i < N * (RANK + ROPE) / 8; i += s.WORKERS) {
        int r = i / ((RANK + ROPE) / 8), c = i % ((RANK + ROPE) / 8) * 8, row = first_row + r;
        uint4 in = make_uint4(0, 0, 0, 0);
        if (row < rows) in = *(const uint4 *)(a.q + ((int64_t)b * rows + row) * (RANK + ROPE) + c);
        const uint32_t two[4] = {in.x, in.y, in.z, in.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            float x = __uint_as_float(two[j] << 16) / 256;
            float y = __uint_as_float(two[j] & 0xffff0000u) / 256;
            int column = c + 2 * j; /* where it goes */
            if (c < RANK)
                column = (c / 128 * 8 + (c % 32 + 2 * j) / 4) * 16 + j % 2 * 8 + c % 128 / 32 * 2;
            *(uint32_t *)(s.q[column / 64] + swizzle_128(r, column % 64)) =
                c < RANK ? pack_f16(x, y) : pack_bf16(x, y);
        }
    }
}

/* All workers meet. By an mbarrier, for racecheck does not take two __syncthreads() in different
 * branches for one. */
template <int N> __device__ __forceinline__ void meet(Tiles<N> &s, uint32_t parity) {
    if constexpr (N == 64) { /* one scorer, one branch: the block's own barrier is quicker */
        __syncthreads();
        return;
    }
    mbarrier_arrive_warp(&s.met);
    mbarrier_wait(&s.met, parity);
}

/* By all workers: the block's next piece, and its queries. Returns their first row; -1: there is
 * none. They meet three times. */
template <int N> __device__ __forceinline__ int begin_piece(Tiles<N> &s, const Arguments &a) {
    uint32_t parity = s.piece.parity ^ 1;
    meet(s, parity); /* the last piece has been written */
    if (threadIdx.x == 0) {
        MlaWalk &w = s.walk;
        bool more = w.next(a.lengths, a.groups);
        s.piece = {
            w.b,        w.group, w.first, more ? w.count : 0, w.slot, more ? a.lengths[w.b] : 0,
            (int)parity};
    }
    if (threadIdx.x < sizeof s.top / 4) s.top[threadIdx.x / N][threadIdx.x % N] = 0;
    meet(s, parity ^ 1);
    if (s.piece.count == 0) return -1;
    int first_row = (s.piece.group * a.team + blockIdx.x % a.team) * N;
    load_queries(s, a, first_row);
    async_proxy_fence(); /* wgmma reads them */
    meet(s, parity);
    return first_row;
}

#endif /* HOPPER_CODE */
#endif

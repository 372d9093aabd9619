/*
 * Experts here and elsewhere. The exchange is a node whose backward is the exchange the other way;
 * sorting what has arrived is dispatch.h's, with one choice a row.
 */
#include "05_moe/experts.h"

#include "05_moe/grouped.h"
#include "common/comm/comm.h"

int experts_here(const Context *ctx, int experts) {
    return experts / (ctx ? comm_size(ctx->experts) : 1);
}

int experts_check_spread(int experts, int ranks, Error *err) {
    if (experts % ranks == 0) return 0;
    int fewer = ranks;
    while (experts % fewer) fewer--;
    return error_set(err,
                     "%d experts cannot be spread evenly over %d ranks; over %d they can, or over "
                     "any other number that divides them",
                     experts, ranks, fewer);
}

static Tensor *experts_of_this_process(Context *ctx, Tensor *rows, const Moe *w,
                                       const Tensor *offsets) {
    Tensor *h = grouped_swiglu(ctx, rows, w->gate_proj, w->up_proj, offsets);
    return grouped_linear(ctx, h, w->down_proj, offsets);
}

/* ---- rows on their way ---- */

/* Elements to and from each rank, of the way forward. */
typedef struct Traffic {
    int64_t *sent, *received;
    int64_t rows; /* that arrive */
} Traffic;

typedef struct ExchangeSaved {
    Tensor *out, *in;
    Traffic traffic;
} ExchangeSaved;

static void exchange_backward(Context *ctx, void *saved) {
    ExchangeSaved *s = saved;
    int add;
    void *din = grad_slot(ctx, s->in, &add);
    CHECK(din && !add, "%s: rows that travel are read by nobody else", s->in->name);
    comm_all_to_all(ctx->experts, din, s->traffic.sent, s->out->grad->data, s->traffic.received,
                    ctx->dtype);
}

/* in [R, hidden] -> [rows, hidden] */
static Tensor *exchange(Context *ctx, Tensor *in, int64_t rows, Traffic t) {
    Tensor *out = tensor_new(ctx, "exchanged", ctx->dtype, SHAPE(rows, in->shape[1]));
    comm_all_to_all(ctx->experts, out->data, t.received, in->data, t.sent, ctx->dtype);
    RECORD(ctx, out, exchange_backward, ExchangeSaved, .out = out, .in = in, .traffic = t);
    return out;
}

/* From everyone's counts: what travels, and which of this rank's experts each row that arrives is
 * for; a single row for nobody where none does. */
static Traffic plan_traffic(Context *ctx, const Dispatch *plan, int64_t hidden, Tensor **indices) {
    Comm *comm = ctx->experts;
    int n = comm_size(comm), experts = plan->experts, here = experts / n;
    int first = comm_rank(comm) * here;
    size_t bytes = (size_t)(experts + 1) * sizeof(int32_t);
    int32_t *mine = arena_alloc(&ctx->host, bytes), *all = arena_alloc(&ctx->host, n * bytes);
    tensor_download_ints(ctx, mine, plan->offsets);
    comm_gather_host(comm, all, mine, bytes);
    Traffic t = {.sent = arena_alloc(&ctx->host, (size_t)n * sizeof *t.sent),
                 .received = arena_alloc(&ctx->host, (size_t)n * sizeof *t.received)};
    for (int r = 0; r < n; r++) {
        const int32_t *offsets = all + (int64_t)r * (experts + 1);
        int64_t rows = offsets[first + here] - offsets[first];
        t.sent[r] = (mine[(r + 1) * here] - mine[r * here]) * hidden;
        t.received[r] = rows * hidden;
        t.rows += rows;
    }
    int64_t at = 0, places = t.rows ? t.rows : 1;
    int32_t *expert = arena_alloc(&ctx->host, (size_t)places * sizeof *expert);
    expert[0] = -1;
    for (int r = 0; r < n; r++)
        for (int e = 0; e < here; e++) {
            const int32_t *offset = all + (int64_t)r * (experts + 1) + first + e;
            for (int32_t i = offset[0]; i < offset[1]; i++) expert[at++] = e;
        }
    *indices = tensor_copy_in(ctx, "experts of rows", I32, expert, SHAPE(places, 1));
    return t;
}

/* Rows go back with weight 1: what they count for their tokens' rank knows. */
static Tensor *ones(Context *ctx, int64_t count) {
    float *host = arena_alloc(&ctx->host, (size_t)count * sizeof *host);
    for (int64_t i = 0; i < count; i++) host[i] = 1;
    return tensor_copy_in(ctx, "ones", F32, host, SHAPE(count, 1));
}

/* [experts_spread] */
static Tensor *experts_of_all_ranks(Context *ctx, Tensor *rows, const Moe *w,
                                    const Dispatch *plan) {
    Tensor *indices;
    Traffic there = plan_traffic(ctx, plan, rows->shape[1], &indices);
    Traffic back = {.sent = there.received, .received = there.sent, .rows = rows->shape[0]};
    int64_t places = indices->shape[0];
    Tensor *guests = exchange(ctx, rows, places, there); /* by rank, then by expert */
    Dispatch by_expert = dispatch_plan(ctx, indices, experts_here(ctx, plan->experts), 0);
    Tensor *sorted = dispatch_permute(ctx, guests, &by_expert);
    Tensor *y = experts_of_this_process(ctx, sorted, w, by_expert.offsets);
    y = dispatch_combine(ctx, NULL, y, ones(ctx, places), &by_expert); /* by rank again */
    return exchange(ctx, y, back.rows, back);
}
/* [/experts_spread] */

Tensor *experts_forward(Context *ctx, Tensor *rows, const Moe *w, const Dispatch *plan) {
    return ctx->experts ? experts_of_all_ranks(ctx, rows, w, plan)
                        : experts_of_this_process(ctx, rows, w, plan->offsets);
}

/*
 * Experts that are spread over ranks compute what they would in one process that has all tokens:
 * outputs, gradients of tokens and of weights; also where a rank gets all rows, or none.
 */
#include "05_moe/experts.h"

#include "common/core/ops.h"
#include "common/tests/test_ranks.h"

#include <math.h>

enum { HIDDEN = 12, INNER = 7, EXPERTS = 6, K = 2, T = 5, B = 2, MOST_RANKS = 3 };
enum { ROWS = B * T, OUT = ROWS * HIDDEN, EXPERT = INNER * HIDDEN };

/* Who chooses whom: token n of all ranks' N in its choice j. */
typedef int Choice(int rank, int n, int j);
static int evenly(int rank, int n, int j) { return (3 * n + j + rank) % EXPERTS; }
static int first_alone(int rank, int n, int j) { return (void)rank, (void)n, j; }
static int last_alone(int rank, int n, int j) { return (void)rank, (void)n, EXPERTS - 1 - j; }
static int one_rank_nobody(int rank, int n, int j) { return rank ? -1 : (n + 3 * j) % EXPERTS; }
static int nobody(int rank, int n, int j) { return (void)rank, (void)n, (void)j, -1; }
static int ragged(int rank, int n, int j) { return n % 3 == rank ? -1 : (n * n + j) % EXPERTS; }

typedef struct Case {
    const char *name;
    Choice *choice;
} Case;
static const Case cases[] = {{"evenly", evenly},
                             {"the first experts alone", first_alone},
                             {"the last experts alone", last_alone},
                             {"one rank's tokens to nobody", one_rank_nobody},
                             {"all to nobody", nobody},
                             {"some to nobody", ragged}};

/* What one process has found out: of its tokens, and of its experts. */
typedef struct Found {
    float y[MOST_RANKS * OUT], dx[MOST_RANKS * OUT];
    float dw[3][EXPERTS * EXPERT];
} Found;

typedef struct Job {
    const Case *of;
    int share; /* ranks whose tokens this job is about; one process has all of them */
    const char *directory;
} Job;

static void set_weight(Params *params, Tensor *t, int first_expert, uint64_t stream) {
    int64_t n = tensor_count(t), skipped = t->ndim == 3 ? (int64_t)first_expert * EXPERT : 0;
    float *host = test_floats((int)n);
    for (int64_t i = 0; i < n; i++) host[i] = 0.3f * rng_normal(7, stream, (uint64_t)(skipped + i));
    params_set(params, t, host);
}

static void compute(Context *ctx, const Job *job, int first, int count, Found *found) {
    MoeConfig cfg = moe_config(HIDDEN, INNER, EXPERTS, K);
    cfg.n_shared_experts = 1;
    Params params;
    Error err = {0};
    params_init(&params, ctx);
    Moe w = moe_init(&params, "mlp", &cfg);
    if (params_allocate(&params, true, &err)) fatal("%s", err.text);
    int here = experts_here(ctx, EXPERTS);
    for (int i = 0; i < params.count; i++)
        set_weight(&params, params.list[i], comm_rank(ctx->experts) * here, (uint64_t)i);
    static float numbers[MOST_RANKS * OUT], weights[MOST_RANKS * OUT];
    static int32_t chosen[MOST_RANKS * ROWS * K];
    for (int i = 0; i < count * OUT; i++) {
        numbers[i] = rng_normal(7, 100, (uint64_t)(first * OUT + i));
        weights[i] = rng_normal(7, 101, (uint64_t)(first * OUT + i));
    }
    for (int i = 0; i < count * ROWS * K; i++)
        chosen[i] = job->of->choice(first + i / (ROWS * K), i / K % ROWS, i % K);
    ctx->recording = true;
    Tensor *x = tensor_copy_in(ctx, "x", F32, numbers, SHAPE(count * B, T, HIDDEN));
    x->requires_grad = true;
    Tensor *replay = tensor_copy_in(ctx, "replay", I32, chosen, SHAPE(count * ROWS, K));
    Tensor *y = moe_forward_replayed(ctx, x, &w, &cfg, replay, NULL, NULL, (Residual){0});
    Tensor *c = tensor_copy_in(ctx, "c", F32, weights, SHAPE(count * B, T, HIDDEN));
    tensor_download(ctx, found->y, y);
    tape_backward(ctx, weighted_sum(ctx, y, c));
    tensor_download(ctx, found->dx, x->grad);
    Tensor *const experts[] = {w.gate_proj, w.up_proj, w.down_proj};
    for (int i = 0; i < 3; i++) params_get_grad(&params, experts[i], found->dw[i]);
    params_free(&params);
}

static void work(Comm *comm, void *user) {
    const Job *job = user;
    Found *found = must_alloc(1, sizeof *found);
    Context ctx;
    Error err;
    char path[600];
    rank_ok(comm, context_init(&ctx, CPU, F32, 1, &err), &err);
    ctx.comm = ctx.experts = comm;
    bool alone = comm == NULL;
    compute(&ctx, job, alone ? 0 : comm_rank(comm), alone ? job->share : 1, found);
    snprintf(path, sizeof path, "%s/%d_of_%d", job->directory, comm_rank(comm), comm_size(comm));
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(found, sizeof *found, 1, file) != 1 || fclose(file))
        comm_abort(comm, "cannot write %s", path);
}

static Found *read_found(const Job *job, int rank, int ranks) {
    char name[32];
    size_t bytes;
    snprintf(name, sizeof name, "%d_of_%d", rank, ranks);
    Found *found = (Found *)file_text(path_in(job->directory, name), &bytes);
    cr_assert(bytes == sizeof *found);
    return found;
}

Test(experts, over_ranks_are_experts_of_one_process) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int ranks = 2; ranks <= MOST_RANKS; ranks++) {
            Scratch scratch = scratch_open();
            Job job = {&cases[i], ranks, scratch.directory};
            cr_assert(ranks_run(1, work, &job) == 0 && ranks_run(ranks, work, &job) == 0, "%s",
                      cases[i].name);
            const Found *all = read_found(&job, 0, 1);
            int here = EXPERTS / ranks * EXPERT;
            for (int r = 0; r < ranks; r++) {
                const Found *own = read_found(&job, r, ranks);
                /* Each row is a product of its own, and an expert's rows come in one order. */
                check_close(cases[i].name, own->y, all->y + r * OUT, OUT, 1e-6);
                check_close(cases[i].name, own->dx, all->dx + r * OUT, OUT, 1e-6);
                for (int k = 0; k < 3; k++)
                    check_close(cases[i].name, own->dw[k], all->dw[k] + r * here, here, 1e-6);
            }
        }
}

Test(experts, that_do_not_divide_are_refused_with_what_would) {
    Error err = {0};
    check_ok(experts_check_spread(6, 3, &err), &err);
    cr_assert(experts_check_spread(6, 4, &err) == -1);
    cr_assert(strstr(err.text, "6 experts") && strstr(err.text, "over 3 they can"), "%s", err.text);
}

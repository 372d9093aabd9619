/*
 * The common operations against three oracles: plain loops in double precision, finite differences,
 * and what must hold for any input. Every case runs on every device and dtype there is.
 *
 * Sizes are ragged on purpose: 1, 31, 33, 127 rows do not fill a warp, a tile or a chunk.
 */
#include "common/tests/test_ops.h"

/* ---- linear ---- */

DEVICE_TEST(linear, agrees_with_plain_loops) {
    for (int k = 0; k < SIZES; k++) {
        Context ctx = test_context(device, dtype);
        int64_t rows = sizes[k][0], in = sizes[k][1], out = in + 3;
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, in));
        Tensor *w = test_normal(&ctx, "w", 2, SHAPE(out, in));
        Tensor *b = test_normal(&ctx, "b", 3, SHAPE(out));
        float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w), *bh = test_values(&ctx, b);
        float *want = test_floats(rows * out);
        linear_reference_cpu(want, NULL, xh, wh, bh, rows, in, out);
        /* Twice the rounding of a sum of `in` products: the order of the sum is the library's
         * choice. */
        check_tensor(&ctx, "linear with bias", linear(&ctx, x, w, b), want,
                     2 * tolerance_of(dtype, in));
        context_free(&ctx);
    }
}

/* A large matrix and few rows, odd in every direction: on the CPU these have loops of their own. */
CONTEXT_TEST(linear, few_rows) {
    static const int64_t rows[] = {1, 2, 3, 5, 16, 17};
    enum { IN = 517, OUT = 515, MOST = 17 };
    Tensor *w = test_normal(&ctx, "w", 2, SHAPE(OUT, IN));
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(MOST, IN));
    float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w);
    float *want = test_floats(MOST * OUT);
    linear_reference_cpu(want, NULL, xh, wh, NULL, MOST, IN, OUT);
    for (int k = 0; k < 6; k++) {
        Tensor some = tensor_view(x->data, "x", x->dtype, x->device, SHAPE(rows[k], IN));
        check_tensor(&ctx, "linear, few rows", linear(&ctx, &some, w, NULL), want,
                     2 * tolerance_of(dtype, IN)); /* as above */
    }
}

CONTEXT_TEST(linear, gradients_agree_with_plain_loops) {
    int64_t rows = 33, in = 31, out = 17;
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, in));
    Tensor *w = test_normal(&ctx, "w", 2, SHAPE(out, in)),
           *b = test_normal(&ctx, "b", 3, SHAPE(out));
    /* Weights' gradients are F32 whatever the dtype, as in Params. */
    Tensor *leaves[2] = {w, b};
    for (int i = 0; i < 2; i++) {
        Tensor *g = tensor_new(&ctx, leaves[i]->name, F32, leaves[i]->shape, leaves[i]->ndim);
        test_poison(&ctx, g);
        leaves[i]->grad = g;
    }
    ctx.recording = true;
    Tensor *y = linear(&ctx, x, w, b);
    Tensor *c = random_constant(&ctx, 4, y);
    /* Used twice: the second contribution is added to the first. */
    Tensor *loss = weighted_sum(&ctx, add(&ctx, y, linear(&ctx, x, w, b)), c);
    tape_backward(&ctx, loss);

    float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w);
    float ch[33 * 17], dx[33 * 31], dw[17 * 31], db[17];
    tensor_download(&ctx, ch, c);
    for (int64_t i = 0; i < rows * out; i++) ch[i] *= 2;
    linear_backward_reference_cpu(dx, dw, db, ch, xh, wh, rows, in, out);
    /* In BF16 dy itself is rounded (2^-9 in the mean), and so is dx after each of its two
     * contributions. */
    double tolerance = dtype == BF16 ? 3 * 0x1p-9 : 4 * tolerance_of(F32, 2 * rows);
    check_tensor(&ctx, "linear: dx", x->grad, dx, tolerance);
    check_tensor(&ctx, "linear: dw", w->grad, dw, tolerance);
    check_tensor(&ctx, "linear: dbias", b->grad, db, tolerance);
}

/* base + x W^T + b is what add() and linear() make of it, and so are all gradients. */
DEVICE_TEST(linear, onto_equals_the_sum) {
    const int64_t shapes[][3] = {{1, 7, 5}, {33, 64, 24}, {127, 31, 129}, {128, 64, 512}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        int64_t rows = shapes[k][0], in = shapes[k][1], out = shapes[k][2];
        Context ctx = test_context(device, dtype);
        float *got[2][5];
        for (int onto = 0; onto < 2; onto++) {
            ctx.recording = false;
            Tensor *base = test_normal(&ctx, "base", 1, SHAPE(rows, out));
            Tensor *x = test_normal(&ctx, "x", 2, SHAPE(rows, in));
            Tensor *w = test_normal(&ctx, "w", 3, SHAPE(out, in));
            Tensor *b = test_normal(&ctx, "b", 4, SHAPE(out));
            Tensor *const weights[] = {w, b};
            for (int i = 0; i < 2; i++) { /* as Params has them: F32 */
                weights[i]->grad = arena_alloc(&ctx.host, sizeof *w->grad);
                *weights[i]->grad = *tensor_new(&ctx, "dw", F32, weights[i]->shape, 2 - i);
                test_poison(&ctx, weights[i]->grad);
            }
            ctx.recording = true;
            Tensor *y = onto ? linear_residual(&ctx, x, w, b, (Residual){.x = base})
                             : add(&ctx, base, linear(&ctx, x, w, b));
            got[onto][0] = test_values(&ctx, y);
            /* base has another reader, behind and before: its gradient is handed on, then added
             * to */
            Tensor *loss = weighted_sum(&ctx, y, random_constant(&ctx, 5, y));
            tape_backward(&ctx, add(&ctx, loss, sum(&ctx, base)));
            got[onto][1] = test_gradient(&ctx, base);
            got[onto][2] = test_gradient(&ctx, x);
            got[onto][3] = test_gradient(&ctx, w);
            got[onto][4] = test_gradient(&ctx, b);
            context_reset(&ctx);
        }
        const int64_t counts[] = {rows * out, rows * out, rows * in, out * in, out};
        const char *const names[] = {"y", "dbase", "dx", "dw", "db"};
        for (int i = 0; i < 5; i++) { /* in BF16 the sum rounds the product first, and once more */
            check_close(names[i], got[1][i], got[0][i], counts[i], 4 * tolerance_of(dtype, in));
        }
        context_free(&ctx);
    }
}

/* An expert without tokens gets a matrix without rows: no output, and a gradient of zeros. */
Test(linear, no_rows) {
    float w[6] = {1, 2, 3, 4, 5, 6}, dw[6], zeros[6] = {0}, nothing = 0;
    memset(dw, 0xFF, sizeof dw);
    linear_forward_cpu(&nothing, &nothing, w, NULL, 0, 2, 3);
    linear_backward_cpu(&nothing, 0, dw, 0, NULL, 0, &nothing, &nothing, w, 0, 2, 3);
    check_close("dw of no rows", dw, zeros, 6, 0);
}

/* ---- element by element ---- */

static double silu_of(double x) { return x / (1 + exp(-x)); }
static double silu_slope(double x) {
    double s = 1 / (1 + exp(-x));
    return s * (1 + x * (1 - s));
}

DEVICE_TEST(elementwise, values_and_gradients) {
    for (int k = 0; k < SIZES; k++) {
        Context ctx = test_context(device, dtype);
        Tensor *a = test_normal(&ctx, "a", 1, SHAPE(sizes[k][0], sizes[k][1]));
        Tensor *b = test_normal(&ctx, "b", 2, SHAPE(sizes[k][0], sizes[k][1]));
        int64_t n = tensor_count(a);
        float *ah = test_values(&ctx, a), *bh = test_values(&ctx, b);
        float *want = test_floats(n), *da = test_floats(n);
        float *db = test_floats(n);
        for (int op = 0; op < 3; op++) {
            ctx.recording = true;
            const char *names[3] = {"add", "silu", "swiglu"};
            a->has_grad = b->has_grad = false;
            Tensor *y = op == 0 ? add(&ctx, a, b) : op == 1 ? silu(&ctx, a) : swiglu(&ctx, a, b);
            Tensor *c = random_constant(&ctx, 4, y);
            float *ch = test_floats(n);
            tensor_download(&ctx, ch, c);
            for (int64_t i = 0; i < n; i++) {
                double x = ah[i], u = bh[i];
                want[i] = (float)(op == 0 ? x + u : op == 1 ? silu_of(x) : silu_of(x) * u);
                da[i] = (float)(ch[i] * (op == 0   ? 1
                                         : op == 1 ? silu_slope(x)
                                                   : u * silu_slope(x)));
                db[i] = (float)(ch[i] * (op == 0 ? 1 : silu_of(x)));
            }
            check_tensor(&ctx, names[op], y, want, elementwise_tolerance(dtype));
            tape_backward(&ctx, weighted_sum(&ctx, y, c));
            /* Two roundings in BF16: of dy and of the product. */
            check_tensor(&ctx, names[op], a->grad, da, 2 * elementwise_tolerance(dtype));
            if (op != 1)
                check_tensor(&ctx, names[op], b->grad, db, 2 * elementwise_tolerance(dtype));
        }
        context_free(&ctx);
    }
}

/* x used twice by add: the gradient is 2, not 1. */
CPU_TEST(elementwise, a_tensor_used_twice_gets_both_gradients) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(5));
    ctx.recording = true;
    tape_backward(&ctx, sum(&ctx, add(&ctx, x, x)));
    check_close("d sum(x + x)", x->grad->data, (float[]){2, 2, 2, 2, 2}, 5, 0);
}

/* ---- slice ---- */

/* y = two slices of x added: each element of x gets its gradient from none, one or both of them.
 * Multiples of 8 take the GPU's wide path. */
DEVICE_TEST(slice, columns_and_their_gradients) {
    const struct {
        int rows, width, from[2], count;
    } cases[] = {{1, 3, {1, 2}, 1}, {33, 31, {3, 9}, 17}, {127, 48, {8, 24}, 24}};
    for (int k = 0; k < 3; k++) {
        int rows = cases[k].rows, width = cases[k].width, count = cases[k].count;
        Context ctx = test_context(device, dtype);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, width)), *y[2];
        float *xh = test_values(&ctx, x), *want = test_floats(rows * count);
        float *dx = calloc((size_t)(rows * width), sizeof *dx);
        ctx.recording = true;
        for (int s = 0; s < 2; s++) {
            y[s] = slice(&ctx, x, cases[k].from[s], count);
            for (int i = 0; i < rows * count; i++)
                want[i] = xh[i / count * width + cases[k].from[s] + i % count];
            check_tensor(&ctx, "slice", y[s], want, 0);
        }
        Tensor *both = add(&ctx, y[0], y[1]), *c = random_constant(&ctx, 4, both);
        float *ch = test_values(&ctx, c);
        for (int s = 0; s < 2; s++)
            for (int i = 0; i < rows * count; i++)
                dx[i / count * width + cases[k].from[s] + i % count] += ch[i];
        tape_backward(&ctx, weighted_sum(&ctx, both, c));
        /* In BF16 the constant is rounded, and where two meet their sum is. */
        check_tensor(&ctx, "dx", x->grad, dx, 2 * elementwise_tolerance(dtype));
        context_free(&ctx);
    }
}

/* ---- concat ---- */

/* [a | b] and [b | a] added: each gets its gradient from two places, the second time added. */
DEVICE_TEST(concat, columns_and_their_gradients) {
    const int64_t cases[][2] = {{1, 1}, {33, 31}, {127, 48}}; /* multiples of 8 go the wide way */
    for (int k = 0; k < 3; k++) {
        int64_t rows = cases[k][0], w = cases[k][1], n = rows * w;
        Context ctx = test_context(device, dtype);
        Tensor *a = test_normal(&ctx, "a", 1, SHAPE(rows, w)),
               *b = test_normal(&ctx, "b", 2, SHAPE(rows, w));
        float *ah = test_values(&ctx, a), *bh = test_values(&ctx, b);
        float *want = test_floats(2 * n), *da = test_floats(n), *db = test_floats(n);
        ctx.recording = true;
        Tensor *ab = concat(&ctx, a, b), *ba = concat(&ctx, b, a),
               *c = random_constant(&ctx, 3, ab), *e = random_constant(&ctx, 4, ab);
        float *ch = test_values(&ctx, c), *eh = test_values(&ctx, e);
        for (int64_t i = 0; dtype == BF16 && i < 2 * n; i++) /* as the gradients of ab and ba */
            ch[i] = bf16_to_float(bf16_from_float(ch[i])),
            eh[i] = bf16_to_float(bf16_from_float(eh[i]));
        for (int64_t i = 0; i < n; i++) {
            int64_t left = i / w * 2 * w + i % w, right = left + w;
            want[left] = ah[i], want[right] = bh[i];
            da[i] = ch[left] + eh[right], db[i] = ch[right] + eh[left];
        }
        check_tensor(&ctx, "concat", ab, want, 0);
        tape_backward(&ctx, add(&ctx, weighted_sum(&ctx, ab, c), weighted_sum(&ctx, ba, e)));
        check_tensor(&ctx, "da", a->grad, da, elementwise_tolerance(dtype));
        check_tensor(&ctx, "db", b->grad, db, elementwise_tolerance(dtype));
        context_free(&ctx);
    }
}

/* a [rows, 16] and b [rows, 40], and only b wants its gradient. */
CONTEXT_TEST(concat, of_two_widths) {
    enum { ROWS = 5, A = 16, BB = 40 };
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(ROWS, A)),
           *b = test_normal(&ctx, "b", 2, SHAPE(ROWS, BB));
    a->requires_grad = false;
    float *ah = test_values(&ctx, a), *bh = test_values(&ctx, b), want[ROWS * (A + BB)],
          ones[ROWS * BB];
    for (int i = 0; i < ROWS * (A + BB); i++) {
        int row = i / (A + BB), column = i % (A + BB);
        want[i] = column < A ? ah[row * A + column] : bh[row * BB + column - A];
    }
    for (int i = 0; i < ROWS * BB; i++) ones[i] = 1;
    ctx.recording = true;
    Tensor *y = concat(&ctx, a, b);
    check_tensor(&ctx, "concat", y, want, 0);
    tape_backward(&ctx, sum(&ctx, y));
    check_tensor(&ctx, "db", b->grad, ones, 0);
    cr_assert(!a->has_grad);
}

/* ---- rmsnorm ---- */

/* Every way a row is held on the GPU: by a warp, by a block, not at all; more rows than teams. */
DEVICE_TEST(rmsnorm, values_and_gradients_by_plain_loops) {
    const int64_t more[][2] = {{9, 192},  {5000, 8}, {37, 512}, {19, 1024},
                               {3, 4096}, {5, 7168}, {2, 9216}};
    for (int k = 0; k < SIZES + (int)(sizeof more / sizeof *more); k++) {
        Context ctx = test_context(device, dtype);
        const int64_t *size = k < SIZES ? sizes[k] : more[k - SIZES];
        int64_t rows = size[0], d = size[1];
        double eps = 1e-6;
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(rows, d)),
               *w = test_normal(&ctx, "w", 2, SHAPE(d));
        w->grad = tensor_new(&ctx, "w", F32, SHAPE(d));
        test_poison(&ctx, w->grad);
        float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w);
        float *want = test_floats(rows * d), *dx = test_floats(rows * d);
        float *dw = test_floats(d), *ch = test_floats(rows * d);
        double *dwd = calloc((size_t)d, sizeof *dwd);
        ctx.recording = true;
        Tensor *y = rmsnorm(&ctx, x, w, (float)eps);
        Tensor *c = random_constant(&ctx, 4, y);
        tensor_download(&ctx, ch, c);
        Tensor *loss = weighted_sum(&ctx, y, c);
        bool twice = k % 2; /* x has another reader, whose contribution comes first: all ones */
        if (twice) loss = add(&ctx, loss, sum(&ctx, x));
        tape_backward(&ctx, loss);
        for (int64_t i = 0; i < rows; i++) {
            double squares = 0, dot = 0;
            for (int64_t j = 0; j < d; j++) squares += (double)xh[i * d + j] * xh[i * d + j];
            double r = 1 / sqrt(squares / (double)d + eps);
            for (int64_t j = 0; j < d; j++)
                dot += (double)ch[i * d + j] * wh[j] * xh[i * d + j] * r;
            for (int64_t j = 0; j < d; j++) {
                double xn = xh[i * d + j] * r, g = ch[i * d + j];
                want[i * d + j] = (float)(xn * wh[j]);
                dx[i * d + j] = (float)(r * (g * wh[j] - xn * dot / (double)d) + twice);
                dwd[j] += g * xn;
            }
        }
        for (int64_t j = 0; j < d; j++) dw[j] = (float)dwd[j];
        check_tensor(&ctx, "rmsnorm", y, want, 2 * tolerance_of(dtype, d));
        if (d > 1) /* with d = 1 dx cancels to about eps: rounding is all that is left */
            check_tensor(&ctx, "rmsnorm: dx", x->grad, dx, 4 * tolerance_of(dtype, d));
        check_tensor(&ctx, "rmsnorm: dw", w->grad, dw, 4 * tolerance_of(dtype, rows + d));
        context_free(&ctx);
    }
}

/* Scaling x does not change the output (up to eps), so the gradient is orthogonal to x. */
CONTEXT_TEST(rmsnorm, gradient_is_orthogonal_to_its_input) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(7, 96)), *w = test_normal(&ctx, "w", 2, SHAPE(96));
    w->requires_grad = false;
    ctx.recording = true;
    Tensor *y = rmsnorm(&ctx, x, w, 0);
    tape_backward(&ctx, weighted_sum(&ctx, y, random_constant(&ctx, 4, y)));
    float *xh = test_values(&ctx, x), *g = test_gradient(&ctx, x);
    for (int i = 0; i < 7; i++) {
        double dot = 0, xx = 0, gg = 0;
        for (int j = 96 * i; j < 96 * (i + 1); j++)
            dot += xh[j] * g[j], xx += xh[j] * xh[j], gg += g[j] * g[j];
        /* cosine of the angle: rounding of each of 96 products, in random directions */
        cr_assert(fabs(dot) <= 2 * tolerance_of(dtype, 96) * sqrt(xx * gg), "row %d: cosine %g", i,
                  dot / sqrt(xx * gg));
    }
}

/* ---- dropout ---- */

CONTEXT_TEST(dropout, keeps_the_mean_and_repeats_its_mask) {
    enum { N = 100003 };
    float *ones = test_floats(N);
    for (int i = 0; i < N; i++) ones[i] = 1;
    Tensor *x = tensor_copy_in(&ctx, "ones", dtype, ones, SHAPE(N));
    x->requires_grad = true;
    ctx.recording = true;
    uint64_t stream = ctx.rng.stream;
    Tensor *y = dropout(&ctx, x, 0.25f);
    tape_backward(&ctx, sum(&ctx, y));
    float *yh = test_values(&ctx, y), *g = test_gradient(&ctx, x);
    int kept = 0;
    for (int i = 0; i < N; i++) {
        bool keep = rng_uniform(ctx.rng.seed, stream, (uint64_t)i) >= 0.25f;
        cr_assert((yh[i] != 0) == keep, "element %d: the mask is not the generator's", i);
        cr_assert(g[i] == yh[i], "element %d: gradient %g, mask %g", i, g[i], yh[i]);
        kept += yh[i] != 0;
    }
    /* Five standard deviations of a binomial count. */
    cr_assert(fabs(kept - 0.75 * N) < 5 * sqrt(N * 0.75 * 0.25), "%d of %d kept", kept, N);
    cr_assert(dropout(&ctx, x, 0) == x, "p = 0 must cost nothing");
}

/* A sample is dropped from in the same way wherever it stands in a batch, and however long its row
 * is: three of five alone, or two of them behind the first. */
CONTEXT_TEST(dropout, belongs_to_the_sample) {
    enum { D = 13, WIDTH = 5 * D };
    float ones[3 * WIDTH];
    for (int i = 0; i < 3 * WIDTH; i++) ones[i] = 1;
    Rng rng = ctx.rng;
    Tensor *x = tensor_copy_in(&ctx, "ones", dtype, ones, SHAPE(3, 5, D));
    float *all = test_values(&ctx, dropout(&ctx, x, 0.5f));
    ctx.rng = rng, ctx.rng.sample = 1;
    x = tensor_copy_in(&ctx, "ones", dtype, ones, SHAPE(2, 4, D));
    float *some = test_values(&ctx, dropout(&ctx, x, 0.5f));
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 4 * D; i++)
            cr_assert(some[b * 4 * D + i] == all[(b + 1) * WIDTH + i], "sample %d, %d", b, i);
    cr_assert(memcmp(all, all + WIDTH, WIDTH * sizeof *all), "two samples, one mask");
}

/* ---- sums ---- */

DEVICE_TEST(sums, sum_mean_and_weighted_sum) {
    for (int k = 0; k < SIZES; k++) {
        Context ctx = test_context(device, dtype);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(sizes[k][0], sizes[k][1]));
        Tensor *c = random_constant(&ctx, 4, x);
        int64_t n = tensor_count(x);
        float *xh = test_values(&ctx, x), *ch = test_floats(n);
        tensor_download(&ctx, ch, c);
        double total = 0, weighted = 0, size = 0;
        for (int64_t i = 0; i < n; i++)
            total += xh[i], weighted += (double)xh[i] * ch[i], size += fabs(xh[i]);
        float wants[3] = {(float)total, (float)(total / (double)n), (float)weighted};
        Tensor *got[3] = {sum(&ctx, x), mean(&ctx, x), weighted_sum(&ctx, x, c)};
        for (int i = 0; i < 3; i++) {
            float *value = test_values(&ctx, got[i]);
            /* The sum may cancel: rounding is relative to the size of what was summed. */
            double room = tolerance_of(F32, n) * 4 * size / (i == 1 ? (double)n : 1);
            cr_assert(fabs(value[0] - wants[i]) <= room, "sum %d of %lld: %g, not %g", i,
                      (long long)n, value[0], wants[i]);
        }
        context_free(&ctx);
    }
}

/* ---- all together: a small network, by finite differences ---- */

typedef struct Network {
    Tensor *table, *norm, *gate, *up, *down, *head, *ids, *targets;
} Network;

static Tensor *network_loss(Context *ctx, void *user) {
    Network *n = user;
    Tensor *x = embedding(ctx, n->table, n->ids);
    Tensor *h = rmsnorm(ctx, x, n->norm, 1e-6f);
    h = linear(ctx, swiglu(ctx, linear(ctx, h, n->gate, NULL), linear(ctx, h, n->up, NULL)),
               n->down, NULL);
    x = add(ctx, x, dropout(ctx, silu(ctx, h), 0.1f));
    x = reshape(ctx, x, SHAPE(6, 8));
    return cross_entropy(ctx, linear(ctx, x, n->head, NULL), n->targets);
}

CPU_TEST(network, gradients_agree_with_finite_differences) {
    int32_t ids[6] = {1, 2, 3, 2, 0, 4}, targets[6] = {2, 3, 2, IGNORE_TARGET, 4, 0};
    Network n = {
        .table = test_normal(&ctx, "table", 1, SHAPE(5, 8)),
        .norm = test_normal(&ctx, "norm", 2, SHAPE(8)),
        .gate = test_normal(&ctx, "gate", 3, SHAPE(12, 8)),
        .up = test_normal(&ctx, "up", 4, SHAPE(12, 8)),
        .down = test_normal(&ctx, "down", 5, SHAPE(8, 12)),
        .head = test_normal(&ctx, "head", 6, SHAPE(5, 8)),
        .ids = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(2, 3)),
        .targets = tensor_copy_in(&ctx, "targets", I32, targets, SHAPE(6)),
    };
    Tensor *inputs[] = {n.table, n.norm, n.gate, n.up, n.down, n.head};
    /* Central differences are off by step^2 f'''/6: 1e-4 relative to the gradient at this step, and
     * the loss is rounded. */
    check_gradients(&ctx, "network", network_loss, &n, inputs, 6, 40, 1e-2, 2e-2);
}

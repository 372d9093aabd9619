/* Checks exercise 03.9: the heads have moved, and the module's output has not changed. */
#include "03_multihead/multihead.h"

#include "common/program/testing.h"

typedef struct Matrices {
    float *q, *k, *v, *o;
} Matrices;

void shuffle_heads(Matrices to_fill, Matrices old, const int *to, int H, int H_kv, int D,
                   int hidden);

enum { HIDDEN = 20, MOST = 12 * 5 * HIDDEN };

static void compare(int H, int H_kv, int D, const int *to) {
    Context ctx = test_context(CPU, F32);
    Multihead old = {0}, new = {0};
    Tensor **of_old[] = {&old.q_proj, &old.k_proj, &old.v_proj, &old.o_proj};
    Tensor **of_new[] = {&new.q_proj, &new.k_proj, &new.v_proj, &new.o_proj};
    for (int i = 0; i < 4; i++) {
        int heads = i == 1 || i == 2 ? H_kv : H;
        int64_t rows = i == 3 ? HIDDEN : heads * D, columns = i == 3 ? heads * D : HIDDEN;
        *of_old[i] = test_normal(&ctx, "old", (uint64_t)i, SHAPE(rows, columns));
        *of_new[i] = tensor_new(&ctx, "new", F32, SHAPE(rows, columns));
        for (int64_t j = 0; j < rows * columns; j++) ((float *)(*of_old[i])->data)[j] *= 0.3f;
        test_poison(&ctx, *of_new[i]);
    }
    Matrices from = {old.q_proj->data, old.k_proj->data, old.v_proj->data, old.o_proj->data};
    Matrices into = {new.q_proj->data, new.k_proj->data, new.v_proj->data, new.o_proj->data};
    shuffle_heads(into, from, to, H, H_kv, D, HIDDEN);
    for (int g = 0; g < H_kv; g++)
        check_close("a key head's rows", into.k + to[g] * D * HIDDEN, from.k + g * D * HIDDEN,
                    D * HIDDEN, 0);
    Tensor *x = test_normal(&ctx, "x", 9, SHAPE(2, 11, HIDDEN));
    MultiheadConfig cfg = {HIDDEN, H, H_kv, D, false};
    float *expected =
        test_values(&ctx, multihead_forward(&ctx, x, &old, &cfg, NULL, (Residual){0}));
    check_tensor(&ctx, "the output", multihead_forward(&ctx, x, &new, &cfg, NULL, (Residual){0}),
                 expected, 1e-5); /* F32; the last product sums in another order */
}

Test(shuffle, plain_heads) { compare(4, 4, 5, (const int[]){2, 0, 3, 1}); }
Test(shuffle, groups) { compare(12, 3, 4, (const int[]){1, 2, 0}); }
Test(shuffle, one_group) { compare(6, 1, 5, (const int[]){0}); }

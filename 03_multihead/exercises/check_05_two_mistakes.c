/* The loops against chapter 02's reference, at sizes that tell every index from every other. */
#include "02_causal/causal.h"

#include "common/program/testing.h"

void grouped_attention(float *o, const float *q, const float *k, const float *v, int T, int H,
                       int H_kv, int D);

static void compare(int T, int H, int H_kv, int D) {
    Context ctx = test_context(CPU, F32);
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(T, H, D));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(T, H_kv, D));
    Tensor *v = test_normal(&ctx, "v", 3, SHAPE(T, H_kv, D));
    Tensor *o = tensor_new(&ctx, "o", F32, SHAPE(T, H, D));
    Tensor *expected = tensor_new(&ctx, "expected", F32, SHAPE(T, H, D));
    Tensor *lse = tensor_new(&ctx, "lse", F32, SHAPE(H, T));
    causal_reference_cpu(expected->data, lse->data, q->data, k->data, v->data,
                         attention_shape(1, H, H_kv, T, T, D, D, 1));
    test_poison(&ctx, o);
    grouped_attention(o->data, q->data, k->data, v->data, T, H, H_kv, D);
    check_tensor(&ctx, "o", o, expected->data, 1e-5); /* F32, sums of up to 40 */
    context_free(&ctx);
}

Test(two_mistakes, as_many_key_heads) { compare(9, 3, 3, 5); }
Test(two_mistakes, one_key_head) { compare(9, 3, 1, 5); }
Test(two_mistakes, groups) {
    compare(1, 4, 2, 5);
    compare(40, 6, 2, 7);
    compare(33, 8, 4, 3);
}

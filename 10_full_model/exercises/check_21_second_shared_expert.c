/* Exercise 10.21's check: the sum of two experts, the config, and the losses. */
#include "05_moe/mlp.h"
#include "10_full_model/exercises/see_the_loss.h"

typedef struct SharedExpert {
    float *gate, *up, *down;
} SharedExpert;

void join(SharedExpert *both, const SharedExpert experts[2], int inner, int hidden);
void second_shared(ModelConfig *cfg);
extern const int verdict;

enum { ROWS = 3, INNER = 5, HIDDEN = 4 };

static Mlp mlp_of(Context *ctx, int inner, uint64_t stream) {
    return (Mlp){.gate_proj = test_normal(ctx, "gate", stream, SHAPE(inner, HIDDEN)),
                 .up_proj = test_normal(ctx, "up", stream + 1, SHAPE(inner, HIDDEN)),
                 .down_proj = test_normal(ctx, "down", stream + 2, SHAPE(HIDDEN, inner))};
}

static SharedExpert numbers_of(const Mlp *m) {
    return (SharedExpert){m->gate_proj->data, m->up_proj->data, m->down_proj->data};
}

CPU_TEST(second_shared_expert, is_the_sum_of_both) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(ROWS, HIDDEN));
    Mlp a = mlp_of(&ctx, INNER, 2), b = mlp_of(&ctx, INNER, 5), both = mlp_of(&ctx, 2 * INNER, 8);
    SharedExpert two[2] = {numbers_of(&a), numbers_of(&b)}, joined = numbers_of(&both);
    join(&joined, two, INNER, HIDDEN);
    Tensor *y = mlp_forward(&ctx, x, &both, (Residual){0});
    Tensor *of_a = mlp_forward(&ctx, x, &a, (Residual){0});
    Tensor *want = mlp_forward(&ctx, x, &b, (Residual){.x = of_a});
    check_close("y", y->data, want->data, ROWS * HIDDEN, tolerance_of(F32, 2 * INNER));
}

Test(second_shared_expert, the_loss) {
    ModelConfig one = loss_config(), two = one;
    second_shared(&two);
    cr_assert(two.n_shared_experts == 2, "%d shared experts", two.n_shared_experts);
    cr_assert(two.n_shared_experts + two.num_experts_per_tok ==
                  one.n_shared_experts + one.num_experts_per_tok,
              "a token meets %d experts, not %d", two.n_shared_experts + two.num_experts_per_tok,
              one.n_shared_experts + one.num_experts_per_tok);
    check_verdict(verdict, loss_after(one, NULL), loss_after(two, NULL));
}

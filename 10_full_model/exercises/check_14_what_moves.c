/* Exercise 10.14's check: the counts of the presets. */
#include "10_full_model/exercises/14_what_moves.h"
#include "10_full_model/model/config.h"

#include <criterion/criterion.h>
#include <math.h>

static void near(double answer, double truth, const char *what) {
    cr_assert(fabs(answer / truth - 1) <= 0.01, "%s is not %g", what, answer);
}

Test(moves, what) {
    enum { RANKS = 8 };
    ModelConfig cfg, v3;
    cr_assert(config_preset(&cfg, "109m", NULL) == 0 && config_preset(&v3, "v3", NULL) == 0);
    double p = (double)config_parameters(&cfg), others = (RANKS - 1.0) / RANKS;
    near(sent_by_all_reduce, 2 * others * 4 * p, "sent_by_all_reduce");
    near(sent_by_zero, others * (4 + 2) * p, "sent_by_zero");
    near(kept_by_zero, 3 * 4 * p / RANKS, "kept_by_zero");
    near(token_of_v3, 2.0 * v3.num_experts_per_tok * v3.hidden_size * 2, "token_of_v3");
}

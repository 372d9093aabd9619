/* The predictions against the project's own count. */
#include "05_moe/moe.h"

#include <criterion/criterion.h>

extern const long long one_expert, total, active, rows, multiplications;

Test(predict, parameters) {
    MoeConfig cfg = moe_config(2048, 1408, 64, 6), lone = moe_config(2048, 1408, 1, 1);
    cfg.n_shared_experts = 2;
    int64_t expert = moe_parameters(&lone) - 2048; /* without its gate */
    cr_assert(one_expert == expert, "one_expert is not %lld", one_expert);
    cr_assert(total == moe_parameters(&cfg), "total is not %lld", total);
    cr_assert(active == moe_active_parameters(&cfg), "active is not %lld", active);
    cr_assert(rows == 33 * cfg.router.num_experts_per_tok, "rows is not %lld", rows);
    cr_assert(multiplications == rows * expert, "multiplications is not %lld", multiplications);
}

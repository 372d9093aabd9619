/*
 * Counts by formula, on purpose: a reader shall be able to follow them on paper. (Programs count by
 * registering the weights: block.c.)
 */
#include "05_moe/parameter_table.h"

#include "05_moe/decoder/block.h"

#include "04_mla/cache_sizes.h"

#include <stdio.h>

static void print_row(const char *name, double total, double active) {
    bool large = total > 1e9;
    double unit = large ? 1e9 : 1e6;
    printf("   %-44s %7.*f %c %7.*f %c  %5.1f\n", name, large ? 1 : 2, total / unit, "MG"[large],
           large ? 1 : 2, active / unit, "MG"[large], total / active);
}

/* DeepSeek-V3's: 61 layers, 3 of them dense; the embedding is looked up, not multiplied. */
static void v3_parameters(double *total, double *active) {
    BlockConfig v3 = {.hidden_size = 7168,
                      .intermediate_size = 18432,
                      .rms_norm_eps = 1e-6f,
                      .attention = ATTENTION_MLA,
                      .mla = model_sizes[MODEL_V3].mla,
                      .first_k_dense_replace = 3,
                      .moe = moe_config(7168, 2048, 256, 8)};
    v3.moe.n_shared_experts = 1;
    double table = 129280.0 * 7168;
    *active = table + 7168, *total = *active + table;
    for (int layer = 0; layer < 61; layer++) {
        *total += (double)block_parameters(&v3, layer);
        *active += (double)block_active_parameters(&v3, layer);
    }
}

void parameter_table(const MoeConfig *own) {
    MoeConfig layer = moe_config(512, 1365, 8, 2);
    layer.n_shared_experts = 1;
    double total, active;
    printf("   %-44s %9s %9s  %s\n", "", "total", "active", "ratio");
    print_row("a layer of 512: 8 experts + 1 shared, top 2", (double)moe_parameters(&layer),
              (double)moe_active_parameters(&layer));
    v3_parameters(&total, &active);
    print_row("DeepSeek-V3: 256 experts + 1 shared, top 8", total, active);
    char name[64];
    snprintf(name, sizeof name, "here, one layer: %d experts + %d shared, top %d",
             own->router.n_routed_experts, own->n_shared_experts, own->router.num_experts_per_tok);
    print_row(name, (double)moe_parameters(own), (double)moe_active_parameters(own));
    printf("   By hand, the first line: an expert is 3 x 512 x 1365 = 2.10 M; 9 of them are\n"
           "   stored, 3 are used.\n\n");
}

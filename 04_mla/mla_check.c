/*
 * What latent attention's settings may be, one by one and together: the kernels' limits, and what a
 * latent can hold.
 */
#include "04_mla/mla.h"

int mla_check(const MlaConfig *cfg, Error *err) {
    const struct {
        const char *name;
        int value, least, most;
    } settings[] = {
        {"hidden_size", cfg->hidden_size, 1, MLA_MAX_SIZE},
        {"num_attention_heads", cfg->num_attention_heads, 1, MLA_MAX_HEADS},
        {"qk_nope_head_dim", cfg->qk_nope_head_dim, 1, MLA_MAX_HEAD_DIM},
        {"qk_rope_head_dim", cfg->qk_rope_head_dim, 0, MLA_MAX_HEAD_DIM},
        {"v_head_dim", cfg->v_head_dim, 1, MLA_MAX_HEAD_DIM},
        {"kv_lora_rank", cfg->kv_lora_rank, 1, MLA_MAX_SIZE},
        {"q_lora_rank", cfg->q_lora_rank, 0, MLA_MAX_SIZE},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (settings[i].value < settings[i].least || settings[i].value > settings[i].most)
            return error_set(err, "%s is %d; it must be %d to %d", settings[i].name,
                             settings[i].value, settings[i].least, settings[i].most);
    if (cfg->kv_lora_rank > cfg->hidden_size)
        return error_set(err,
                         "kv_lora_rank (%d) is larger than hidden_size (%d): a latent is made from "
                         "that many numbers and cannot hold more",
                         cfg->kv_lora_rank, cfg->hidden_size);
    if (cfg->q_lora_rank > cfg->hidden_size)
        return error_set(err,
                         "q_lora_rank (%d) is larger than hidden_size (%d); 0 leaves the queries "
                         "uncompressed",
                         cfg->q_lora_rank, cfg->hidden_size);
    if (cfg->qk_nope_head_dim + cfg->qk_rope_head_dim > MLA_MAX_HEAD_DIM)
        return error_set(err,
                         "qk_nope_head_dim + qk_rope_head_dim is %d + %d; the attention kernels "
                         "take at most %d",
                         cfg->qk_nope_head_dim, cfg->qk_rope_head_dim, MLA_MAX_HEAD_DIM);
    if (cfg->kv_lora_rank + cfg->qk_rope_head_dim > MLA_DECODE_MAX_WIDTH)
        return error_set(err,
                         "kv_lora_rank + qk_rope_head_dim is %d + %d; the absorbed kernels take at "
                         "most %d",
                         cfg->kv_lora_rank, cfg->qk_rope_head_dim, MLA_DECODE_MAX_WIDTH);
    return 0;
}

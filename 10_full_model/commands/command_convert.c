/*
 * deepseek convert: a model's folder written anew: rounded to BF16, in larger or smaller files,
 * with experts one by one, quantised weights as plain numbers; a deepseek_v3 model with an indexer
 * in each layer, which makes it a deepseek_v32 (sparse/indexer.h).
 */
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/rewrite.h"

#include <stdio.h>
#include <unistd.h>

typedef struct Options {
    CommonOptions common;
    const char *model, *out;
    bool overwrite, no_mtp, dequantize, add_indexer;
    int index_heads, index_dim, index_topk; /* 0: not given */
    SaveOptions save;
} Options;

/* Sizes that make DeepSeek's V3 their V3.2: half as many heads as attention has, twice its rotated
 * part, 2048 tokens; of a short context a quarter. */
static int add_indexer(const Options *o, ModelConfig *cfg, Error *err) {
    if (cfg->model_type != DEEPSEEK_V3)
        return error_set(err,
                         cfg->model_type == DEEPSEEK_V32
                             ? "%s has indexers already"
                             : "--add-indexer makes a deepseek_v32 of a deepseek_v3; %s is neither",
                         o->model);
    if (!cfg->rope_interleave)
        return error_set(err,
                         "%s rotates halves (rope_interleave false); deepseek_v32 has no such "
                         "attention",
                         o->model);
    if (config_needs_latents(cfg, "--add-indexer", err)) return -1;
    if (!cfg->q_lora_rank)
        return error_set(err,
                         "%s has no q_lora_rank: an indexer makes its queries from that latent, so "
                         "this model cannot have one",
                         o->model);
    int heads = cfg->num_attention_heads / 2, dim = 2 * cfg->qk_rope_head_dim;
    int topk = cfg->max_position_embeddings / 4;
    cfg->model_type = DEEPSEEK_V32;
    cfg->index_n_heads = o->index_heads ? o->index_heads : heads ? heads : 1;
    cfg->index_head_dim = o->index_dim ? o->index_dim : dim ? dim : 64;
    cfg->index_topk = o->index_topk ? o->index_topk : topk > 2048 ? 2048 : topk ? topk : 1;
    return config_check(cfg, err);
}

static int convert(const Options *o, Context *ctx, Error *err) {
    Model model = {0};
    ModelConfig cfg;
    if (checkpoint_load_config(&cfg, o->model, err)) return -1;
    if (o->no_mtp) cfg.num_nextn_predict_layers = 0;
    if (o->add_indexer && add_indexer(o, &cfg, err)) return -1;
    LoadKind kind = o->dequantize ? LOAD_PLAIN : LOAD_WEIGHT_ONLY;
    int status = checkpoint_load_model(&model, ctx, o->model, &cfg, kind, err);
    if (status) return -1;
    Tokenizer *tokenizer = rewrite_tokenizer(&model.cfg, o->model, err);
    if (!tokenizer) status = -1;
    if (!status) status = rewrite_model(&model, tokenizer, o->model, o->out, &o->save, err);
    bool known = config_has_latents(&cfg);
    if (!status && !known)
        printf("It has multi-head attention (kv_lora_rank null): transformers cannot open it.\n");
    if (!status && known && cfg.num_nextn_predict_layers)
        printf("It has modules for multi-token prediction: transformers opens it, reports their\n"
               "weights as UNEXPECTED and gives the same logits. --no-mtp leaves them out.\n");
    if (!status && o->add_indexer)
        printf("Its layers have indexers of %d heads of %d numbers that pick %d tokens. They know\n"
               "nothing yet: `deepseek train --dsa warmup --from %s` teaches them.\n",
               cfg.index_n_heads, cfg.index_head_dim, cfg.index_topk, o->out);
    model_free(&model);
    tokenizer_free(tokenizer);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    static const char *const dtypes[] = {"f32", "bf16", NULL}; /* in DType's order */
    Options options = {.save = {.dtype = F32}}, *o = &options;
    double megabytes = 5000;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model",
                   .required = "says which model"),
        OPT_STRING("out", 0, "DIR", &o->out, "Folder for the result",
                   .required = "says where the result goes"),
        OPT_CHOICE("weights", 0, "f32|bf16", &o->save.dtype, dtypes, "Numbers in the new file"),
        OPT_FLAG("overwrite", 0, &o->overwrite, "Replace the model that is in --out"),
        OPT_FLAG("dequantize", 0, &o->dequantize,
                 "Write plain numbers where weights are quantised (else they stay so)"),
        OPT_FLAG("no-mtp", 0, &o->no_mtp, "Leave modules for multi-token prediction out"),
        OPT_FLAG("add-indexer", 0, &o->add_indexer,
                 "Make a deepseek_v32 of a deepseek_v3: an indexer with random weights in each "
                 "layer"),
        OPT_INT("index-heads", 0, "N", &o->index_heads, 1, 1 << 16,
                "Its heads (default: half of attention's)"),
        OPT_INT("index-dim", 0, "N", &o->index_dim, 1, 1 << 16,
                "Numbers of each (default: twice qk_rope_head_dim)"),
        OPT_INT("index-topk", 0, "N", &o->index_topk, 1, 1 << 24,
                "Tokens that it picks (default 2048, or a quarter of a short context)"),
        OPT_FLOAT("shard-mb", 0, "N", &megabytes, 0.001, 1e9, "Largest file, in millions of bytes"),
        OPT_COMMON_OF(&o->common, COMMON_THREADS),
        OPT_END};
    options_parse(argc, argv, command_convert.about, flags);
    if (!o->add_indexer && (o->index_heads || o->index_dim || o->index_topk))
        options_error(argv, "--index-heads, --index-dim and --index-topk are for --add-indexer");
    o->save.shard_size = (int64_t)(1e6 * megabytes);
    int lock = rewrite_open("convert", o->model, o->out, o->overwrite, err);
    if (lock < 0) return -1;
    Context ctx;
    options_open(&o->common, &ctx);
    int status = convert(o, &ctx, err);
    context_free(&ctx);
    close(lock);
    return status;
}

const Command command_convert = {"convert", "Writes a model anew: other numbers, other files.",
                                 run};

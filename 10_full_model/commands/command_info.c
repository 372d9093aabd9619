/*
 * deepseek info: how large a model is, and what it takes to train and to serve it.
 */
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/stored_info.h"
#include "10_full_model/model/config_table.h"
#include "10_full_model/model/sizes.h"

#include "common/files/csv.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <sys/stat.h>

typedef struct Options {
    const char *config, *csv;
    int vocab, batch, context, gpus;
    bool keys;
} Options;

/* 1234567 as "1,234,567", in a buffer of the caller's. */
typedef struct NumberText {
    char text[40];
} NumberText;

static NumberText with_commas(int64_t number) {
    char digits[24];
    NumberText out;
    int length = snprintf(digits, sizeof digits, "%lld", (long long)number), at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) out.text[at++] = ',';
        out.text[at++] = digits[i];
    }
    out.text[at] = 0;
    return out;
}

/* Bytes in the unit that reads best. */
static NumberText bytes_text(double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB"};
    double value = bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 7; unit++) value /= 1024;
    NumberText out;
    snprintf(out.text, sizeof out.text, value < 10 && unit ? "%.2f %s" : "%.4g %s", value,
             units[unit]);
    return out;
}

/* Billions or millions, as models are named. */
static NumberText short_count(int64_t number) {
    NumberText out;
    if (number >= 1000000000)
        snprintf(out.text, sizeof out.text, "%.2fB", (double)number / 1e9);
    else if (number >= 100000)
        snprintf(out.text, sizeof out.text, "%.1fM", (double)number / 1e6);
    else
        out = with_commas(number);
    return out;
}

static void list_presets(const Options *o) {
    printf("%-10s%11s%9s%8s  %s\n", "name", "parameters", "active", "cache", "");
    for (int i = 0; config_preset_name(i); i++) {
        ModelConfig cfg;
        config_preset(&cfg, config_preset_name(i), NULL);
        if (!cfg.vocab_size) cfg.vocab_size = o->vocab;
        printf("%-10s%11s%9s%8s  %s\n", config_preset_name(i),
               short_count(config_parameters(&cfg)).text,
               short_count(config_active_parameters(&cfg)).text,
               with_commas(size_cache_per_token(&cfg, BF16)).text, config_preset_about(i));
    }
    printf("\ncache: bytes of a token in BF16\n"
           "`deepseek info --config NAME` says more of one of them.\n");
}

static void print_parameters(const ModelConfig *cfg) {
    ConfigSizes sizes = config_sizes(cfg);
    printf("\n%-18s %20s %20s\n", "parameters", "total", "active per token");
    for (SizeKind i = 0; i < SIZE_KINDS; i++)
        if (sizes.total[i] || sizes.active[i])
            printf("  %-16s %20s %20s%s\n", size_name(cfg, i), with_commas(sizes.total[i]).text,
                   with_commas(sizes.active[i]).text,
                   i == SIZE_HEAD && cfg->tie_word_embeddings ? "   the same table" : "");
    printf("  %-16s %20s %20s\n", "all", with_commas(sizes.all).text,
           with_commas(sizes.all_active).text);
    if (sizes.all >= 100000)
        printf("  %-16s %20s %20s\n", "", short_count(sizes.all).text,
               short_count(sizes.all_active).text);
}

/* Beside the model's own numbers, since without them it gives the same text. */
static void print_modules(const ModelConfig *cfg) {
    int modules = cfg->num_nextn_predict_layers;
    if (!modules) return;
    int64_t own = config_module_parameters(cfg),
            shared = 2 * (int64_t)cfg->vocab_size * cfg->hidden_size * modules;
    printf("\nbehind it, %d module%s for multi-token prediction (chapter 06)\n", modules,
           modules > 1 ? "s" : "");
    printf("  %-16s %20s   %s\n", "of their own", with_commas(own).text, short_count(own).text);
    printf("  %-16s %20s   %s, embedding and head repeated in the file\n", "in a file",
           with_commas(own + shared).text, short_count(own + shared).text);
}

static void print_row(const char *name, double f32, double bf16) {
    printf("  %-40s %12s %12s\n", name, bytes_text(f32).text, bytes_text(bf16).text);
}

static void print_memory(const ModelConfig *with, const Options *o) {
    ModelConfig without = *with, *cfg = &without;
    without.num_nextn_predict_layers = 0;
    int batch = o->batch, context = o->context;
    printf("\nKV cache of a token: %s bytes in BF16, %s in F32\n",
           with_commas(size_cache_per_token(cfg, BF16)).text,
           with_commas(size_cache_per_token(cfg, F32)).text);
    printf("\n%d sequences of %d tokens:\n  %-40s %12s %12s\n", batch, context, "memory", "F32",
           "BF16");
    TrainMemory a = size_to_train(cfg, F32, batch, context),
                b = size_to_train(cfg, BF16, batch, context);
    ServeMemory c = size_to_serve(cfg, F32, batch, context),
                d = size_to_serve(cfg, BF16, batch, context);
    print_row("to train", a.weights + a.gradients + a.moments + a.activations,
              b.weights + b.gradients + b.moments + b.activations);
    print_row("  weights (BF16: and F32 masters)", a.weights, b.weights);
    print_row("  gradients", a.gradients, b.gradients);
    print_row("  AdamW's two moments", a.moments, b.moments);
    print_row("  activations, about", a.activations, b.activations);
    print_row("to serve", c.weights + c.cache, d.weights + d.cache);
    print_row("  weights", c.weights, d.weights);
    print_row("  cache", c.cache, d.cache);
    if (!with->num_nextn_predict_layers) return;
    a = size_to_train(with, F32, batch, context), b = size_to_train(with, BF16, batch, context);
    c = size_to_serve(with, F32, batch, context), d = size_to_serve(with, BF16, batch, context);
    print_row("to train, with multi-token prediction",
              a.weights + a.gradients + a.moments + a.activations,
              b.weights + b.gradients + b.moments + b.activations);
    print_row("to serve, drafting with it", c.weights + c.cache, d.weights + d.cache);
}

/* The largest number of ranks that experts can be spread over. */
static int widest(const ModelConfig *cfg, int ranks) {
    int spread = cfg->n_routed_experts ? ranks : 1;
    while (spread > 1 && (cfg->n_routed_experts % spread || ranks % spread)) spread--;
    return spread;
}

/* What training takes of each GPU, as --gpus of them share it. */
static void print_ranks(const ModelConfig *cfg, const Options *o) {
    int n = o->gpus, spread = widest(cfg, n);
    const struct {
        const char *name;
        int ranks;
        bool zero;
        int spread;
    } ways[] = {{"one alone", 1, false, 1},
                {"data parallel", n, false, 1},
                {"--zero", n, true, 1},
                {"experts spread", n, false, spread},
                {"experts spread, --zero", n, true, spread}};
    printf("\nto train in BF16 on %d GPUs, of each, %d sequences of %d tokens together:\n"
           "  %-23s%11s%11s%11s%11s%11s\n",
           n, o->batch, o->context, "", "weights", "gradients", "optimizer", "activ.", "all");
    for (int i = 0; i < (spread > 1 ? 5 : 3); i++) {
        RankMemory m = size_of_rank(cfg, BF16, o->batch, o->context, ways[i].ranks, ways[i].zero,
                                    ways[i].spread);
        printf("  %-23s%11s%11s%11s%11s%11s\n", ways[i].name, bytes_text(m.weights).text,
               bytes_text(m.gradients).text, bytes_text(m.optimizer).text,
               bytes_text(m.activations).text,
               bytes_text(m.weights + m.gradients + m.optimizer + m.activations).text);
    }
    printf("  optimizer: AdamW's two moments, and the weights in F32");
    if (spread > 1) printf("; --expert-parallel %d", spread);
    printf("\n");
}

/* Ways to quantise that this program knows. */
static const struct {
    const char *name, *column;
    StoredAs method;
    int bits;
} quantised_ways[] = {{"FP8, tiles of 128 x 128", "fp8", STORED_FP8, 8},
                      {"INT8, groups of 128", "int8", STORED_PACKED, 8},
                      {"INT4, groups of 128", "int4", STORED_PACKED, 4}};
enum { QUANTISED_WAYS = sizeof quantised_ways / sizeof *quantised_ways };

static double quantised_bytes(const ModelConfig *cfg, int way) {
    ModelConfig other = *cfg;
    other.quant_method = quantised_ways[way].method;
    other.num_bits = quantised_ways[way].bits;
    other.group_size = 128;
    return size_quantised(&other);
}

static void print_quantised(const ModelConfig *cfg) {
    printf("\nweights when the projections are quantised (chapter 08), the rest in BF16:\n");
    for (int i = 0; i < QUANTISED_WAYS; i++)
        printf("  %-40s %12s\n", quantised_ways[i].name, bytes_text(quantised_bytes(cfg, i)).text);
}

/* The numbers of both tables, exactly: --csv. */
static int write_csv(const ModelConfig *cfg, const Options *o, Error *err) {
    static const char *const numbers[] = {"f32", "bf16"};
    Csv csv;
    if (csv_open(&csv, o->csv, "quantity,value", "none", 0, err)) return -1;
    ConfigSizes sizes = config_sizes(cfg);
    for (SizeKind i = 0; i < SIZE_KINDS; i++)
        csv_row(&csv, "parameters %s,%lld\nactive %s,%lld", size_name(cfg, i),
                (long long)sizes.total[i], size_name(cfg, i), (long long)sizes.active[i]);
    csv_row(&csv, "parameters all,%lld\nactive all,%lld", (long long)sizes.all,
            (long long)sizes.all_active);
    for (DType dtype = F32; dtype <= BF16; dtype++) {
        const char *name = numbers[dtype];
        TrainMemory t = size_to_train(cfg, dtype, o->batch, o->context);
        ServeMemory s = size_to_serve(cfg, dtype, o->batch, o->context);
        csv_row(&csv, "cache bytes of a token %s,%lld", name,
                (long long)size_cache_per_token(cfg, dtype));
        csv_row(&csv, "train weights bytes %s,%lld\ntrain gradients bytes %s,%lld", name,
                (long long)t.weights, name, (long long)t.gradients);
        csv_row(&csv, "train moments bytes %s,%lld\ntrain activations bytes %s,%lld", name,
                (long long)t.moments, name, (long long)t.activations);
        csv_row(&csv, "serve weights bytes %s,%lld\nserve cache bytes %s,%lld", name,
                (long long)s.weights, name, (long long)s.cache);
    }
    for (int i = 0; i < QUANTISED_WAYS; i++)
        csv_row(&csv, "serve weights bytes %s,%.0f", quantised_ways[i].column,
                quantised_bytes(cfg, i));
    return csv_close(&csv, err);
}

static int read_settings(ModelConfig *cfg, const Options *o, Error *err) {
    struct stat status;
    if (!config_preset(cfg, o->config, err)) {
        if (!cfg->vocab_size) cfg->vocab_size = o->vocab;
        return 0;
    }
    /* Neither a name nor a folder: say what the names are. */
    if (stat(o->config, &status))
        return error_prefix(err, "--config: there is no such folder, and ");
    return config_load(cfg, o->config, err);
}

/* Every key of config.json, and what this model has (cfg NULL: none). */
static void list_keys(const ModelConfig *cfg) {
    static const char *const models[] = {"", "v3", "v2", "v3 v2", "v3.2", "v3 v3.2", "v2 v3.2", ""};
    const ConfigKey *key;
    printf("%-33s %s\n", "key of config.json", cfg ? "here" : "of");
    for (int i = 0; (key = config_key(i)); i++) {
        if (cfg && !config_key_applies(key, cfg)) continue;
        ModelType type = cfg ? cfg->model_type : DEEPSEEK_V3;
        for (int t = 0; !cfg && !(key->models & 1u << type); t++) type = (ModelType)t;
        ConfigText here = {""}, absent = {"required"};
        if (cfg) here = config_key_text(key, config_key_get(key, cfg));
        if (key->absent[type] != CONFIG_REQUIRED) absent = config_key_text(key, key->absent[type]);
        printf("%-33s %s\n    else %s; %s\n", key->key, cfg ? here.text : models[key->models],
               absent.text, config_key_range(key).text);
        if (*key->about) printf("    %s\n", key->about);
    }
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.vocab = 2048, .batch = 16}, *o = &options;
    const Option flags[] = {
        OPT_STRING("config", 0, "NAME|DIR", &o->config,
                   "Which model: a name, or a folder with a config.json. Without it, all names"),
        OPT_INT("vocab", 0, "N", &o->vocab, 1, 1 << 24,
                "Tokens, for a configuration without a vocabulary"),
        OPT_INT("gpus", 0, "N", &o->gpus, 2, 1 << 20,
                "Also what training takes of each of N GPUs, by the ways to share"),
        OPT_INT("batch", 0, "N", &o->batch, 1, 1 << 20, "Sequences in a step, or served at once"),
        OPT_INT("context", 0, "N", &o->context, 1, 1 << 24,
                "Tokens of each (default: all that the model has positions for, at most 4096)"),
        OPT_FLAG("keys", 0, &o->keys,
                 "List the keys of config.json instead, with --config the model's"),
        OPT_STRING("csv", 0, "FILE", &o->csv, "With --config: write the numbers to FILE, too"),
        OPT_END};
    options_parse(argc, argv, command_info.about, flags);
    ModelConfig cfg, no_preset;
    if (o->config && read_settings(&cfg, o, err)) return -1;
    if (o->csv && (o->keys || !o->config))
        options_error(argv, "--csv needs --config, and no --keys");
    if (o->keys)
        list_keys(o->config ? &cfg : NULL);
    else if (!o->config)
        list_presets(o);
    if (o->keys || !o->config) return 0;
    if (!o->context)
        o->context = cfg.max_position_embeddings < 4096 ? cfg.max_position_embeddings : 4096;
    if (o->context > cfg.max_position_embeddings)
        return error_set(err, "--context %d is longer than the %d positions of %s", o->context,
                         cfg.max_position_embeddings, o->config);
    printf("%s: %d layers of width %d, ", o->config, cfg.num_hidden_layers, cfg.hidden_size);
    if (config_has_latents(&cfg))
        printf("%d heads, latent %d + %d,\n", cfg.num_attention_heads, cfg.kv_lora_rank,
               cfg.qk_rope_head_dim);
    else
        printf("multi-head attention, %d heads of %d,\n", cfg.num_attention_heads, cfg.v_head_dim);
    if (cfg.n_routed_experts)
        printf("%d of %d experts and %d shared, ", cfg.num_experts_per_tok, cfg.n_routed_experts,
               cfg.n_shared_experts);
    printf("%d tokens, context %d\n", cfg.vocab_size, cfg.max_position_embeddings);
    print_parameters(&cfg);
    print_modules(&cfg);
    print_memory(&cfg, o);
    if (o->gpus) print_ranks(&cfg, o);
    print_quantised(&cfg);
    if (config_preset(&no_preset, o->config, NULL) && stored_info_print(&cfg, o->config, err))
        return -1;
    return o->csv ? write_csv(&cfg, o, err) : 0;
}

const Command command_info = {"info", "Sizes: parameters, cache, memory to train and to serve.",
                              run};

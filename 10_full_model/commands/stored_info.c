/*
 * Told by the tensors' names and dtypes alone, so that it works for any model, one that cannot be
 * built here too.
 */
#include "10_full_model/commands/stored_info.h"

#include "10_full_model/checkpoint/stored.h"

#include "common/files/files.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WAYS = 16, KINDS = 24 };

typedef struct Way {
    char name[32];
    int64_t tensors, numbers, bytes;
} Way;

/* A kind of weight, "self_attn.kv_b_proj", and how many are plain. */
typedef struct PlainKind {
    char name[64];
    int count;
} PlainKind;

typedef struct Summary {
    Way ways[WAYS];
    PlainKind plain[KINDS];
    int way_count, kind_count;
    bool quantised;
} Summary;

static bool ends_with(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && !strcmp(text + a - b, end);
}

static Way *way_of(Summary *s, const char *name) {
    for (int i = 0; i < s->way_count; i++)
        if (!strcmp(s->ways[i].name, name)) return &s->ways[i];
    CHECK(s->way_count < WAYS, "more ways to store a weight than there are");
    Way *way = &s->ways[s->way_count++];
    snprintf(way->name, sizeof way->name, "%s", name);
    return way;
}

/* "model.layers.3.mlp.experts.17.down_proj.weight" is one of "mlp.experts.down_proj". */
static void add_plain(Summary *s, const char *name) {
    char kind[64] = "";
    ModuleName module = stored_module(name);
    for (char *part = strtok(module.text, "."); part; part = strtok(NULL, ".")) {
        bool number = strspn(part, "0123456789") == strlen(part);
        if (number || !strcmp(part, "model") || !strcmp(part, "layers")) continue;
        size_t used = strlen(kind);
        snprintf(kind + used, sizeof kind - used, "%s%s", used ? "." : "", part);
    }
    int i = 0;
    while (i < s->kind_count && strcmp(s->plain[i].name, kind)) i++;
    if (i == KINDS) return;
    if (i == s->kind_count) snprintf(s->plain[s->kind_count++].name, sizeof kind, "%s", kind);
    s->plain[i].count++;
}

/* How many numbers a packed weight has: what its shape says. */
static int64_t packed_numbers(const WeightFiles *files, const Tensor *packed) {
    char name[300];
    int module = (int)(strlen(packed->name) - strlen(".weight_packed"));
    snprintf(name, sizeof name, "%.*s.weight_shape", module, packed->name);
    const Tensor *shape = weight_files_find(files, name, NULL);
    if (!shape || shape->dtype != I64 || tensor_count(shape) != 2) return 0;
    const int64_t *sides = shape->data;
    int64_t numbers;
    return __builtin_mul_overflow(sides[0], sides[1], &numbers) ? 0 : numbers;
}

static void add_tensor(Summary *s, const ModelConfig *cfg, const WeightFiles *files,
                       const Tensor *t) {
    static const char *const beside[] = {".weight_shape", ".weight_scale", ".weight_scale_inv",
                                         ".scale"};
    const char *way = dtype_name(t->dtype);
    int64_t numbers = tensor_count(t);
    bool packed = ends_with(t->name, ".weight_packed"), other = false;
    for (int i = 0; i < 4; i++) other |= ends_with(t->name, beside[i]);
    if (packed) {
        way = cfg->num_bits == 4 ? "INT4, packed" : "INT8, packed";
        numbers = packed_numbers(files, t);
    } else if (other) {
        way = "scales and shapes";
    } else if (weight_readable(t) && size_quantisable(t)) {
        add_plain(s, t->name);
    }
    s->quantised |= other;
    Way *to = way_of(s, way);
    to->tensors++;
    to->numbers += numbers;
    to->bytes += (int64_t)tensor_bytes(t);
}

static void print(const Summary *s) {
    char tensors[32], numbers[32], bytes[32];
    int64_t all = 0;
    printf("\n%-18s %10s %20s %20s\n", "in the files", "tensors", "numbers", "bytes");
    for (const Way *w = s->ways; w < s->ways + s->way_count; w++) {
        all += w->bytes;
        printf("  %-16s %10s %20s %20s\n", w->name,
               format_count(tensors, sizeof tensors, w->tensors),
               format_count(numbers, sizeof numbers, w->numbers),
               format_count(bytes, sizeof bytes, w->bytes));
    }
    printf("  %-16s %10s %20s %20s\n", "all", "", "", format_count(bytes, sizeof bytes, all));
    if (!s->quantised || !s->kind_count) return;
    printf("  projections that are plain:");
    int column = 29;
    for (const PlainKind *k = s->plain; k < s->plain + s->kind_count; k++) {
        char text[90];
        int length = snprintf(text, sizeof text, " %s (%d)%s", k->name, k->count,
                              k + 1 < s->plain + s->kind_count ? "," : "");
        if (column + length > 79) column = printf("\n   ") - 1;
        printf("%s", text);
        column += length;
    }
    printf("\n");
}

int stored_info_print(const ModelConfig *cfg, const char *directory, Error *err) {
    WeightFiles files;
    if (access(file_path(directory, WEIGHTS_FILE).text, F_OK) &&
        access(file_path(directory, WEIGHTS_INDEX).text, F_OK))
        return 0;
    if (weight_files_open(&files, directory, err)) return -1;
    Summary *s = must_alloc(1, sizeof *s);
    for (int i = 0; i < files.found_count; i++) add_tensor(s, cfg, &files, files.found[i].tensor);
    print(s);
    free(s);
    weight_files_close(&files);
    return 0;
}

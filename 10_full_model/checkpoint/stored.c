/*
 * Words to bytes and back. A row of packed integers, read as bytes, is one number a byte (INT8), or
 * two (INT4), the first in the low four bits: words are little-endian, as this machine's are. So
 * INT8 is copied, and of INT4 only the order within a group differs: pairs of neighbours here,
 * number b beside number b + group / 2 there.
 */
#include "10_full_model/checkpoint/stored.h"

#include "common/files/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which tensors ---- */

ModuleName stored_module(const char *weight) {
    static const char end[] = ".weight";
    ModuleName name;
    size_t length = strlen(weight), cut = sizeof end - 1;
    bool has = length > cut && !strcmp(weight + length - cut, end);
    snprintf(name.text, sizeof name.text, "%.*s", (int)(has ? length - cut : length), weight);
    return name;
}

static const Tensor *find(const WeightFiles *files, const char *module, const char *end,
                          const char **path) {
    char name[240];
    snprintf(name, sizeof name, "%s%s", module, end);
    return weight_files_find(files, name, path);
}

static int check_shape_of(const Tensor *t, const char *path, const int64_t *shape, int ndim,
                          const char *why, Error *err) {
    Tensor needed = {.ndim = ndim};
    memcpy(needed.shape, shape, (size_t)ndim * sizeof *shape);
    bool fits = t->ndim == ndim;
    for (int i = 0; fits && i < ndim; i++) fits = t->shape[i] == shape[i];
    return fits ? 0
                : error_set(err, "%s: '%s' has shape %s, but %s needs %s", path,
                            name_text(t->name).text, shape_text(t).text, why,
                            shape_text(&needed).text);
}

static bool is_exponent(const Tensor *t) { return t->dtype == F8_E8M0 || t->dtype == U8; }

static int check_plain(const StoredWeight *s, const WeightPart *part, Error *err) {
    const Tensor *t = s->codes;
    if (check_shape_of(t, s->path, part->shape, part->ndim, "the model of config.json", err))
        return -1;
    if (weight_readable(t)) return 0;
    return error_set(err, "%s: '%s' is %s; weights are read as F32, BF16 or F16%s", s->path,
                     part->name, dtype_name(t->dtype),
                     t->dtype == F8_E4M3 || t->dtype == F8_E5M2
                         ? ", and as F8_E4M3 where config.json has a quantization_config with "
                           "quant_method fp8"
                         : "");
}

static int check_fp8(StoredWeight *s, const WeightFiles *files, const WeightPart *part,
                     const char *module, Error *err) {
    const int64_t *shape = part->shape;
    if (check_shape_of(s->codes, s->path, shape, part->ndim, "the model of config.json", err))
        return -1;
    s->scale = find(files, module, ".weight_scale_inv", NULL);
    if (!s->scale) s->scale = find(files, module, ".scale", NULL);
    if (!s->scale)
        return error_set(err, "%s: '%s' is F8_E4M3, but its scale '%s.weight_scale_inv' is missing",
                         s->path, part->name, module);
    if (!weight_readable(s->scale) && !is_exponent(s->scale))
        return error_set(err, "%s: '%s' is %s; scales are read as F32, BF16, F16, F8_E8M0 or U8",
                         s->path, name_text(s->scale->name).text, dtype_name(s->scale->dtype));
    return check_shape_of(
        s->scale, s->path,
        SHAPE((shape[0] + FP8_BLOCK - 1) / FP8_BLOCK, (shape[1] + FP8_BLOCK - 1) / FP8_BLOCK),
        "a scale for each tile of 128 x 128", err);
}

/* Of two tensors, which hold what they should. */
static int check_packed(StoredWeight *s, const WeightFiles *files, const WeightPart *part,
                        const char *module, Error *err) {
    int64_t out = part->shape[0], in = part->shape[1], sides[2] = {0};
    s->scale = find(files, module, ".weight_scale", NULL);
    s->shape = find(files, module, ".weight_shape", NULL);
    if (!s->scale || !s->shape)
        return error_set(err, "%s: '%s' is there, but '%s.%s' is missing", s->path,
                         name_text(s->codes->name).text, module,
                         s->scale ? "weight_shape" : "weight_scale");
    if (s->codes->dtype != I32 || !weight_readable(s->scale))
        return error_set(err, "%s: '%s' is %s; %s", s->path,
                         name_text((s->codes->dtype == I32 ? s->scale : s->codes)->name).text,
                         dtype_name((s->codes->dtype == I32 ? s->scale : s->codes)->dtype),
                         s->codes->dtype == I32 ? "scales are read as F32, BF16 or F16"
                                                : "packed integers are I32");
    bool whole = (s->shape->dtype == I64 || s->shape->dtype == I32) && tensor_count(s->shape) == 2;
    for (int i = 0; whole && i < 2; i++)
        sides[i] = s->shape->dtype == I64 ? ((const int64_t *)s->shape->data)[i]
                                          : ((const int32_t *)s->shape->data)[i];
    if (sides[0] != out || sides[1] != in)
        return error_set(err,
                         "%s: '%s' says [%lld, %lld], but the model of config.json needs [%lld, "
                         "%lld]",
                         s->path, name_text(s->shape->name).text, (long long)sides[0],
                         (long long)sides[1], (long long)out, (long long)in);
    if (in % s->group)
        return error_set(err, "%s: '%s': group_size %d does not divide its rows of %lld numbers",
                         s->path, name_text(s->codes->name).text, s->group, (long long)in);
    char why[80];
    snprintf(why, sizeof why, "a matrix [%lld, %lld] of INT%d", (long long)out, (long long)in,
             s->bits);
    if (check_shape_of(s->codes, s->path, SHAPE(out, (in * s->bits + 31) / 32), why, err))
        return -1;
    snprintf(why, sizeof why, "group_size %d", s->group);
    return check_shape_of(s->scale, s->path, SHAPE(out, in / s->group), why, err);
}

int stored_find(StoredWeight *s, const WeightFiles *files, const ModelConfig *cfg,
                const WeightPart *part, Error *err) {
    ModuleName module = stored_module(part->name);
    *s = (StoredWeight){0};
    s->codes = weight_files_find(files, part->name, &s->path);
    if (!s->codes && part->ndim == 2) {
        s->codes = find(files, module.text, ".weight_packed", &s->path);
        if (!s->codes) return 0;
        if (cfg->quant_method != STORED_PACKED)
            return error_set(err,
                             "%s: '%s' is packed, but config.json has no quantization_config with "
                             "format pack-quantized",
                             s->path, name_text(s->codes->name).text);
        s->bits = cfg->num_bits;
        s->group = cfg->group_size ? cfg->group_size : (int)part->shape[1];
        return check_packed(s, files, part, module.text, err);
    }
    if (!s->codes) return 0;
    bool fp8 = cfg->quant_method == STORED_FP8 && s->codes->dtype == F8_E4M3 && part->ndim == 2;
    return fp8 ? check_fp8(s, files, part, module.text, err) : check_plain(s, part, err);
}

/* ---- their numbers ---- */

/*
 * Packed rows: as large a group as memory has (128, 64 or 32) that fits into the file's. INT4 that
 * fits none is held as INT8, with the same numbers.
 */
QuantFormat stored_format(const ModelConfig *cfg, int64_t in) {
    if (cfg->quant_method == STORED_FP8)
        return (QuantFormat){.dtype = F8_E4M3, .block_out = FP8_BLOCK, .block_in = FP8_BLOCK};
    int group = cfg->group_size ? cfg->group_size : (int)in;
    for (int held = 128; cfg->num_bits == 4 && held >= 32; held /= 2)
        if (group % held == 0) return (QuantFormat){.dtype = I4, .block_out = 1, .block_in = held};
    return (QuantFormat){.dtype = U8, .block_out = 1, .block_in = group};
}

/* q + 8 of number j in a row of INT4. */
static unsigned nibble(const uint8_t *row, int64_t j) { return row[j / 2] >> (j % 2 * 4) & 15; }

static void unpack_row(uint8_t *to, const uint8_t *row, int64_t in, int bits,
                       const QuantFormat *format) {
    int64_t half = format->block_in / 2;
    if (bits == 8)
        memcpy(to, row, (size_t)in);
    else if (format->dtype == U8)
        for (int64_t j = 0; j < in; j++) to[j] = (uint8_t)(nibble(row, j) + 128 - 8);
    else
        for (int64_t b = 0; b < in / 2; b++) {
            int64_t j = b / half * 2 * half + b % half;
            to[b] = (uint8_t)(nibble(row, j) | nibble(row, j + half) << 4);
        }
}

static void pack_row(uint8_t *row, const uint8_t *from, int64_t in, int bits,
                     const QuantFormat *format) {
    int64_t half = format->block_in / 2;
    if (bits == 8)
        memcpy(row, from, (size_t)in);
    else if (format->dtype == U8)
        for (int64_t j = 0; j < in; j++)
            row[j / 2] |= (uint8_t)((from[j] - 128 + 8) << (j % 2 * 4));
    else
        for (int64_t b = 0; b < in / 2; b++) {
            int64_t j = b / half * 2 * half + b % half;
            row[j / 2] |= (uint8_t)((from[b] & 15) << (j % 2 * 4));
            row[(j + half) / 2] |= (uint8_t)((from[b] >> 4) << ((j + half) % 2 * 4));
        }
}

void stored_pack(int32_t *packed, const void *codes, int64_t out, int64_t in, int bits,
                 const QuantFormat *format) {
    int64_t words = (in * bits + 31) / 32;
    size_t bytes = dtype_bytes(format->dtype, in);
    memset(packed, 0, (size_t)(out * words) * sizeof *packed);
#pragma omp parallel for
    for (int64_t i = 0; i < out; i++)
        pack_row((uint8_t *)(packed + i * words), (const uint8_t *)codes + (size_t)i * bytes, in,
                 bits, format);
}

/* The scales as F32, `repeat` times each: read to the end of the array, spread from there. */
static int read_scales(float *scales, const StoredWeight *s, int64_t repeat, Error *err) {
    const Tensor *t = s->scale;
    int64_t count = tensor_count(t);
    float *read = scales + (repeat - 1) * count;
    if (!is_exponent(t)) weight_read(read, t, 0, count);
    for (int64_t i = 0; i < count; i++) {
        if (is_exponent(t)) read[i] = e8m0_to_float(((const uint8_t *)t->data)[i]);
        float scale = read[i];
        if (!(scale > 0) || isinf(scale))
            return error_set(err, "%s: number %lld of '%s' is %g, but a scale is above 0", s->path,
                             (long long)i, name_text(t->name).text, scale);
        for (int64_t k = 0; k < repeat; k++) scales[i * repeat + k] = scale;
    }
    return 0;
}

/* Code 127 of E4M3, and with a sign 255, is no number; not every kernel looks for it. */
static int check_e4m3(const StoredWeight *s, Error *err) {
    const uint8_t *codes = s->codes->data;
    int64_t in = s->codes->shape[1], count = tensor_count(s->codes), at = count;
#pragma omp parallel for reduction(min : at)
    for (int64_t i = 0; i < count; i++)
        if ((codes[i] & 127) == 127 && i < at) at = i;
    if (at == count) return 0;
    return error_set(err, "%s: number [%lld, %lld] of '%s' is NaN", s->path, (long long)(at / in),
                     (long long)(at % in), name_text(s->codes->name).text);
}

int stored_codes(void *codes, float *scales, const StoredWeight *s, const ModelConfig *cfg,
                 Error *err) {
    if (!s->shape) { /* FP8 lies in memory as it does in the file */
        if (check_e4m3(s, err)) return -1;
        memcpy(codes, s->codes->data, tensor_bytes(s->codes));
        return read_scales(scales, s, 1, err);
    }
    int64_t out = s->codes->shape[0], words = s->codes->shape[1];
    int64_t in = s->scale->shape[1] * s->group;
    QuantFormat format = stored_format(cfg, in);
    size_t bytes = dtype_bytes(format.dtype, in);
    const int32_t *packed = s->codes->data;
#pragma omp parallel for
    for (int64_t i = 0; i < out; i++)
        unpack_row((uint8_t *)codes + (size_t)i * bytes, (const uint8_t *)(packed + i * words), in,
                   s->bits, &format);
    return read_scales(scales, s, s->group / format.block_in, err);
}

int stored_numbers(float *out, const StoredWeight *s, const ModelConfig *cfg, Error *err) {
    if (!s->scale) {
        weight_read(out, s->codes, 0, tensor_count(s->codes));
        return 0;
    }
    int64_t rows = s->codes->shape[0];
    int64_t in = s->shape ? s->scale->shape[1] * s->group : s->codes->shape[1];
    QuantFormat format = stored_format(cfg, in);
    void *codes = must_alloc(quant_code_bytes(&format, rows, in), 1);
    float *scales = must_alloc((size_t)quant_scale_count(&format, rows, in), sizeof *scales);
    int status = stored_codes(codes, scales, s, cfg, err);
    if (!status) dequantise(out, codes, scales, rows, in, &format);
    free(scales);
    free(codes);
    return status;
}

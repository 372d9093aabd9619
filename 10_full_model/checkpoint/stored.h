/*
 * A linear weight X as files store it: plain, or quantised in one of two ways.
 *
 *     plain    X.weight            [out, in]: F32, BF16 or F16
 *     fp8      X.weight            [out, in]: F8_E4M3
 *              X.weight_scale_inv  [ceil(out / 128), ceil(in / 128)], a number for each tile, which
 *              (or X.scale)        its weights are multiplied by, whatever the name says. F32, BF16
 *                                  or F16; or one byte e (F8_E8M0, U8) that means 2^(e - 127)
 *     packed   X.weight_packed     [out, ceil(in bits / 32)]: I32. Number j of a row lies `bits` j
 *                                  bits behind the row's first, as q + 2^(bits - 1)
 *              X.weight_scale      [out, in / group], or [out, 1]: F32, BF16 or F16
 *              X.weight_shape      [2]: I64, out and in
 *
 * (fp8 is DeepSeek-V3's layout, packed the `pack-quantized` of compressed-tensors.) config.json
 * says which of the two a folder has; which weights have it each says itself. In memory they are
 * codes and scales as in common/core/quantised.h: FP8 and INT8 take over the bytes, INT4 is
 * rearranged.
 */
#ifndef STORED_H
#define STORED_H

#include "10_full_model/checkpoint/weight_files.h"
#include "10_full_model/checkpoint/weights_map.h"
#include "10_full_model/model/sizes.h"

#include "08_quant/formats.h"

typedef struct StoredWeight {
    const Tensor *codes; /* NULL: there is none; of a plain weight its numbers */
    const Tensor *scale; /* NULL: it is plain */
    const Tensor *shape; /* of a packed one */
    const char *path;
    int bits, group; /* of a packed one: as config.json has them, but a whole row is no 0 */
} StoredWeight;

/*
 * The tensors that hold this part of a weight, in whichever way. -1 and a message if one of them is
 * missing or has not the shape or dtype that it should. Nothing there is no error.
 */
int stored_find(StoredWeight *stored, const WeightFiles *files, const ModelConfig *cfg,
                const WeightPart *part, Error *err);

/* How a quantised weight with rows of `in` numbers is held in memory. */
QuantFormat stored_format(const ModelConfig *cfg, int64_t in);

/* Its codes and scales, in that format. -1 and a message where a scale is not a positive number, or
 * a code of FP8 is NaN. */
int stored_codes(void *codes, float *scales, const StoredWeight *stored, const ModelConfig *cfg,
                 Error *err);

/* Its numbers, whichever way it is stored. -1 and a message as above. */
int stored_numbers(float *out, const StoredWeight *stored, const ModelConfig *cfg, Error *err);

/* ---- writing ---- */

/* From memory to X.weight_packed, whose rows are ceil(in bits / 32) words. */
void stored_pack(int32_t *packed, const void *codes, int64_t out, int64_t in, int bits,
                 const QuantFormat *format);

/* X in the name of its weight, "X.weight": for the modules that config.json lists. */
typedef struct ModuleName {
    char text[200];
} ModuleName;
ModuleName stored_module(const char *weight);

#endif

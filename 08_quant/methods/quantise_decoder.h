/*
 * A decoder's weights in fewer bits: one driver for all methods.
 *
 *     rtn           round to nearest; needs no text
 *     llmint8       the same as INT8, for activations in INT8 with their outlier columns apart
 *     smoothquant   INT8, for activations in INT8, after their outliers have moved to the weights
 *     awq           INT4 or INT8 weights, channels with large inputs rounded more finely
 *     gptq          INT4 or INT8 weights, each rounding made up for by the weights that follow
 *
 * All linear layers of attention and feed-forward are quantised, and the head if that is asked for;
 * tables, norms, routers and what else lies outside of the blocks stay. Layer by layer: the
 * calibration text runs through the block, its inputs are watched (inputs.h), the weights are
 * quantised, and the text runs through the block again, as it is now, to make what the next one
 * reads.
 *
 * Afterwards the decoder's weights hold what the codes are worth: the model computes, in F32, what
 * the quantised one would. SmoothQuant and AWQ have also changed norms and other weights, which
 * alone would change nothing. The codes and scales themselves are in the report.
 */
#ifndef QUANTISE_DECODER_H
#define QUANTISE_DECODER_H

#include "05_moe/decoder/decoder.h"
#include "08_quant/formats.h"

__BEGIN_DECLS

typedef enum QuantMethod {
    QUANT_RTN,
    QUANT_LLMINT8,
    QUANT_SMOOTHQUANT,
    QUANT_AWQ,
    QUANT_GPTQ,
    QUANT_METHODS
} QuantMethod;

/* "rtn", "llmint8", "smoothquant", "awq", "gptq", ended by NULL. */
extern const char *const quant_method_names[QUANT_METHODS + 1];

typedef struct QuantRecipe {
    QuantMethod method;
    QuantFormat format;
    bool head;       /* the head, too (not the table: a model that ties them has only that) */
    bool ragged;     /* F8: also matrices that its blocks do not divide; else these stay */
    float damp;      /* GPTQ: 0.01 */
    bool act_order;  /* GPTQ: true */
    float alpha;     /* SmoothQuant: 0.5 */
    float threshold; /* LLM.int8(): 6 */
} QuantRecipe;

/* With the published settings. */
QuantRecipe quant_recipe(QuantMethod method, QuantFormat format);

/* Do method and format go together? -1 and a message that says which do. */
int quant_recipe_check(const QuantRecipe *recipe, Error *err);
bool quant_needs_text(QuantMethod method);

/* Texts to calibrate with, as ids. */
typedef struct Calibration {
    int32_t *ids; /* [sequences, length] */
    int64_t sequences, length;
    const Position *position;           /* as in DecoderRun */
    const Selection *const *selections; /* the same */
} Calibration;

/* `sequences` windows of `length` ids, spread evenly over `count`. -1 and a message that says how
 * many ids there are and how many are needed. */
int calibration_init(Calibration *calibration, const int32_t *ids, int64_t count, int64_t sequences,
                     int64_t length, Error *err);
void calibration_free(Calibration *calibration);

/* What became of one weight. */
typedef struct QuantisedWeight {
    Tensor *weight;
    QuantFormat format;  /* of this weight: block sizes as they are, none is 0 */
    uint8_t *codes;      /* in memory as formats.h says; NULL: it stays as it was */
    float *scales;       /* [ceil(out / block_out), ceil(in / block_in)], experts': [E, ...] */
    char note[256];      /* why it stays, or what was done otherwise; "": nothing */
    double weight_error; /* of W, rounded to nearest: ||W' - W|| / ||W|| */
    /* of its output, ||X W'^T - X W^T|| / ||X W^T|| over the calibration text: rounded to nearest,
     * and by this method; NAN without text */
    double before, after;
    int64_t outlier_columns; /* of X, with a number of at least `threshold` (LLM.int8()) */
    int64_t short_experts;   /* with fewer tokens than inputs */
} QuantisedWeight;

typedef struct QuantReport {
    QuantisedWeight
        *list; /* one for each linear layer, in the order of the blocks; last the head */
    int count;
    size_t capacity;
    void (*progress)(void *user, int done, int all); /* layers; may be NULL */
    void *user;
} QuantReport;

void quant_report_free(QuantReport *report);
const QuantisedWeight *quant_report_find(const QuantReport *report, const Tensor *weight);

/*
 * ctx: CPU, F32, recording off; the decoder's weights are plain F32 numbers. calibration NULL: only
 * for methods that need no text; then the report has no errors of outputs. -1 and a message that
 * names the weight: NaN in it, a text too short (GPTQ: fewer tokens than the widest layer has
 * inputs), states that are not finite. The weights are then in between: load them again.
 */
int quantise_decoder(Context *ctx, const Decoder *decoder, const QuantRecipe *recipe,
                     const Calibration *calibration, QuantReport *report, Error *err);

/* One block by itself, rounded to nearest: an MTP module's, say. Adds to the report. */
int quantise_block(const Block *block, const BlockConfig *cfg, const QuantRecipe *recipe,
                   QuantReport *report, Error *err);

/*
 * Lets activations be INT8, too, as recipe's method has it (LLM.int8(), SmoothQuant; of the others
 * per token, too): every linear layer of the decoder rounds what it is given, until
 * quant_activations_end(). For measuring, on the CPU and off the tape.
 */
typedef struct QuantActivations QuantActivations;
QuantActivations *quant_activations_begin(const Decoder *decoder, const QuantRecipe *recipe);
void quant_activations_end(QuantActivations *activations);

__END_DECLS
#endif

/*
 * Decoding without the host in the way.
 *
 * A decoding step is some hundred small kernels. Launching them one by one costs the host more time
 * than the GPU needs to run them, and asking for every token before the next one is chosen costs a
 * round trip more. So on the GPU the step is captured once as a CUDA graph:
 *
 *     ids -> decoder_decode (appends to the cache) -> logits -> likeliest -> ids, and tokens[step]
 *
 * and repeated by one launch each. All that changes from step to step is counted on the device: the
 * ids, the lengths in the cache (and with them the positions), the number of the step. So many
 * steps can be launched in a row, and the host reads their tokens all at once; when it turns out
 * that a text ended among them, the cache is cut back.
 *
 * On the CPU, and with multi-head attention, whose cache is counted on the host, the same functions
 * run the same steps one after the other.
 */
#ifndef DECODE_GRAPH_H
#define DECODE_GRAPH_H

#include "05_moe/decoder/decoder.h"

__BEGIN_DECLS

enum { DECODE_STEPS = 32 }; /* most that can be launched before the tokens are read */

typedef struct DecodeGraph {
    Context *ctx;
    const Decoder *decoder;
    const Position *position;
    DecoderCache *cache;
    int batch;
    bool as_trained; /* set by the caller, on the CPU: steps are decoder_states(), MLA_AS_TRAINED */
    int32_t *routing; /* the caller's [layers, batch, K], or NULL: what decode_logits()'s routers
                       * chose; a dense layer's part is left alone. Set before the first step */
    Tensor *experts;  /* [layers]: where they are on the device, like logits */
    Tensor ids;       /* I32 [batch, 1]: what the next step begins with */
    Tensor tokens;    /* I32 [DECODE_STEPS, batch]: the likeliest token after each step */
    Tensor step;      /* I32 [1]: how many rows of tokens are filled */
    Tensor randoms, drawn, logprobs; /* F32, I32, F32 [batch]: of decode_draw() */
    Tensor logits;   /* [batch, 1, vocab], in the arena: valid until the next use of that */
    GpuGraph *graph; /* NULL until the first step, and where there is none */
} DecodeGraph;

/* For the sequences of `cache`; all that is given must outlive this. position may be NULL. */
int decode_graph_init(DecodeGraph *d, Context *ctx, const Decoder *decoder,
                      const Position *position, DecoderCache *cache, Error *err);
void decode_graph_free(DecodeGraph *d); /* zeros: fine */

/*
 * `steps` greedy steps (1 .. DECODE_STEPS) from ids [batch], which follow what the cache holds.
 * tokens [steps, batch]: the likeliest token after each; of equal logits the smaller id; -1 where
 * one of the logits is not finite, and then what follows in the sequence says nothing. The cache
 * then holds ids and all tokens but the last of each sequence; there must be room
 * (decoder_cache_reserve).
 */
void decode_greedy(DecodeGraph *d, const int32_t *ids, int steps, int32_t *tokens);

/* One step; its logits [batch, vocab] come to the host, for a sampler there. */
void decode_logits(DecodeGraph *d, const int32_t *ids, float *logits);

/*
 * One step, and the device draws: of all tokens at this temperature (> 0), by randoms [batch] in
 * [0, 1). tokens, logprobs [batch]: what was drawn and how likely it was; -1 where a logit is not
 * finite. Only these come to the host, instead of a vocabulary of logits for each sequence.
 */
void decode_draw(DecodeGraph *d, const int32_t *ids, const float *randoms, float temperature,
                 int32_t *tokens, float *logprobs);

/* Are all n numbers finite? */
bool decode_finite(const float *x, int64_t n);

/* ---- kernel ---- */

/*
 * The likeliest token of each row of logits [batch, vocab] goes to ids [batch] and to row *step of
 * tokens [DECODE_STEPS, batch]; of a row in which a number is not finite 0 and -1, so that the
 * steps behind it have an id to go on with. Then *step is one more. step may be NULL (row 0), and
 * tokens too. scratch: batch * DECODE_LIKELIEST_SCRATCH bytes, on the GPU.
 */
enum { DECODE_PARTS = 16, DECODE_LIKELIEST_SCRATCH = 8 * DECODE_PARTS };
KERNEL(decode_likeliest, int32_t *ids, int32_t *tokens, int32_t *step, void *scratch,
       const Real *logits, int64_t batch, int64_t vocab);

/* The same for logits [..., vocab]; its scratch is in the arena. */
void decode_likeliest(Context *ctx, int32_t *ids, int32_t *tokens, int32_t *step,
                      const Tensor *logits);

/*
 * tokens[b] = the first j for which the sum of exp(z_i / T) over i <= j is above randoms[b] times
 * the sum over all; logprobs[b] = log softmax(z / T) of it. -1 and 0 where a logit is not finite.
 */
KERNEL(decode_draw, int32_t *tokens, float *logprobs, const float *randoms, const Real *logits,
       int64_t batch, int64_t vocab, float temperature);

__END_DECLS
#endif

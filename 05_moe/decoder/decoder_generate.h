/*
 * Generating ids: one at a time, each drawn from what the decoder thinks comes next.
 *
 * A DecoderGenerator holds one or more sequences side by side. Those of different lengths go
 * through the decoder together, padded on the right: the mask is causal, so no token sees the
 * padding, and the caches are cut to size afterwards. From then on a step is one token of every
 * sequence.
 *
 * Invariant, between calls: the caches hold no more than all tokens of a sequence but its last
 * one, which is what the next step begins with. So a sequence can be continued, by the decoder or
 * by a caller that writes ids behind it, and nothing is computed twice.
 */
#ifndef DECODER_GENERATE_H
#define DECODER_GENERATE_H

#include "05_moe/decoder/decode_graph.h"
#include "common/text/sampler.h"

typedef struct DecoderSequence {
    int32_t *ids;     /* [capacity]: the caller's, and behind them the drawn ones */
    float *logprobs;  /* [capacity]: of drawn ids, as sample_token() says; of others undefined */
    int count, drawn; /* ids; and how many of them, the last, are of the last decoder_generate() */
    uint64_t stream;  /* of random numbers: says who asks, not where it stands. At first: b */
} DecoderSequence;

typedef struct DecoderGenerator {
    Context *ctx;
    const Decoder *decoder;
    const Position *position;
    DecoderCache cache;
    int batch, capacity;
    DecoderSequence *sequences; /* [batch] */
    float *logits;              /* [batch, vocab_size], host */
    DecodeGraph decode;
} DecoderGenerator;

/* Sequences of up to `capacity` tokens, all empty; only one where the decoder has multi-head
 * attention. -1 and a message when memory runs out. Its address must not change. */
int decoder_generator_init(DecoderGenerator *g, Context *ctx, const Decoder *decoder,
                           const Position *position, int batch, int capacity, Error *err);
void decoder_generator_free(DecoderGenerator *g); /* zeros: fine */

/* Sequence b (-1: each) keeps its first `count` ids, of which there must be so many. */
void decoder_generator_truncate(DecoderGenerator *g, int b, int count);

typedef struct DecoderGenerateOptions {
    Sampling sampling;
    int max_new_tokens;
    int end; /* a sequence ends behind this id, which is drawn and kept like any other; -1: none */
    /* Hears of each id but `end`; true: the sequence ends behind it. May be NULL. */
    bool (*ends)(void *user, int b, int32_t id);
    void *user;
    /* On a GPU, at a temperature and with nothing cut off, the device draws, in another order than
     * the sampler: the same random numbers are other tokens. Nobody finds logits in the generator
     * then. */
    bool device_draws;
    const volatile int *cancelled; /* looked at before each token; may be NULL */
} DecoderGenerateOptions;

typedef struct DecoderGenerateResult {
    int prompt_tokens, new_tokens;  /* of all sequences: into the caches first, and drawn */
    double prompt_seconds, seconds; /* for each of the two */
    bool full;                      /* the end of the capacity ended it */
    int broken; /* 1 + the first sequence whose logits were not finite, which ended all; 0: none */
} DecoderGenerateResult;

/*
 * Continues every sequence, none of which may be empty, by up to max_new_tokens ids; all of them
 * end when the longest fills the capacity. A sequence draws its random numbers from (seed, stream,
 * position): neither the neighbours nor its place among them have a part in it.
 */
void decoder_generate(DecoderGenerator *g, const DecoderGenerateOptions *options,
                      DecoderGenerateResult *result);

#endif

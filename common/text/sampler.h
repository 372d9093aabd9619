/*
 * Choosing the next token.
 *
 * The settings apply in this order, which is that of transformers:
 *     repetition penalty   logits of tokens that are in the text already: divided by it if
 *                          positive, multiplied if negative (Keskar et al. 2019, section 4.1)
 *     temperature          softmax(logits / temperature); 0: the likeliest token, always
 *     top-k                only the k likeliest
 *     top-p                only the likeliest of these which together reach p of their probability
 *                          (Holtzman et al. 2020)
 *     min-p                only those at least min_p times as likely as the likeliest
 *                          (Nguyen et al. 2024)
 */
#ifndef SAMPLER_H
#define SAMPLER_H

#include <stdint.h>

typedef struct Sampling {
    float temperature;        /* 0: always the likeliest token; 1: the model's own probabilities */
    int top_k;                /* 0: all */
    float top_p;              /* 1: all */
    float min_p;              /* 0: all */
    float repetition_penalty; /* 1 (or 0): none */
    uint64_t seed;
} Sampling;

/* temperature 0.8, top_p 0.95, the rest off. */
Sampling sampling_defaults(void);

/* Lowers the logits [vocab] of every token in history [count], however often it is there. */
void penalize_repetitions(float *logits, int vocab, const int32_t *history, int count,
                          float penalty);

typedef struct SampledToken {
    int32_t id;
    float logprob; /* log of the probability that it had in the draw: of what the settings left */
} SampledToken;

/*
 * The token that `random`, uniform in [0, 1), picks from logits [vocab] (host memory). Equal
 * logits: the smaller id first. At least one token is always left; the only one has logprob 0.
 */
SampledToken sample_token(const float *logits, int vocab, const Sampling *sampling, float random);

/* What sample_token() draws from: p [vocab], a sum of 1, zeros where the settings left nothing. */
void sample_probabilities(float *p, const float *logits, int vocab, const Sampling *sampling);

/* The index that `random`, uniform in [0, 1), picks from weights [count]: none is negative, and
 * their sum, which may be any, is not 0. */
int32_t sample_weights(const float *weights, int count, float random);

#endif

/*
 * Drawn text: its distribution is the model's, for drafts that are drawn, likeliest or planted,
 * under every setting of the sampler. By chi-square, at each place and for pairs of places, against
 * probabilities that are added up over all texts so far; the seeds are fixed.
 */
#include "06_mtp/speculate/speculate.h"
#include "06_mtp/speculate/verify.h"
#include "06_mtp/tests/test_speculate.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* How many standard deviations a chi-square is above what it should be (Wilson & Hilferty 1931).
 * Cells with fewer than 5 expected are one; what cannot be must not be. */
static double deviations(const char *what, const int64_t *seen, const double *p, int cells,
                         double draws) {
    double chi = 0, rare = 0, rare_seen = 0;
    int degrees = -1;
    for (int i = 0; i < cells; i++) {
        double want = p[i] * draws;
        cr_assert(p[i] > 0 || seen[i] == 0, "%s: %d was drawn, and cannot be", what, i);
        if (want < 5) {
            rare += want, rare_seen += (double)seen[i];
            continue;
        }
        chi += ((double)seen[i] - want) * ((double)seen[i] - want) / want, degrees++;
    }
    if (rare >= 5) chi += (rare_seen - rare) * (rare_seen - rare) / rare, degrees++;
    if (degrees < 1) return 0;
    double v = 2.0 / (9.0 * degrees);
    return (cbrt(chi / degrees) - (1 - v)) / sqrt(v);
}

enum { P_OF_1_IN_1000 = 3 }; /* deviations: p = 1.3e-3, a little stricter than 1e-3 */

static void check_distribution(const char *what, const int64_t *seen, const double *p, int cells,
                               double draws) {
    double z = deviations(what, seen, p, cells, draws);
    cr_assert(z < P_OF_1_IN_1000, "%s: %.1f standard deviations off", what, z);
}

/* ---- one draft ---- */

enum { WORDS = 64, DRAWS = 100000 };

/* p and q that differ, with zeros in each; some settings. */
Test(verify, leaves_the_models_distribution) {
    for (int variant = 0; variant < 6; variant++) {
        int words = variant % 2 ? WORDS : 8;
        float p[WORDS], q[WORDS], rest[WORDS], sum_p = 0, sum_q = 0;
        int64_t seen[WORDS] = {0}, accepted = 0;
        double want[WORDS];
        int32_t best = 0;
        for (int i = 0; i < words; i++) {
            p[i] = i % 5 == 1 ? 0 : expf(2 * rng_normal(1, (uint64_t)variant, (uint64_t)i));
            q[i] = i % 7 == 3 ? 0 : expf(2 * rng_normal(2, (uint64_t)variant, (uint64_t)i));
            sum_p += p[i], sum_q += q[i];
        }
        for (int i = 0; i < words; i++) {
            want[i] = p[i] /= sum_p, q[i] /= sum_q;
            if (q[i] > q[best]) best = i;
        }
        bool certain = variant >= 4;
        for (uint64_t n = 0; n < DRAWS; n++) {
            uint64_t seed = 10 + (uint64_t)variant;
            int32_t d = certain ? best : sample_weights(q, words, rng_uniform(seed, 1, n));
            bool stays = verify_accepts(p, certain ? NULL : q, d, rng_uniform(seed, 2, n));
            accepted += stays;
            if (!stays)
                d = verify_replace(rest, p, certain ? NULL : q, d, words, rng_uniform(seed, 3, n));
            seen[d]++;
        }
        check_distribution("one draft", seen, want, words, DRAWS);
        double rate = certain ? p[best] : verify_acceptance(p, q, words);
        double off = fabs((double)accepted / DRAWS - rate) / sqrt(rate * (1 - rate) / DRAWS);
        cr_assert(off < 4, "accepted %lld times, not %g", (long long)accepted, rate * DRAWS);
    }
}

/* u can be 0, and a token that the model cannot say must not pass even then; and where q is p but
 * for rounding there is always something to draw. */
Test(verify, edges) {
    const float p[] = {0, 0.25f, 0.75f}, q[] = {0.5f, 0.25f, 0.25f}, same[] = {0, 0.25f, 0.75f};
    float rest[3];
    cr_assert(!verify_accepts(p, q, 0, 0) && !verify_accepts(p, NULL, 0, 0));
    cr_assert(verify_accepts(p, q, 1, 0.999f) && verify_accepts(p, q, 2, 0.999f));
    cr_assert(verify_accepts(p, NULL, 2, 0.7499f) && !verify_accepts(p, NULL, 2, 0.75f));
    cr_assert(verify_replace(rest, p, q, 0, 3, 0) == 2 &&
              verify_replace(rest, p, q, 0, 3, 0.99f) == 2);
    cr_assert(verify_replace(rest, p, same, 1, 3, 0) == 1);
    cr_assert(verify_replace(rest, p, NULL, 2, 3, 0.99f) == 1);
    const double a[] = {0.8, 0.7};
    cr_assert_float_eq(speculate_tokens(a, 1), 1.8, 1e-12);
    cr_assert_float_eq(speculate_tokens(a, 2), 2.36, 1e-12);
    cr_assert_float_eq(speculate_speedup(a, 1, 1.16, 0.58), 1.8 / 1.74, 1e-12);
}

/* The lesson's three tokens: a model that says .5 .3 .2, a drafter that says .2 .6 .2. */
Test(verify, three_tokens_by_hand) {
    const float p[] = {0.5f, 0.3f, 0.2f}, q[] = {0.2f, 0.6f, 0.2f};
    float rest[3];
    cr_assert_float_eq(verify_acceptance(p, q, 3), 0.7, 1e-6);
    cr_assert(verify_accepts(p, q, 0, 0.99f) && verify_accepts(p, q, 2, 0.99f));
    cr_assert(verify_accepts(p, q, 1, 0.49f) && !verify_accepts(p, q, 1, 0.51f));
    cr_assert(verify_replace(rest, p, q, 1, 3, 0.99f) == 0, "b is replaced by a, always");
    cr_assert_float_eq(rest[0], 0.3, 1e-6);
    cr_assert(rest[1] == 0 && rest[2] == 0);
}

/* ---- texts ---- */

enum { SMALL = 8, PLACES = 3, PROMPT = 4 };

/* The probabilities of what may come behind `ids`: the model's, alone, under the settings. */
static void model_says(SpeculateModel *m, const int32_t *ids, int count, const Sampling *sampling,
                       float *p) {
    Context *ctx = m->params.ctx;
    float logits[(PROMPT + PLACES) * SMALL];
    Tensor *x = decoder_states(
        ctx, &m->decoder, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, count)), &(DecoderRun){0});
    tensor_download(ctx, logits, decoder_logits(ctx, &m->decoder, x));
    context_reset(ctx);
    float *last = logits + (count - 1) * SMALL;
    penalize_repetitions(last, SMALL, ids, count, sampling->repetition_penalty);
    sample_probabilities(p, last, SMALL, sampling);
}

/* All texts of PLACES tokens behind a prompt: at each place each token's probability, and that of
 * the pairs at the first two. */
typedef struct Expected {
    double place[PLACES][SMALL], pair[SMALL * SMALL];
} Expected;

static void expect(SpeculateModel *m, int32_t *ids, int at, double so_far, const Sampling *sampling,
                   Expected *e) {
    float p[SMALL];
    if (at == PLACES || so_far == 0) return;
    model_says(m, ids, PROMPT + at, sampling, p);
    for (int i = 0; i < SMALL; i++) {
        ids[PROMPT + at] = i;
        e->place[at][i] += so_far * p[i];
        if (at == 1) e->pair[ids[PROMPT] * SMALL + i] += so_far * p[i];
        expect(m, ids, at + 1, so_far * p[i], sampling, e);
    }
}

typedef enum Drafts { DRAWN, LIKELIEST, FIXED } Drafts;

static void check_texts(SpeculateModel *m, const Sampling *sampling, Drafts drafts, int draws) {
    enum { SIDE = 5, K = 2 };
    Context *ctx = m->params.ctx;
    DecoderGenerator g;
    Speculator s;
    Error err = {0};
    DecoderGenerateResult result;
    DecoderGenerateOptions o = {.sampling = *sampling, .max_new_tokens = PLACES, .end = -1};
    int32_t ids[PROMPT + PLACES] = {3, 1, 6, 2}, right[SPECULATE_MOST];
    int32_t truth[SIDE * (PROMPT + PLACES)];
    for (int i = 0; i < SPECULATE_MOST; i++) right[i] = 1;
    for (int i = 0; i < SIDE * (PROMPT + PLACES); i++) truth[i] = i % SMALL;
    Expected e = {0};
    expect(m, ids, 0, 1, sampling, &e);
    int64_t seen[PLACES][SMALL] = {0}, pair[SMALL * SMALL] = {0};
    check_ok(decoder_generator_init(&g, ctx, &m->decoder, NULL, SIDE, PROMPT + PLACES + 1, &err),
             &err);
    Drafter *drafter = drafts == FIXED ? drafter_planted(ctx, &g.cache, truth, PROMPT + PLACES,
                                                         right, 1, SMALL, NULL, &err)
                                       : drafter_of_modules(ctx, &m->mtp, &g.cache, K, &err);
    check_ok(speculator_init(&s, &g, drafter, NULL, K, &err), &err);
    s.argmax = drafts == LIKELIEST;
    for (int n = 0; n < draws; n += SIDE) {
        decoder_generator_truncate(&g, -1, 0);
        for (int b = 0; b < SIDE; b++) {
            g.sequences[b].count = PROMPT, g.sequences[b].stream = (uint64_t)(n + b);
            memcpy(g.sequences[b].ids, ids, PROMPT * sizeof *ids);
        }
        speculate_generate(&s, &o, &result);
        for (int b = 0; b < SIDE; b++) {
            const int32_t *text = g.sequences[b].ids + PROMPT;
            for (int i = 0; i < PLACES; i++) seen[i][text[i]]++;
            pair[text[0] * SMALL + text[1]]++;
        }
    }
    for (int i = 0; i < PLACES; i++)
        check_distribution("a place", seen[i], e.place[i], SMALL, draws);
    check_distribution("a pair", pair, e.pair, SMALL * SMALL, draws);
    cr_assert(s.counts.kept[0] > 0 && s.counts.kept[0] < s.counts.seen[0]);
    speculator_free(&s);
    decoder_generator_free(&g);
}

static void check_drafts(Device device, DType dtype, Drafts drafts, int draws) {
    static const Sampling settings[] = {
        {.temperature = 1, .top_p = 1, .seed = 5},
        {.temperature = 0.8f, .top_k = 5, .top_p = 0.9f, .repetition_penalty = 1.4f, .seed = 6}};
    Context ctx = test_context(device, dtype);
    SpeculateModel m;
    DecoderConfig cfg = speculate_config();
    cfg.vocab_size = SMALL, cfg.num_hidden_layers = 1;
    cfg.block.mla = (MlaConfig){64, 1, 0, 32, 16, 16, 16, false};
    speculate_model_init(&m, &ctx, cfg, 1);
    omp_set_num_threads(1); /* there is less work in a step than in waking another thread */
    /* On a GPU every step waits for the host: fewer, and in BF16 the logits here are not exactly
     * those of a step, so fewer still. */
    if (device == CUDA) draws /= dtype == F32 ? 12 : 50;
    check_texts(&m, &settings[0], drafts, draws);
    check_texts(&m, &settings[1], drafts, draws / 10);
}

DEVICE_TEST(speculate_drawn, drawn_drafts) { check_drafts(device, dtype, DRAWN, DRAWS); }

DEVICE_TEST(speculate_drawn, likeliest_drafts) { check_drafts(device, dtype, LIKELIEST, DRAWS); }

DEVICE_TEST(speculate_drawn, certain_drafts) { check_drafts(device, dtype, FIXED, DRAWS / 5); }

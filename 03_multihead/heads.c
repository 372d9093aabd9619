/*
 * What a head looks at: the probabilities of one head, and habits measured on them.
 */
#include "03_multihead/heads.h"

#include "01_self_attention/softmax.h"
#include "common/core/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static float *download(Context *ctx, const Tensor *t) {
    float *host = must_alloc((size_t)tensor_count(t), sizeof *host);
    tensor_download(ctx, host, t);
    return host;
}

void head_probabilities(Context *ctx, float *p, Tensor *x, const Multihead *w,
                        const MultiheadConfig *cfg, int b, int h) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1);
    int H = cfg->num_attention_heads, H_kv = cfg->num_key_value_heads, D = cfg->head_dim;
    CHECK(b >= 0 && b < B && h >= 0 && h < H, "head_probabilities: sequence %d, head %d", b, h);
    float *q = download(ctx, linear(ctx, x, w->q_proj, w->q_bias)); /* [B, T, H * D] */
    float *k = download(ctx, linear(ctx, x, w->k_proj, w->k_bias)); /* [B, T, H_kv * D] */
    int g = h / (H / H_kv);
    for (int64_t t = 0; t < T; t++)
        for (int64_t s = 0; s < T; s++) {
            const float *q_row = q + ((b * T + t) * H + h) * D;
            const float *k_row = k + ((b * T + s) * H_kv + g) * D;
            float score = 0;
            for (int d = 0; d < D; d++) score += q_row[d] * k_row[d];
            p[t * T + s] = s <= t ? score / sqrtf((float)D) : -INFINITY;
        }
    softmax_reference_forward_cpu(p, p, T, T); /* -inf becomes exactly 0 */
    free(q);
    free(k);
}

/*
 * Is looking from token t at token s <= t an instance of the habit? word is where t's word
 * begins.
 */
static int is_habit(Habit habit, const int32_t *ids, int t, int s, int word, int32_t separator) {
    switch (habit) {
    case LOOKS_AT_ITSELF:
        return s == t;
    case LOOKS_1_BACK:
        return s == t - 1;
    case LOOKS_2_BACK:
        return s == t - 2;
    case LOOKS_3_BACK:
        return s == t - 3;
    case LOOKS_AT_SEPARATORS:
        return ids[s] == separator;
    case LOOKS_AT_OWN_WORD:
        return s >= word && s < t - 1;
    case LOOKS_AT_SAME:
        return s < t && ids[s] == ids[t];
    case LOOKS_AFTER_SAME:
        return s > 0 && ids[s - 1] == ids[t];
    default:
        return 0;
    }
}

void habits_add(HeadHabits *habits, const float *p, const int32_t *ids, int T, int32_t separator) {
    for (int t = HABIT_FIRST_ROW; t < T; t++) {
        int word = t;
        while (word > 0 && ids[word - 1] != separator) word--;
        for (int s = 0; s <= t; s++) {
            double weight = p[(int64_t)t * T + s];
            for (int habit = 0; habit < HABIT_COUNT; habit++)
                if (is_habit((Habit)habit, ids, t, s, word, separator)) {
                    habits->share[habit] += weight;
                    habits->chance[habit] += 1.0 / (t + 1);
                }
            if (weight > 0) habits->entropy -= weight * log(weight);
        }
        habits->rows++;
    }
}

void habits_average(HeadHabits *habits) {
    double rows = habits->rows ? (double)habits->rows : 1.0;
    for (int i = 0; i < HABIT_COUNT; i++) {
        habits->share[i] /= rows;
        habits->chance[i] /= rows;
    }
    habits->entropy /= rows;
}

Habit habits_best(const HeadHabits *habits) {
    int best = 0;
    for (int i = 1; i < HABIT_COUNT; i++)
        if (habits->share[i] - habits->chance[i] > habits->share[best] - habits->chance[best])
            best = i;
    return (Habit)best;
}

char *habits_name(const HeadHabits *habits, char *buffer, size_t size) {
    static const char *const what[HABIT_COUNT] = {
        [LOOKS_AT_ITSELF] = "the character itself",
        [LOOKS_1_BACK] = "the previous character",
        [LOOKS_2_BACK] = "the character 2 back",
        [LOOKS_3_BACK] = "the character 3 back",
        [LOOKS_AT_SEPARATORS] = "spaces",
        [LOOKS_AT_OWN_WORD] = "the beginning of its own word",
        [LOOKS_AT_SAME] = "the same character, earlier",
        [LOOKS_AFTER_SAME] = "what followed the same character",
    };
    enum { LITTLE = 10 }; /* per cent above chance that deserve a name */
    Habit best = habits_best(habits);
    double share = 100 * habits->share[best], chance = 100 * habits->chance[best];
    if (share - chance < LITTLE)
        snprintf(buffer, size, "spreads over %.0f characters (most: %s, %.0f %%)",
                 exp(habits->entropy), what[best], share);
    else
        snprintf(buffer, size, "looks at %s: %.0f %% of its weight (chance: %.0f %%)", what[best],
                 share, chance);
    return buffer;
}

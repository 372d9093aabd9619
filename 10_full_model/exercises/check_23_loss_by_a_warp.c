/*
 * Checks exercise 10.23 against double precision. A lane is a thread, and a shuffle is two meetings
 * at a barrier. Each access notes its number since the lane's last shuffle: the lanes' accesses of
 * one number are one instruction.
 */
#include "10_full_model/exercises/23_loss_by_a_warp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

float warp_loss(int lane, int vocab, int target, float scale);

enum { LANES = 32, MOST = 1024, SHUFFLES = 15, PIECE = 32, INSTRUCTIONS = 1 << 17 };

static pthread_barrier_t barrier;
static float row[MOST], loss[LANES], slot[LANES];
static int vocab, target, shuffles, outside;
static float scale;
static _Thread_local int me, since_shuffle[2], epoch;

/* Which pieces has each instruction asked for? One bit each. [kind][instruction]: its shuffle and
 * its number make the index. */
static uint32_t asked[2][INSTRUCTIONS];

static void note(int kind, int index) {
    int instruction = epoch * (MOST * 2) + since_shuffle[kind]++;
    if (index < 0 || index >= vocab || instruction >= INSTRUCTIONS) {
        outside = 1;
        return;
    }
    __atomic_fetch_or(&asked[kind][instruction], 1u << index / PIECE, __ATOMIC_RELAXED);
}

float load(int index) {
    note(0, index);
    return index < 0 || index >= vocab ? NAN : row[index];
}

void store(int index, float value) {
    note(1, index);
    if (index >= 0 && index < vocab) row[index] = value;
}

float shuffle_xor(float mine, int mask) {
    slot[me] = mine;
    if (me == 0) shuffles++;
    epoch++, since_shuffle[0] = since_shuffle[1] = 0;
    pthread_barrier_wait(&barrier);
    float theirs = slot[(me ^ mask) % LANES];
    pthread_barrier_wait(&barrier);
    return theirs;
}

static void *lane(void *number) {
    me = (int)(long)number;
    loss[me] = warp_loss(me, vocab, target, scale);
    return NULL;
}

static int pieces(int kind) {
    int count = 0;
    for (int i = 0; i < INSTRUCTIONS; i++) count += __builtin_popcount(asked[kind][i]);
    return count;
}

/* Runs the warp on z; a lane that waits for others in vain is ended by the test's time limit. */
static void check_row(const float *z, int tokens, int at, float by) {
    vocab = tokens, target = at, scale = by;
    shuffles = outside = 0;
    memset(asked, 0, sizeof asked);
    memcpy(row, z, sizeof(float) * (size_t)tokens);
    pthread_t thread[LANES];
    pthread_barrier_init(&barrier, NULL, LANES);
    for (long l = 0; l < LANES; l++) {
        loss[l] = NAN;
        cr_assert(pthread_create(&thread[l], NULL, lane, (void *)l) == 0);
    }
    for (int l = 0; l < LANES; l++) pthread_join(thread[l], NULL);
    pthread_barrier_destroy(&barrier);
    cr_assert(!outside, "a load or store outside of the %d logits, or far too many of them",
              tokens);

    double max = -INFINITY, sum = 0;
    for (int j = 0; j < tokens; j++) max = fmax(max, z[j]);
    for (int j = 0; j < tokens; j++) sum += exp(z[j] - max);
    double wanted = at < 0 ? 0 : max + log(sum) - z[at];
    for (int l = 0; l < LANES; l++) /* lse is rounded to F32 at the size of the largest logit */
        cr_assert(fabs(loss[l] - wanted) <= 1e-5 + 4e-7 * fabs(max), "lane %d: loss %g, not %g", l,
                  loss[l], wanted);
    for (int j = 0; j < tokens; j++) {
        double p = at < 0 ? 0 : exp(z[j] - max) / sum, d = at < 0 ? 0 : (p - (j == at)) * by;
        /* e^(z - lse) has lse's rounding as its relative error */
        cr_assert(fabs(row[j] - d) <= (1e-5 + 4e-7 * fabs(max)) * by,
                  "%d tokens, target %d: the gradient of logit %d is %g, not %g", tokens, at, j,
                  row[j], d);
    }
    int steps = (tokens + PIECE - 1) / PIECE;
    cr_assert(pieces(0) <= 2 * steps + 1,
              "%d logits are loaded in %d pieces of memory; %d are enough", tokens, pieces(0),
              2 * steps + 1);
    cr_assert(pieces(1) <= steps, "%d logits are stored in %d pieces of memory; %d are enough",
              tokens, pieces(1), steps);
    cr_assert(shuffles <= SHUFFLES, "%d shuffles; %d are enough", shuffles, SHUFFLES);
}

static float z[MOST];

Test(loss_by_a_warp, moderate_logits, .timeout = 10) {
    static const int sizes[] = {32, 127, MOST};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < sizes[i]; j++) z[j] = (float)(j * 7 % 19) / 4;
        check_row(z, sizes[i], 5, 0.5f);
        check_row(z, sizes[i], sizes[i] - 1, 1);
    }
}

Test(loss_by_a_warp, fewer_tokens_than_lanes, .timeout = 10) {
    for (int j = 0; j < 31; j++) z[j] = (float)(j % 5) - 2;
    check_row(z, 1, 0, 1);
    check_row(z, 7, 6, 1);
    check_row(z, 31, 3, 1);
}

Test(loss_by_a_warp, huge_logits, .timeout = 10) {
    for (int j = 0; j < 100; j++) z[j] = 10000 - 3 * (float)(j % 7);
    check_row(z, 100, 41, 1);
    for (int j = 0; j < 100; j++) z[j] = -z[j];
    check_row(z, 100, 41, 1);
}

Test(loss_by_a_warp, forbidden_tokens, .timeout = 10) {
    for (int j = 0; j < 300; j++) z[j] = j % 32 < 30 ? -INFINITY : (float)(j % 3);
    check_row(z, 300, 31, 1);
}

Test(loss_by_a_warp, ignored, .timeout = 10) {
    for (int j = 0; j < 100; j++) z[j] = (float)(j % 7);
    check_row(z, 100, -1, 1);
}

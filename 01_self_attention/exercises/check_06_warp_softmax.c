/* Checks exercise 01.6. A lane is a thread, and a shuffle is two meetings at a barrier. */
#include "01_self_attention/exercises/warp.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>

float warp_softmax(float x);

enum { LANES = 32, ALLOWED = 10 };

static pthread_barrier_t barrier;
static float slot[LANES], score[LANES], weight[LANES];
static int shuffles;
static _Thread_local int me;

float shuffle_xor(float mine, int mask) {
    slot[me] = mine;
    if (me == 0) shuffles++;
    pthread_barrier_wait(&barrier);
    float theirs = slot[(me ^ mask) % LANES];
    pthread_barrier_wait(&barrier);
    return theirs;
}

static void *lane(void *number) {
    me = (int)(long)number;
    weight[me] = warp_softmax(score[me]);
    return NULL;
}

/* Runs the warp on the scores; a lane that waits for others in vain is ended by the test's time
 * limit. */
static void run_warp(void) {
    pthread_t thread[LANES];
    shuffles = 0;
    pthread_barrier_init(&barrier, NULL, LANES);
    for (long i = 0; i < LANES; i++) {
        weight[i] = NAN;
        cr_assert(pthread_create(&thread[i], NULL, lane, (void *)i) == 0);
    }
    for (int i = 0; i < LANES; i++) pthread_join(thread[i], NULL);
    pthread_barrier_destroy(&barrier);
}

static void check_weights(void) {
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < LANES; i++) max = fmax(max, score[i]);
    for (int i = 0; i < LANES; i++) sum += exp(score[i] - max);
    for (int i = 0; i < LANES; i++) {
        double want = exp(score[i] - max) / sum;
        /* A few roundings of F32 in e^x and in the sum of 32. */
        cr_assert(fabs(weight[i] - want) <= 1e-5 * want + 1e-30, "lane %d has %g, not %g", i,
                  weight[i], want);
    }
}

Test(warp_softmax, moderate_scores, .timeout = 5) {
    for (int i = 0; i < LANES; i++) score[i] = (float)(i * 7 % 19) / 4;
    run_warp();
    check_weights();
}

Test(warp_softmax, one_lane_stands_out, .timeout = 5) {
    for (int at = 0; at < LANES; at++) { /* each lane's number reaches each other lane */
        for (int i = 0; i < LANES; i++) score[i] = i == at ? 5 : 0;
        run_warp();
        check_weights();
    }
}

Test(warp_softmax, huge_scores, .timeout = 5) {
    for (int i = 0; i < LANES; i++) score[i] = 1000.0f * (float)(i % 3);
    run_warp();
    check_weights();
}

Test(warp_softmax, ten_shuffles_are_enough, .timeout = 5) {
    run_warp();
    check_weights();
    cr_assert(shuffles <= ALLOWED, "%d shuffles; %d are enough", shuffles, ALLOWED);
}

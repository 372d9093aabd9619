/*
 * Checks exercise 01.9. A wait that lasts four seconds is taken for a deadlock; a stage knows what
 * it holds and who has used it.
 */
#include "01_self_attention/exercises/ring.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

void produce(int tiles, int steps);
void consume(int tiles, int steps);

struct Barrier {
    int needed, arrived, phase; /* phases that have ended */
};

#define RING(needed)                                                                               \
    {                                                                                              \
        &(Barrier){needed, 0, 0}, &(Barrier){needed, 0, 0}, &(Barrier){needed, 0, 0}, &(Barrier) { \
            needed, 0, 0                                                                           \
        }                                                                                          \
    }
Barrier *const full[STAGES] = RING(1), *const empty[STAGES] = RING(CONSUMERS);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static char mistake[200]; /* the first one; afterwards nobody waits any more */
static struct { int tile, step, used; } stages[STAGES];
static int multiplied, tile_count, step_count;

#define MISTAKE(...)                                                     \
    do {                                                                 \
        if (!mistake[0]) snprintf(mistake, sizeof mistake, __VA_ARGS__); \
        pthread_cond_broadcast(&changed);                                \
    } while (0)

void barrier_wait(Barrier *b, int parity) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 4;
    pthread_mutex_lock(&lock);
    /* The phase of this parity is over while the other one's is under way. */
    while (!mistake[0] && b->phase % 2 == parity)
        if (pthread_cond_timedwait(&changed, &lock, &end))
            MISTAKE("somebody waits for ever, after %d of %d multiplications", multiplied,
                    CONSUMERS * tile_count * step_count);
    pthread_mutex_unlock(&lock);
}

void barrier_arrive(Barrier *b) {
    pthread_mutex_lock(&lock);
    if (++b->arrived == b->needed) {
        b->arrived = 0;
        b->phase++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
}

static void take_time(void) { nanosleep(&(struct timespec){0, 200000}, NULL); }

void load_stage(int stage, int tile, int step) {
    pthread_mutex_lock(&lock);
    if (stages[stage].used < CONSUMERS && stages[stage].tile >= 0)
        MISTAKE("stage %d is overwritten while it holds tile %d, step %d, which %d of %d consumers "
                "have used",
                stage, stages[stage].tile, stages[stage].step, stages[stage].used, CONSUMERS);
    stages[stage].tile = tile;
    stages[stage].step = step;
    stages[stage].used = 0;
    pthread_mutex_unlock(&lock);
}

void multiply_stage(int stage, int tile, int step) {
    take_time(); /* the multiplication; then look whether the operands were there all the time */
    pthread_mutex_lock(&lock);
    if (stages[stage].tile != tile || stages[stage].step != step)
        MISTAKE("a consumer multiplies tile %d, step %d, but stage %d holds tile %d, step %d", tile,
                step, stage, stages[stage].tile, stages[stage].step);
    stages[stage].used++;
    multiplied++;
    pthread_mutex_unlock(&lock);
}

static void *producer(void *unused) {
    (void)unused;
    produce(tile_count, step_count);
    return NULL;
}

static void *consumer(void *unused) {
    (void)unused;
    consume(tile_count, step_count);
    return NULL;
}

static void run(int tiles, int steps) {
    pthread_t thread[1 + CONSUMERS];
    tile_count = tiles;
    step_count = steps;
    for (int s = 0; s < STAGES; s++) stages[s].tile = -1;
    for (int i = 0; i <= CONSUMERS; i++)
        cr_assert(pthread_create(&thread[i], NULL, i ? consumer : producer, NULL) == 0);
    for (int i = 0; i <= CONSUMERS; i++) pthread_join(thread[i], NULL);
    cr_assert(!mistake[0], "%s", mistake);
    cr_assert(multiplied == CONSUMERS * tiles * steps, "%d multiplications instead of %d",
              multiplied, CONSUMERS * tiles * steps);
}

Test(ring, eight_steps_a_tile, .timeout = 15) { run(5, 8); }
Test(ring, six_steps_a_tile, .timeout = 15) { run(5, 6); }
Test(ring, one_step_a_tile, .timeout = 15) { run(20, 1); }
Test(ring, a_single_long_tile, .timeout = 15) { run(1, 61); }

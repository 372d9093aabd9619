/*
 * A ring of stages to practise on without a GPU. One producer and two consumers are threads; they
 * meet at barriers that count phases as mbarriers do.
 *
 * A barrier's phase ends when as many have arrived as it was made for; then the next one begins.
 * barrier_wait(b, 0) returns when the first phase has ended (and the second has not), then
 * (b, 1) for the second, (b, 0) for the third, ... So a fresh barrier lets (b, 1) pass at once.
 */
#ifndef RING_H
#define RING_H

typedef struct Barrier Barrier;

enum { STAGES = 4, CONSUMERS = 2 };

/* full[s] waits for one arrival, empty[s] for one of each consumer. */
extern Barrier *const full[STAGES], *const empty[STAGES];

void barrier_wait(Barrier *b, int parity);
void barrier_arrive(Barrier *b);

/* What a stage holds: the producer puts tile number `tile`'s step `step` there, a consumer
 * multiplies with it. Both take their time. */
void load_stage(int stage, int tile, int step);
void multiply_stage(int stage, int tile, int step);

#endif

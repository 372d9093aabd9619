/* Exercise 10.20's check: what is seen and what is not, the cache, and the losses. */
#include "10_full_model/exercises/20_sliding_window.h"
#include "10_full_model/exercises/see_the_loss.h"

enum { B = 2, T = 12, VOCAB = 40, WINDOW = 3 };

static void make(World *w, SlidingWindow *window, int size) {
    *window = (SlidingWindow){{.select = sliding_select}, size};
    world_model(w, CPU, F32, tiny_config(VOCAB), false);
    for (int i = 0; i < w->model.cfg.num_hidden_layers; i++)
        w->model.decoder.layers[i].selection = size ? &window->selection : NULL;
}

/* Logits of ids [B, T] from token `first` on, `count` of them, behind a cache or without. */
static float *logits_of(World *w, const int32_t *ids, int first, int count, DecoderCache *cache) {
    int32_t part[B * T];
    for (int b = 0; b < B; b++)
        memcpy(part + b * count, ids + b * T + first, (size_t)count * sizeof *part);
    Context *ctx = &w->ctx;
    Error err = {0};
    const DecoderRun run = {.position = model_position(&w->model), .cache = cache};
    if (cache) check_ok(decoder_cache_reserve(cache, run.position, count, &err), &err);
    Tensor *in = tensor_copy_in(ctx, "ids", I32, part, SHAPE(B, count));
    Tensor *states = decoder_states(ctx, &w->model.decoder, in, &run);
    return test_values(ctx, decoder_logits(ctx, &w->model.decoder, states));
}

static void fill(int32_t *ids) {
    for (int i = 0; i < B * T; i++) ids[i] = (7 * i + i * i) % VOCAB;
}

/* Three layers of WINDOW reach 3 (WINDOW - 1) tokens back, and no farther. */
Test(sliding_window, sees_so_far_and_no_farther) {
    World w;
    SlidingWindow window;
    int32_t ids[B * T];
    int reach = tiny_config(VOCAB).num_hidden_layers * (WINDOW - 1);
    make(&w, &window, WINDOW);
    fill(ids);
    float *before = logits_of(&w, ids, 0, T, NULL);
    for (int back = 0; back < T; back++) {
        int32_t others[B * T];
        memcpy(others, ids, sizeof ids);
        others[T - 1 - back] = (others[T - 1 - back] + 1) % VOCAB;
        float *after = logits_of(&w, others, 0, T, NULL), most = 0;
        for (int i = 0; i < VOCAB; i++) {
            int at = (T - 1) * VOCAB + i;
            most = fmaxf(most, fabsf(after[at] - before[at]));
        }
        cr_assert((most > 0) == (back <= reach), "a token %d back is %s by the last one", back,
                  most > 0 ? "seen" : "not seen");
    }
}

Test(sliding_window, from_a_cache_as_at_once) {
    World w;
    SlidingWindow window;
    DecoderCache cache;
    Error err = {0};
    int32_t ids[B * T];
    make(&w, &window, WINDOW);
    fill(ids);
    check_ok(decoder_cache_init(&cache, &w.ctx, &w.model.decoder.cfg.block,
                                w.model.cfg.num_hidden_layers, B, T, &err),
             &err);
    float *whole = logits_of(&w, ids, 0, T, NULL);
    static const int chunks[] = {5, 3, 1, 1, 2};
    for (int i = 0, first = 0; i < 5; first += chunks[i++]) {
        float *part = logits_of(&w, ids, first, chunks[i], &cache);
        for (int b = 0; b < B; b++)
            check_close("from a cache", part + b * chunks[i] * VOCAB,
                        whole + (b * T + first) * VOCAB, chunks[i] * VOCAB,
                        64 * tolerance_of(F32, 32));
    }
}

Test(sliding_window, the_loss) {
    static const int windows[] = {1, 2, 4, 8, 16};
    double loss[5];
    int right = 0;
    for (int i = 0; i < 5; i++) {
        SlidingWindow window = {{.select = sliding_select}, windows[i]};
        loss[i] = loss_after(loss_config(), &window.selection);
    }
    while (loss[right] > loss[4] + LOSS_LUCK) right++;
    cr_assert(
        smallest == windows[right],
        "after %d steps the loss is %.3f with a window of 1, %.3f of 2, %.3f of 4, %.3f of 8, "
        "and %.3f with all; smallest is %d",
        LOSS_STEPS, loss[0], loss[1], loss[2], loss[3], loss[4], smallest);
}

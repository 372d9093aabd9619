/*
 * The trial itself: that it guesses the characters it says, no others, and that it learns.
 */
#include "07_rope/trial.h"

#include "07_rope/rope.h"
#include "common/program/testing.h"

#include <math.h>
#include <string.h>

enum { VOCAB = 7, COUNT = 600, TRAIN = 400 };

typedef struct Fixture {
    Context ctx;
    Params params;
    Decoder model;
    Rope rope;
    int32_t ids[COUNT];
    CharText text;
} Fixture;

static void set_up(Fixture *f, Device device, DType dtype) {
    RopeConfig rope = rope_config(8, 128);
    DecoderConfig cfg = trial_config(VOCAB, 1, 24,
                                     (MlaConfig){.hidden_size = 16,
                                                 .num_attention_heads = 2,
                                                 .kv_lora_rank = 8,
                                                 .qk_nope_head_dim = 8,
                                                 .qk_rope_head_dim = 8,
                                                 .v_head_dim = 8});
    f->ctx = test_context(device, dtype);
    params_init(&f->params, &f->ctx);
    decoder_register(&f->model, &f->params, &cfg);
    check_ok(params_allocate(&f->params, true, &err) || rope_init(&f->rope, &f->ctx, &rope, &err),
             &err);
    trial_randomize(&f->params, &f->model);
    for (int i = 0; i < COUNT; i++) f->ids[i] = (i * i + i / 5) % VOCAB;
    f->text = (CharText){.ids = f->ids, .train = TRAIN, .count = COUNT};
}

static double ask(Fixture *f, int length, int windows) {
    return trial_perplexity(&f->ctx, &f->model, &f->text, &f->rope.position, length, 128, windows);
}

/* Whoever gives all characters the same chance is as perplexed as there are characters. */
DEVICE_TEST(trial, knowing_nothing_costs_the_alphabet) {
    static Fixture f;
    set_up(&f, device, dtype);
    params_fill(&f.params, f.model.lm_head, 0.0f);
    const int lengths[] = {32, 33, 64, 127, 128};
    for (int i = 0; i < 5; i++)
        for (int windows = 1; windows <= 70; windows += 69) {
            double perplexity = ask(&f, lengths[i], windows);
            /* logits are 0 exactly; ln 7 and its mean are rounded to F32 */
            cr_assert(fabs(perplexity - VOCAB) <= 1e-5, "%g, not 7, at length %d", perplexity,
                      lengths[i]);
        }
}

/* With one window its last input stands before TRAIN + 128, and its last target there. */
Test(trial, a_window_is_what_it_says) {
    enum { LENGTH = 40, END = TRAIN + 128 };
    static Fixture f;
    set_up(&f, CPU, F32);
    double before = ask(&f, LENGTH, 1);
    const struct {
        int place, counts;
    } changes[] = {{END - LENGTH - 1, 0}, {END - LENGTH, 1}, {END - 1, 1}, {END, 1}, {END + 1, 0}};
    for (int i = 0; i < 5; i++) {
        int32_t *id = &f.ids[changes[i].place], was = *id;
        *id = (was + 1) % VOCAB;
        int changed = ask(&f, LENGTH, 1) != before;
        cr_assert(changed == changes[i].counts, "character %d from the window's end: %s",
                  changes[i].place - END, changed ? "counted" : "did not count");
        *id = was;
    }
}

/*
 * A model to which all characters look alike: what it guesses depends on nothing, and its loss on
 * the targets alone. So the first target is found too, which is the input of those behind it.
 */
Test(trial, the_last_ones_are_guessed_and_no_others) {
    enum { LENGTH = 40, LAST = TRAIN + 128, FIRST = LAST - TRIAL_LAST + 1 };
    static Fixture f;
    set_up(&f, CPU, F32);
    params_fill(&f.params, f.model.embed_tokens, 1.0f);
    double before = ask(&f, LENGTH, 1);
    for (int place = LAST - LENGTH; place <= LAST + 1; place++) {
        int32_t was = f.ids[place];
        f.ids[place] = (was + 1) % VOCAB;
        int changed = ask(&f, LENGTH, 1) != before;
        cr_assert(changed == (place >= FIRST && place <= LAST), "the target %d before the last %s",
                  LAST - place, changed ? "counted" : "did not count");
        f.ids[place] = was;
    }
}

static TrialTraining training(double *losses, float learning_rate) {
    return (TrialTraining){.label = "test",
                           .steps = 60,
                           .batch = 4,
                           .length = 32,
                           .learning_rate = learning_rate,
                           .seed = 3,
                           .losses = losses};
}

DEVICE_TEST(trial, learns) {
    static Fixture f;
    double losses[60];
    set_up(&f, device, dtype);
    TrialTraining how = training(losses, 1e-2f);
    check_ok(trial_train(&f.ctx, &f.params, &f.model, &f.text, &f.rope.position, &how, &err), &err);
    cr_assert(losses[59] < 0.6 * losses[0], "the loss went from %g to %g", losses[0], losses[59]);
    double perplexity = ask(&f, 32, 20);
    cr_assert(perplexity < 4, "the perplexity is still %g of 7", perplexity);
}

Test(trial, says_when_the_loss_is_no_number) {
    static Fixture f;
    set_up(&f, CPU, F32);
    TrialTraining how = training(NULL, 1e30f);
    cr_assert(trial_train(&f.ctx, &f.params, &f.model, &f.text, &f.rope.position, &how, &err) == -1,
              "a learning rate of 1e30 was fine");
    cr_assert(strstr(err.text, "try another --seed"), "%s", err.text);
}

/*
 * A folder of a model that no machine here could hold: what is wrong with it is said before memory
 * is asked for.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <string.h>

CPU_TEST(checkpoint, of_671_billion_with_a_wrong_shape_says_so) {
    Scratch scratch = scratch_open();
    ModelConfig cfg;
    Model model;
    cr_assert(config_preset(&cfg, "v3", &err) == 0 && config_parameters(&cfg) > 600e9);
    check_ok(config_save(&cfg, NULL, scratch.directory, &err), &err);
    float numbers[16] = {0};
    Tensor t = tensor_view(numbers, "model.embed_tokens.weight", F32, CPU, SHAPE(4, 4));
    const char *path = scratch_path(&scratch, "model.safetensors");
    check_ok(safetensors_write(path, &t, 1, NULL, 0, &err), &err);
    cr_assert(checkpoint_load_model(&model, &ctx, scratch.directory, NULL, LOAD_TO_RUN, &err) ==
              -1);
    cr_assert(strstr(err.text, "'model.embed_tokens.weight' has shape [4, 4]") &&
                  strstr(err.text, "needs [129280, 7168]"),
              "%s", err.text);
}

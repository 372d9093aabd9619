/*
 * A model with multi-head attention (kv_lora_rank null), as its users meet it: what works, and what
 * says why it does not.
 */
/* first: it says which functions of the system it needs */
#include "10_full_model/tests/test_deepseek.h"

static const char latent[] = "\"kv_lora_rank\": 8, \"qk_nope_head_dim\": 6, ";
static const char heads[] = "\"kv_lora_rank\": null, \"qk_nope_head_dim\": 2, ";

static Scratch heads_workplace(void) {
    Scratch w = workplace();
    edit_file(path_in(w.directory, "tiny/config.json"), latent, heads);
    return w;
}

#define HERE(name) path_in(w.directory, name)

/* 60 steps at once, and in two pieces; the text that it knows by heart, from memory and with a
 * cache; its folder written anew and in eight bits. */
Test(multihead, is_trained_and_used) {
    Scratch w = heads_workplace();
#define STEPS "--steps", "60", "--learning-rate", "0.01", "--mtp", "1"
    Output o = EXPECT(0, "transformers cannot open", TRAINING(&w, "model"), STEPS);
    expect(&o, 0, "Done after 60 steps");
    EXPECT(0, "The time is up after ", TRAINING(&w, "pieces"), STEPS, "--minutes", "0.0002");
    EXPECT(0, "Done after 60 steps", TRAINING(&w, "pieces"), STEPS, "--resume");
    size_t size, same;
    const char *a = file_text(HERE("model/last/model.safetensors"), &size),
               *b = file_text(HERE("pieces/last/model.safetensors"), &same);
    check_all(size == same, memcmp(a, b, size) == 0);
    cr_assert(strstr(file_text(HERE("model/config.json"), &size), "\"kv_lora_rank\":\tnull"));
#define BY_HEART "--prompt", "the cat", "--temperature", "0", "-n", "12"
    o = EXPECT(0, "the cat sat on the", "generate", "-m", HERE("model"), BY_HEART);
    Output eval = EXPECT(0, "of module 1", "eval", "-m", HERE("model"), "--data", HERE("text.txt"));
    EXPECT(0, "transformers cannot open", "convert", "-m", HERE("model"), "--out", HERE("again"));
    Output again = DEEPSEEK("eval", "-m", HERE("again"), "--data", HERE("text.txt"));
    cr_assert_str_eq(again.out, eval.out);
    EXPECT(0, "", "quantize", "-m", HERE("model"), "--out", HERE("int8"), "--to", "int8", "--group",
           "0");
    EXPECT(0, "the cat sat on the", "generate", "-m", HERE("int8"), BY_HEART);
    EXPECT(0, "KV cache of a token: 96 bytes in BF16", "info", "--config", HERE("int8"));
    scratch_write(&w, "prompts.txt", "the cat\nthe\n", 12);
    o = EXPECT(0, "[1] the cat sat on the", "generate", "-m", HERE("model"), "--prompts",
               HERE("prompts.txt"), "--temperature", "0", "-n", "12");
    expect(&o, 0, "[2] the ");
}

/* One line each that names what needs latents; nothing is written. */
Test(multihead, says_what_needs_latents) {
    Scratch w = heads_workplace();
    EXPECT(0, "Done after 2 steps", TRAINING(&w, "model"), "--steps", "2", "--mtp", "1");
    const char *model = HERE("model"), *out = HERE("new");
    EXPECT(1, "--speculative needs latent attention", "generate", "-m", model, "--speculative",
           "1");
    EXPECT(1, "--cache fp8 needs latent attention", "generate", "-m", model, "--cache", "fp8");
    EXPECT(1, "grpo needs latent attention", "grpo", "-m", model, "--task", "addition", "--out",
           out);
    EXPECT(1, "--add-indexer needs latent attention", "convert", "-m", model, "--add-indexer",
           "--out", out);
    cr_assert(!exists(w.directory, "new/config.json"));
    static const char *const broken[][3] = {
        {"\"q_lora_rank\": null", "\"q_lora_rank\": 4", "kv_lora_rank is null and q_lora_rank 4"},
        {"\"v_head_dim\": 6", "\"v_head_dim\": 8", "v_head_dim is 8"},
        {"\"deepseek_v3\"", "\"deepseek_v32\"", "a deepseek_v32 model needs latents"},
        {"\"kv_lora_rank\": null", "\"kv_lora_rank\": 0", "kv_lora_rank must be a whole number"}};
    const char *path = HERE("tiny/config.json");
    for (int i = 0; i < 4; i++) {
        edit_file(path, broken[i][0], broken[i][1]);
        EXPECT(1, broken[i][2], "info", "--config", HERE("tiny"));
        EXPECT(1, broken[i][2], TRAINING(&w, "other"), "--steps", "2");
        edit_file(path, broken[i][1], broken[i][0]);
    }
}

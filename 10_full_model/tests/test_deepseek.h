/*
 * The program as its users meet it: a process with a command line, files, what it prints and its
 * exit status. For the tests test_deepseek*.c; the Makefile builds the program before them.
 *
 *     EXPECT(0, "671,026,404,352", "info", "--config", "v3");
 *
 * gnuplot is hidden from it (its charts take longer than all the rest), unless PATH is kept.
 */
#ifndef TEST_DEEPSEEK_H
#define TEST_DEEPSEEK_H

#define _GNU_SOURCE /* memmem */

#include "10_full_model/tests/test_world.h"
#include "common/tests/test_process.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* How a process is started; all zeros: with nothing on stdin. */
typedef struct Start {
    const char *input; /* what it reads from stdin */
    int terminal;      /* or the terminal at which it is started; 0: none */
    long file_size;    /* files may not become longer, as on a full disk; 0: any */
    bool charts;
    const char *directory; /* where it is started; NULL: where the test is */
    bool nobody;           /* root is not started as root, for whom no folder is closed */
    const char *output;    /* the file that is its stdout; NULL: what Output shows */
} Start;

static inline FILE *text_file(const char *text) {
    FILE *file = tmpfile();
    cr_assert_not_null(file);
    fputs(text ? text : "", file);
    rewind(file);
    return file;
}

/* argv without the program's name, ended by NULL. */
static inline Process process_start(Start start, const char *const *arguments) {
    char program[500];
    const char *argv[64] = {"deepseek"};
    program_path(program, sizeof program, "deepseek");
    for (int i = 0; arguments[i]; i++) argv[i + 1] = arguments[i];
    FILE *in = text_file(start.input);
    Process p;
    if (!process_fork(&p, SIGKILL)) {
        fclose(in);
        return p;
    }
    dup2(start.terminal ? start.terminal : fileno(in), 0);
    if (start.output && dup2(open(start.output, O_WRONLY), 1) < 0) _exit(127);
    if (start.nobody && geteuid() == 0 && setuid(65534)) _exit(127);
    if (start.directory && chdir(start.directory)) _exit(127);
    if (!start.charts) setenv("PATH", "/nowhere", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=1", 1); /* in tests it is off: see tools/criterion.py */
    if (start.file_size) {
        struct rlimit limit = {(rlim_t)start.file_size, (rlim_t)start.file_size};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    execv(program, (char *const *)argv);
    _exit(127);
}

static inline Output deepseek_with(Start start, const char *const *arguments) {
    Process p = process_start(start, arguments);
    return process_end(&p);
}

#define DEEPSEEK(...) deepseek_with((Start){0}, ARGUMENTS(__VA_ARGS__))

/* Runs the program and expects that; gives the output for whoever expects more. */
static inline Output deepseek_says(int status, const char *says, const char *const *arguments) {
    Output o = deepseek_with((Start){0}, arguments);
    expect(&o, status, says);
    return o;
}

#define EXPECT(status, says, ...) deepseek_says(status, says, ARGUMENTS(__VA_ARGS__))

/* ---- files ---- */

static inline bool exists(const char *directory, const char *name) {
    return access(path_in(directory, name), F_OK) == 0;
}

/* Puts `to` where `from` stands in the file, once. */
static inline void edit_file(const char *path, const char *from, const char *to) {
    size_t bytes;
    char *text = file_text(path, &bytes), *at = memmem(text, bytes, from, strlen(from));
    cr_assert_not_null(at, "'%s' is not in %s", from, path);
    FILE *file = fopen(path, "wb");
    fwrite(text, 1, (size_t)(at - text), file);
    fputs(to, file);
    at += strlen(from);
    fwrite(at, 1, bytes - (size_t)(at - text), file);
    cr_assert(fclose(file) == 0);
}

/* The first number of an F32 tensor in a file is no number any more. */
static inline void put_nan(const char *path, const char *tensor) {
    Error err;
    size_t size;
    SafeTensors *file = safetensors_open(path, &err);
    char *bytes = file_text(path, &size);
    const Tensor *t = safetensors_find(file, tensor), *last = NULL;
    for (int j = 0; j < safetensors_count(file); j++)
        if (!last || (char *)safetensors_at(file, j)->data > (char *)last->data)
            last = safetensors_at(file, j);
    cr_assert(t && t->dtype == F32, "%s has no %s in F32", path, tensor);
    size_t behind = (size_t)((char *)last->data - (char *)t->data + tensor_bytes(last));
    memcpy(bytes + size - behind, &(float){NAN}, 4);
    FILE *changed = fopen(path, "wb");
    cr_assert(changed && fwrite(bytes, 1, size, changed) == size && fclose(changed) == 0);
}

/* ---- a model that learns within a second ---- */

/* The folder's text.txt, of a few thousand bytes, and tiny/config.json. */
static inline Scratch workplace(void) {
    Scratch scratch = scratch_open();
    size_t size;
    char *text = world_text(&size);
    scratch_write(&scratch, "text.txt", text, size);
    static const char config[] =
        "{\"model_type\": \"deepseek_v3\", \"vocab_size\": 283, \"hidden_size\": 32, "
        "\"intermediate_size\": 48, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, "
        "\"q_lora_rank\": null, \"kv_lora_rank\": 8, \"qk_nope_head_dim\": 6, "
        "\"qk_rope_head_dim\": 4, \"v_head_dim\": 6, \"n_routed_experts\": 6, "
        "\"n_shared_experts\": 1, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 10, "
        "\"n_group\": 1, \"topk_group\": 1, "
        "\"first_k_dense_replace\": 1, \"routed_scaling_factor\": 1.0, "
        "\"num_nextn_predict_layers\": 0, "
        "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, \"initializer_range\": 0.05, "
        "\"tie_word_embeddings\": true}";
    char directory[100];
    snprintf(directory, sizeof directory, "%s/tiny", scratch.directory);
    cr_assert(mkdir(directory, 0777) == 0);
    scratch_write(&scratch, "tiny/config.json", config, strlen(config));
    return scratch;
}

#define TRAINING(w, out)                                                                       \
    "train", "--config", path_in((w)->directory, "tiny"), "--data",                            \
        path_in((w)->directory, "text.txt"), "--out", path_in((w)->directory, out), "--batch", \
        "4", "--context", "16", "--eval-batches", "1", "--peak", "0"

/* WORKPLACE/model, after some steps: enough to write "the cat sat on the ...". */
static inline const char *trained_model(const Scratch *w) {
    Output o = DEEPSEEK(TRAINING(w, "model"), "--steps", "60", "--learning-rate", "0.01");
    expect(&o, 0, "Done after 60 steps");
    return path_in(w->directory, "model");
}

#endif

/*
 * Weights alone can be rewritten too, and those of a tokenizer that only others can read.
 */
#include "10_full_model/commands/rewrite.h"

#include "10_full_model/checkpoint/output_folder.h"

#include "common/core/utf8.h"
#include "common/files/files.h"
#include "common/files/replacement.h"
#include "common/text/tokenizer_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int rewrite_open(const char *command, const char *from, const char *out, bool overwrite,
                 Error *err) {
    char a[4096], b[4096];
    if (realpath(from, a) && realpath(out, b) && !strcmp(a, b))
        return error_set(err, "%s: --out is the folder of --model; give the result one of its own",
                         command);
    return output_folder_open(out, OUTPUT_MODEL, overwrite, err);
}

static bool has_text(const char *from) {
    return access(file_path(from, "tokenizer.json").text, F_OK) == 0;
}

Tokenizer *rewrite_tokenizer(const ModelConfig *cfg, const char *from, Error *err) {
    Error why;
    Tokenizer *tokenizer = has_text(from) ? checkpoint_load_tokenizer(cfg, from, &why) : NULL;
    if (has_text(from) && !tokenizer) {
        terminal_print(stderr, why.text);
        fprintf(stderr, ". It is copied as it is\n");
    }
    return tokenizer ? tokenizer : tokenizer_keep_folder(from, err);
}

int rewrite_model(Model *model, const Tokenizer *tokenizer, const char *from, const char *out,
                  const SaveOptions *save, Error *err) {
    Replacement r;
    if (replacement_open(&r, out, err)) return -1;
    int status = checkpoint_write_setup_of(model, tokenizer, r.staging, save->dtype, err);
    if (!status) status = config_keep_others(from, r.staging, err);
    if (!status) status = checkpoint_write_weights(model, r.staging, save, err);
    if (!status) status = replacement_commit(&r, checkpoint_owns, err);
    replacement_abandon(&r);
    if (!status)
        printf("%s: the model is written, %s\n", out,
               has_text(from) ? "with its tokenizer" : "without a tokenizer");
    return status;
}

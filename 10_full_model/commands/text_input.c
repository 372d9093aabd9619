/*
 * Two ways to the same TokenSource: texts are read, encoded and split here; shards bring their
 * tokenizer along, whose tokens must be those of a model's. Whatever was opened is closed
 * again when a later part fails.
 */
#include "10_full_model/commands/text_input.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/data/documents.h"

#include "common/files/files.h"
#include "common/program/progress.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool text_input_is_sharded(const StringList *data) {
    struct stat info;
    return stat(data->items[0], &info) == 0 && S_ISDIR(info.st_mode);
}

/* The one that is given, which has no more tokens than the model. */
static Tokenizer *given_tokenizer(const TextOptions *o, Error *err) {
    ModelConfig cfg = {.vocab_size = o->vocab, .bos_token_id = -1, .eos_token_id = -1};
    return checkpoint_load_tokenizer(&cfg, o->tokenizer, err);
}

static void merges_progress(void *user, int done, int wanted) {
    (void)wanted;
    progress_update(user, done, "merges");
}

static Tokenizer *learn_tokenizer(const char *text, size_t bytes, int vocab, Error *err) {
    Progress progress = progress_start("tokenizer", vocab - 257);
    Tokenizer *tokenizer = tokenizer_train(text, bytes, vocab, merges_progress, &progress, err);
    if (tokenizer) progress_finish(&progress, "%d tokens", tokenizer_vocab_size(tokenizer));
    return tokenizer;
}

/* The first id that is not the same bytes; the size of a's vocabulary if there is none. */
static int first_other_token(const Tokenizer *a, const Tokenizer *b) {
    int id = 0;
    for (size_t x, y; id < tokenizer_vocab_size(a); id++) {
        const char *p = tokenizer_token(a, id, &x), *q = tokenizer_token(b, id, &y);
        if (x != y || memcmp(p, q, x)) break;
    }
    return id;
}

static int open_shards(TextInput *input, const TextOptions *o, Error *err) {
    const char *directory = o->data->items[0];
    if (o->data->count > 1)
        return error_set(err, "--data %s is a folder of shards; it must be the only --data",
                         directory);
    if (shards_open(&input->shards, directory, false, err)) return -1;
    input->sharded = true;
    input->tokenizer = shards_tokenizer(&input->shards, err);
    if (!input->tokenizer) return -1;
    tokenizer_set_end(input->tokenizer, input->shards.end_of_text);
    if (source_of_shards(&input->source, &input->shards, o->context_length, err)) return -1;
    input->tokens = input->source.train_tokens + input->source.validation_tokens;
    if (!o->tokenizer) return 0;
    Tokenizer *model = given_tokenizer(o, err);
    if (!model) return -1;
    int size = tokenizer_vocab_size(model), own = tokenizer_vocab_size(input->tokenizer);
    int other = first_other_token(model, input->tokenizer);
    /* The model's goes on, with what lies beside it; and texts end as in the shards, too. */
    tokenizer_free(input->tokenizer);
    input->tokenizer = model;
    tokenizer_add_end(model, input->shards.end_of_text);
    if (size != own)
        return error_set(err, "the shards in %s have a vocabulary of %d, the model in %s has %d",
                         directory, own, o->tokenizer, size);
    if (other == size) return 0;
    return error_set(err,
                     "token %d of the shards in %s is another one than in the model's "
                     "tokenizer, %s/tokenizer.json: make the shards with that (deepseek data "
                     "--tokenizer)",
                     other, directory, o->tokenizer);
}

static int open_text(TextInput *input, const TextOptions *o, Error *err) {
    size_t bytes;
    for (int i = 0; i < o->data->count; i++)
        if (documents_named_json(o->data->items[i]))
            return error_set(err,
                             "%s has JSON lines, by its name, and not plain text: `deepseek data` "
                             "makes a folder of shards of them, for --data",
                             o->data->items[i]);
    char *text = corpus_read_text(o->data->items, o->data->count, &bytes, err);
    if (!text) return -1;
    input->tokenizer =
        o->tokenizer ? given_tokenizer(o, err) : learn_tokenizer(text, bytes, o->vocab, err);
    int status = input->tokenizer ? 0 : -1;
    if (!status && o->validation >= 1)
        status =
            corpus_whole(&input->corpus, input->tokenizer, text, bytes, o->context_length, err);
    else if (!status)
        status = corpus_init(&input->corpus, input->tokenizer, text, bytes, o->validation,
                             o->context_length, err);
    free(text);
    if (status) return -1;
    input->source = source_of_corpus(&input->corpus);
    input->tokens = (int64_t)input->corpus.count;
    return 0;
}

int text_input_open(TextInput *input, const TextOptions *o, Error *err) {
    *input = (TextInput){0};
    if (!(text_input_is_sharded(o->data) ? open_shards(input, o, err) : open_text(input, o, err)))
        return 0;
    text_input_close(input);
    return -1;
}

void text_input_close(TextInput *input) {
    source_free(&input->source);
    corpus_free(&input->corpus);
    if (input->sharded) shards_close(&input->shards);
    if (input->tokenizer) tokenizer_free(input->tokenizer);
    *input = (TextInput){0};
}

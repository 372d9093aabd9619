/*
 * deepseek data: text files in, a folder of shards out.
 */
#include "10_full_model/checkpoint/output_folder.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/data/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Options {
    CommonOptions common;
    PrepareOptions prepare;
    StringList paths, held_out;
    const char *verify;
} Options;

/* ---- flags that a function reads ---- */

static int set_limit(void *limits, const char *text, Error *err) {
    return quality_set(limits, text, err);
}

static int set_no_limits(void *limits, const char *text, Error *err) {
    (void)text, (void)err;
    *(QualityLimits *)limits = quality_off();
    return 0;
}

static int keep_exact(void *exact, const char *text, Error *err) {
    (void)text, (void)err;
    *(bool *)exact = false;
    return 0;
}

static int set_end_of_text(void *token, const char *text, Error *err) {
    if (!*text || strpbrk(text, " \t\r\n"))
        return error_set(err, "a token without spaces, not '%s'", text);
    *(const char **)token = text;
    return 0;
}

/* What the command is about, and at the end of --help the rules, which are a table elsewhere. */
static const char *help_text(char *help, size_t size) {
    char *end = help + snprintf(help, size,
                                "%s\vRules and their limits, for text in English (after Gopher "
                                "and C4):\n",
                                command_data.about);
    for (int i = 0; i < QUALITY_RULES; i++) {
        char limits[40];
        snprintf(limits, sizeof limits, "%g..%g", quality_rules[i].low, quality_rules[i].high);
        end += sprintf(end, "  %-16s %-10s %s\n", quality_rules[i].name, limits,
                       quality_rules[i].about);
    }
    sprintf(end,
            "\nText is read in batches: the files may be larger than the memory. What grows is the "
            "memory for duplicates: up to 64 bytes for each document and 800 for each kept one "
            "(--near 0: none of the latter). The shards do not depend on --threads. Line ends, "
            "control characters, byte order marks and spaces at line ends are normalised; "
            "Unicode's NFC is not.\n");
    return help;
}

static int verify(const char *directory, Error *err) {
    Shards shards;
    if (shards_open(&shards, directory, true, err)) return -1;
    Tokenizer *tokenizer = shards_tokenizer(&shards, err);
    for (int part = 0; tokenizer && part < SHARD_PARTS; part++) {
        const ShardRow *row = &shards.parts[part];
        printf("%-11s %lld tokens in %lld documents, %d shards: as the index says\n",
               shard_part_names[part], (long long)row->tokens, (long long)row->documents,
               row->count);
    }
    int status = tokenizer ? 0 : -1;
    if (tokenizer) tokenizer_free(tokenizer);
    shards_close(&shards);
    return status;
}

/* What was asked for, into the folder. */
static int make_shards(Options *o, char **argv, Error *err) {
    PrepareOptions *p = &o->prepare;
    /* Finished shards are looked at more closely below: the message says what is different. */
    bool shards = *p->out && shards_are_there(p->out);
    if (output_folder_check(p->out, OUTPUT_SHARDS, p->overwrite || shards, err)) return -1;
    if (p->bands * p->rows > MINHASH_MOST)
        options_error(argv, "%d --bands of %d --rows are %d numbers; at most %d", p->bands, p->rows,
                      p->bands * p->rows, MINHASH_MOST);
    p->paths = o->paths.items;
    p->path_count = o->paths.count;
    p->held_out = o->held_out.items;
    p->held_out_count = o->held_out.count;
    p->seed = o->common.seed;
    PrepareReport report;
    int status = prepare_run(p, &report, err);
    if (!status) status = prepare_report_show(p, &report, err);
    if (!status) printf("Shards, index.json and report.json are in %s\n", p->out);
    free(o->paths.items);
    free(o->held_out.items);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.prepare = prepare_defaults()}, *o = &options;
    PrepareOptions *p = &o->prepare;
    static const char *const formats[] = {"auto", "text", "jsonl", NULL},
                             *const splits[] = {"file", "paragraphs", "lines", NULL},
                             *const bad[] = {"stop", "skip", NULL},
                             *const invalid[] = {"replace", "drop", NULL};
    int cut = (int)(p->documents.cut >> 10), sample = (int)(p->sample_bytes >> 20);
    char help[4000];
    const Option flags[] = {
        OPT_WORDS("FILE", &o->paths),
        OPT_STRING("out", 0, "DIR", &p->out, "Folder for the shards (required)"),
        OPT_STRING("verify", 0, "DIR", &o->verify,
                   "Read all shards of a folder, compare them with its index, and nothing else"),
        OPT_HEAD("What a document is:"),
        OPT_CHOICE("format", 0, "F", &p->documents.format, formats,
                   "text, jsonl, or auto: JSON lines are *.jsonl, *.ndjson and *.json, raw text "
                   "all others"),
        OPT_STRING("field", 0, "NAME", &p->documents.field,
                   "Field of a JSON line that holds the text"),
        OPT_CHOICE("split", 0, "S", &p->documents.split, splits,
                   "In raw text: file, paragraphs (between blank lines) or lines. The end-of-text "
                   "marker ends a document, too"),
        OPT_INT("cut", 0, "KIB", &cut, 1, 1 << 20,
                "Raw documents longer than this are cut, at a blank line if there is one"),
        OPT_CALL("end-of-text", 0, "TOKEN", &p->end_of_text, set_end_of_text,
                 "The token between documents (default: what ends a text for the tokenizer, as a "
                 "rule <|endoftext|>)"),
        OPT_CHOICE("bad-lines", 0, "A", &p->skip_bad_lines, bad,
                   "A line that is no JSON, or has no text: stop or skip"),
        OPT_CHOICE("invalid-utf8", 0, "A", &p->drop_invalid, invalid,
                   "replace (by U+FFFD) or drop the document"),
        OPT_HEAD("What is left out:"),
        OPT_CALL("limit", 0, "NAME=LOW..HIGH", &p->limits, set_limit,
                 "Another limit for a rule (see below), or NAME=off; may be given several times"),
        OPT_CALL("no-limits", 0, NULL, &p->limits, set_no_limits, "All rules off"),
        OPT_CALL("keep-exact", 0, NULL, &p->exact, keep_exact, "Keep exact duplicates"),
        OPT_FLOAT("near", 0, "J", &p->near, 0, 1,
                  "Leave out what is this similar to an earlier document, 0 .. 1; 0: nothing"),
        OPT_INT("bands", 0, "N", &p->bands, 1, MINHASH_MOST, "Bands of a MinHash signature"),
        OPT_INT("rows", 0, "N", &p->rows, 1, MINHASH_MOST, "Rows of a band"),
        OPT_INT("shingle", 0, "N", &p->shingle, 1, SHINGLE_MOST, "Words of a shingle"),
        OPT_HEAD("What comes out:"),
        OPT_FLOAT("validation", 0, "X", &p->validation, 0, 0.9,
                  "Share of the documents kept for validation (default 0.05)"),
        OPT_LIST("held-out", 0, "FILE", &o->held_out, 0,
                 "Instead: what is in FILE is kept for validation, and nothing else; may be given "
                 "several times"),
        OPT_STRING("tokenizer", 0, "PATH", &p->tokenizer,
                   "A tokenizer.json, or a folder with one; default: learn one"),
        OPT_INT("vocab", 0, "N", &p->vocab, 257, 1 << 20, "Tokens to learn"),
        OPT_INT("sample", 0, "MIB", &sample, 1, 1 << 14, "Text to learn them from"),
        OPT_INT("shard-tokens", 0, "N", &p->shard_tokens, 1, 1L << 40, "Tokens in a shard"),
        OPT_FLAG("overwrite", 0, &p->overwrite,
                 "Replace what is there; old shards stay until the new ones are whole"),
        OPT_COMMON_OF(&o->common, COMMON_SEED | COMMON_THREADS),
        OPT_END};
    double usual = p->validation;
    p->validation = -1; /* not given */
    options_parse(argc, argv, help_text(help, sizeof help), flags);
    if (p->validation >= 0 && o->held_out.count)
        options_error(argv, "--validation takes a share of all documents, --held-out whole files; "
                            "give one");
    if (p->validation < 0) p->validation = usual;
    p->documents.cut = (size_t)cut << 10;
    p->sample_bytes = (size_t)sample << 20;
    if (o->verify) return verify(o->verify, err);
    if (!p->out) options_error(argv, "--out DIR says where the shards go");
    if (!o->paths.count) options_error(argv, "which files?");
    return make_shards(o, argv, err);
}

const Command command_data = {
    "data", "Makes shards of tokens out of text files: sifted, split, tokenised.", run};

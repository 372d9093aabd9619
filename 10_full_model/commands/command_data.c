/*
 * deepseek data: text files in, a folder of shards out.
 */
#include "10_full_model/commands/command.h"
#include "10_full_model/data/prepare.h"

#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum Flag {
    OUT = 256,
    FORMAT,
    SPLIT,
    CUT,
    FIELD,
    BAD_LINES,
    INVALID,
    LIMIT,
    NO_LIMITS,
    KEEP_EXACT,
    NEAR,
    BANDS,
    ROWS,
    SHINGLE,
    VALIDATION,
    TOKENIZER,
    VOCAB,
    SAMPLE,
    END_OF_TEXT,
    SHARD_TOKENS,
    OVERWRITE,
    VERIFY,
};

typedef struct Options {
    CommonOptions common;
    PrepareOptions prepare;
    const char **paths;
    const char *verify;
} Options;

static const struct argp_option data_flags[] = {
    {"out", OUT, "DIR", 0, "Folder for the shards (required)", 0},
    {"verify", VERIFY, "DIR", 0,
     "Read all shards of a folder, compare them with its index, and nothing else", 0},
    {0, 0, 0, 0, "What a document is:", 1},
    {"format", FORMAT, "F", 0,
     "text, jsonl, or auto (default): JSON lines are *.jsonl, *.ndjson and *.json, raw text all "
     "others",
     1},
    {"field", FIELD, "NAME", 0, "Field of a JSON line that holds the text (default text)", 1},
    {"split", SPLIT, "S", 0,
     "In raw text: file (default), paragraphs (between blank lines) or lines. The end-of-text "
     "marker ends a document, too",
     1},
    {"cut", CUT, "KIB", 0,
     "Raw documents longer than this are cut, at a blank line if there is one (default 64)", 1},
    {"end-of-text", END_OF_TEXT, "TOKEN", 0,
     "The tokenizer's token between documents (default <|endoftext|>)", 1},
    {"bad-lines", BAD_LINES, "A", 0,
     "A line that is no JSON, or has no text: stop (default) or skip", 1},
    {"invalid-utf8", INVALID, "A", 0, "replace (default; by U+FFFD) or drop the document", 1},
    {0, 0, 0, 0, "What is left out:", 2},
    {"limit", LIMIT, "NAME=LOW..HIGH", 0,
     "Another limit for a rule (see below), or NAME=off; may be given several times", 2},
    {"no-limits", NO_LIMITS, 0, 0, "All rules off", 2},
    {"keep-exact", KEEP_EXACT, 0, 0, "Keep exact duplicates", 2},
    {"near", NEAR, "J", 0,
     "Leave out what is this similar to an earlier document, 0 .. 1 (default 0.8; 0: off)", 2},
    {"bands", BANDS, "N", 0, "Bands of a MinHash signature (default 16)", 2},
    {"rows", ROWS, "N", 0, "Rows of a band (default 8)", 2},
    {"shingle", SHINGLE, "N", 0, "Words of a shingle (default 5)", 2},
    {0, 0, 0, 0, "What comes out:", 3},
    {"validation", VALIDATION, "X", 0, "Share of the documents kept for validation (default 0.05)",
     3},
    {"tokenizer", TOKENIZER, "PATH", 0,
     "A tokenizer.json, or a folder with one; default: learn one", 3},
    {"vocab", VOCAB, "N", 0, "Tokens to learn (default 2048)", 3},
    {"sample", SAMPLE, "MIB", 0, "Text to learn them from (default 16)", 3},
    {"shard-tokens", SHARD_TOKENS, "N", 0, "Tokens in a shard (default 67108864)", 3},
    {"overwrite", OVERWRITE, 0, 0, "Replace finished shards; the old ones go first", 3},
    {0}};

static int choice(const struct argp_state *state, const char *flag, const char *text,
                  const char *const *names, int count) {
    char list[100] = "";
    for (int i = 0; i < count; i++) {
        if (!strcmp(text, names[i])) return i;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    argp_error(state, "%s: '%s' is none of: %s", flag, text, list);
    return 0;
}

static void add_path(Options *o, const char *path) {
    PrepareOptions *p = &o->prepare;
    o->paths = must_realloc(o->paths, (size_t)(p->path_count + 1), sizeof *o->paths);
    o->paths[p->path_count++] = path;
}

/* The flags that say what a document is. */
static error_t parse_documents(int key, char *text, struct argp_state *state) {
    static const char *const formats[] = {"auto", "text", "jsonl"};
    static const char *const splits[] = {"file", "paragraphs", "lines"};
    static const char *const bad[] = {"stop", "skip"}, *const invalid[] = {"replace", "drop"};
    PrepareOptions *p = &((Options *)state->input)->prepare;
    switch (key) {
    case FORMAT:
        p->documents.format = (FileFormat)choice(state, "--format", text, formats, 3);
        return 0;
    case FIELD:
        p->documents.field = text;
        return 0;
    case SPLIT:
        p->documents.split = (TextSplit)choice(state, "--split", text, splits, 3);
        return 0;
    case CUT:
        p->documents.cut = (size_t)option_integer(state, "--cut", text, 1, 1 << 20) << 10;
        return 0;
    case END_OF_TEXT:
        if (!*text || strpbrk(text, " \t\r\n"))
            argp_error(state, "--end-of-text: a token without spaces, not '%s'", text);
        p->end_of_text = text;
        return 0;
    case BAD_LINES:
        p->skip_bad_lines = choice(state, "--bad-lines", text, bad, 2);
        return 0;
    case INVALID:
        p->drop_invalid = choice(state, "--invalid-utf8", text, invalid, 2);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Those that say what is left out. */
static error_t parse_sieve(int key, char *text, struct argp_state *state) {
    PrepareOptions *p = &((Options *)state->input)->prepare;
    Error err;
    switch (key) {
    case LIMIT:
        if (quality_set(&p->limits, text, &err)) argp_error(state, "--limit: %s", err.text);
        return 0;
    case NO_LIMITS:
        p->limits = quality_off();
        return 0;
    case KEEP_EXACT:
        p->exact = false;
        return 0;
    case NEAR:
        p->near = option_number(state, "--near", text, 0, 1);
        return 0;
    case BANDS:
        p->bands = (int)option_integer(state, "--bands", text, 1, MINHASH_MOST);
        return 0;
    case ROWS:
        p->rows = (int)option_integer(state, "--rows", text, 1, MINHASH_MOST);
        return 0;
    case SHINGLE:
        p->shingle = (int)option_integer(state, "--shingle", text, 1, SHINGLE_MOST);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *text, struct argp_state *state) {
    Options *o = state->input;
    PrepareOptions *p = &o->prepare;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case OUT:
        p->out = text;
        return 0;
    case VERIFY:
        o->verify = text;
        return 0;
    case VALIDATION:
        p->validation = option_number(state, "--validation", text, 0, 0.9);
        return 0;
    case TOKENIZER:
        p->tokenizer = text;
        return 0;
    case VOCAB:
        p->vocab = (int)option_integer(state, "--vocab", text, 257, 1 << 20);
        return 0;
    case SAMPLE:
        p->sample_bytes = (size_t)option_integer(state, "--sample", text, 1, 1 << 14) << 20;
        return 0;
    case SHARD_TOKENS:
        p->shard_tokens = option_integer(state, "--shard-tokens", text, 1, 1L << 40);
        return 0;
    case OVERWRITE:
        p->overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
        add_path(o, text);
        return 0;
    default:
        return parse_documents(key, text, state) == 0 ? 0 : parse_sieve(key, text, state);
    }
}

/* --help ends with the rules, which are a table elsewhere. */
static char *help_text(int key, const char *text, void *input) {
    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC) return (char *)text;
    char *help = must_alloc(4000, 1), *end = help;
    end += sprintf(end, "Rules and their limits, for text in English (after Gopher and C4):\n");
    for (int i = 0; i < QUALITY_RULES; i++) {
        char limits[40];
        snprintf(limits, sizeof limits, "%g..%g", quality_rules[i].low, quality_rules[i].high);
        end += sprintf(end, "  %-16s %-10s %s\n", quality_rules[i].name, limits,
                       quality_rules[i].about);
    }
    sprintf(end,
            "\nText is read in batches: the files may be larger than the memory. What grows is the "
            "memory for duplicates: up to 64 bytes for each document and 800 for each kept one "
            "(--near 0: "
            "none of the latter). The shards do not depend on --threads. Line ends, control "
            "characters, byte "
            "order marks and spaces at line ends are normalised; Unicode's NFC is not.\n");
    return help;
}

static int verify(const char *directory, Error *err) {
    Shards shards;
    if (shards_open(&shards, directory, true, err)) return -1;
    for (int part = 0; part < SHARD_PARTS; part++) {
        const ShardRow *row = &shards.parts[part];
        printf("%-11s %lld tokens in %lld documents, %d shards: as the index says\n",
               shard_part_names[part], (long long)row->tokens, (long long)row->documents,
               row->count);
    }
    shards_close(&shards);
    return 0;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.prepare = prepare_defaults()}, *o = &options;
    PrepareOptions *p = &o->prepare;
    struct argp argp = {data_flags,  parse,     "[FILE...]", command_data.about,
                        common_argp, help_text, NULL};
    options_parse(&argp, argc, argv, &o->common, o);
    if (o->common.csv) return error_set(err, "data writes its numbers into --out: leave --csv out");
    if (o->verify) return verify(o->verify, err);
    if (!p->out) return error_set(err, "data: --out DIR says where the shards go");
    if (!p->path_count) return error_set(err, "data: which files?");
    if (p->bands * p->rows > MINHASH_MOST)
        return error_set(err, "%d --bands of %d --rows are %d numbers; at most %d", p->bands,
                         p->rows, p->bands * p->rows, MINHASH_MOST);
    p->paths = o->paths;
    p->seed = o->common.seed;
    PrepareReport report;
    int status = prepare(p, &report, err);
    if (!status) status = report_show(p, &report, err);
    if (!status) printf("Shards, index.json and report.json are in %s\n", p->out);
    free(o->paths);
    return status;
}

const Command command_data = {
    "data", "Turns text files into shards of tokens to train on: sifted, split, tokenised.", run};

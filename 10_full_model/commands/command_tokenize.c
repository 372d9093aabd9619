/*
 * deepseek tokenize: a text as the pieces that a model sees, with their ids; or ids as the text.
 *
 *     18308<TAB>"Hello"      one line a piece; what cannot be shown is written \n, \xFF
 *
 * --decode reads such lines as well as the ids alone, so that each way has its reverse.
 */
#include "10_full_model/commands/command.h"

#include "common/core/memory.h"
#include "common/core/utf8.h"
#include "common/text/text_file.h"
#include "common/text/tokenizer_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct Options {
    const char *model, *tokenizer;
    StringList files;
    bool ids, decode;
} Options;

/* ---- in ---- */

typedef struct Input {
    const char *text;
    size_t bytes;
    MappedFile file; /* one of the two */
    char *read;
} Input;

static int read_stdin(Input *input, Error *err) {
    size_t room = 0;
    do {
        input->read = grow(input->read, &room, input->bytes + (1 << 16), 1);
        input->bytes += fread(input->read + input->bytes, 1, 1 << 16, stdin);
    } while (!feof(stdin) && !ferror(stdin));
    input->text = input->read;
    return ferror(stdin) ? error_set(err, "stdin: %s", strerror(errno)) : 0;
}

static int read_input(Input *input, const Options *o, Error *err) {
    if (!o->files.count) return read_stdin(input, err);
    if (text_file_map(&input->file, o->files.items[0], err)) return -1;
    size_t mark = text_mark(input->file.data, input->file.size);
    input->text = input->file.data + mark;
    input->bytes = input->file.size - mark;
    return 0;
}

static Tokenizer *load(const Options *o, Error *err) {
    struct stat info;
    if (o->model) return tokenizer_load_folder(o->model, err);
    bool folder = stat(o->tokenizer, &info) == 0 && S_ISDIR(info.st_mode);
    return folder ? tokenizer_load_folder(o->tokenizer, err) : tokenizer_load(o->tokenizer, err);
}

/* ---- out ---- */

static void print_piece(const char *text, size_t bytes) {
    putchar('"');
    for (size_t i = 0; i < bytes;) {
        int length = utf8_character(text + i, bytes - i);
        unsigned char c = (unsigned char)text[i];
        const char *escapes = "\n\r\t\\\"", *letters = "nrt\\\"", *at = strchr(escapes, c);
        if (c && at)
            printf("\\%c", letters[at - escapes]);
        else if (length > 0 && !utf8_is_control(text + i, length))
            fwrite(text + i, 1, (size_t)length, stdout);
        else
            for (length = abs(length), at = text + i; at < text + i + length; at++)
                printf("\\x%02X", (unsigned char)*at);
        i += (size_t)abs(length);
    }
    putchar('"');
}

static void encode(const Tokenizer *tokenizer, const Input *input, bool ids_alone) {
    size_t count, bytes;
    int32_t *ids = tokenizer_encode(tokenizer, input->text, input->bytes, &count);
    for (size_t i = 0; i < count; i++) {
        if (ids_alone) {
            printf("%s%d", i ? " " : "", ids[i]);
        } else {
            const char *text = tokenizer_token(tokenizer, ids[i], &bytes);
            printf("%d\t", ids[i]);
            print_piece(text, bytes);
            putchar('\n');
        }
    }
    if (ids_alone) putchar('\n');
    free(ids);
}

/* The next id at or behind *at, of which the rest of the line is no business; -1: none is left, or
 * (with a message) what stands there is no id of the tokenizer's. */
static int64_t next_id(const Input *input, size_t *at, int size, Error *err) {
    const char *text = input->text, *blanks = " \t\r\n,";
    while (*at < input->bytes && text[*at] && strchr(blanks, text[*at])) ++*at;
    if (*at == input->bytes) return -1;
    size_t start = *at, digits = 0;
    int64_t id = 0;
    for (; *at < input->bytes && text[*at] >= '0' && text[*at] <= '9'; ++*at, digits++)
        if (id < size) id = 10 * id + text[*at] - '0';
    bool ends = *at == input->bytes || (text[*at] && strchr(blanks, text[*at]));
    if (!digits || !ends || id >= size)
        return error_set(err,
                         "at byte %zu there is no id of this tokenizer, which are whole numbers in "
                         "0 .. %d",
                         start + 1, size - 1);
    if (*at < input->bytes && text[*at] == '\t') { /* id, tab, piece */
        const char *end = memchr(text + *at, '\n', input->bytes - *at);
        *at = end ? (size_t)(end - text) : input->bytes;
    }
    return id;
}

/* All of it at once: a character may lie in several tokens, and a wrong id in any place. */
static int decode(const Tokenizer *tokenizer, const Input *input, Error *err) {
    size_t at = 0, count = 0, room = 0, bytes;
    int32_t *ids = NULL;
    err->text[0] = 0;
    for (int64_t id; (id = next_id(input, &at, tokenizer_vocab_size(tokenizer), err)) >= 0;) {
        ids = grow(ids, &room, count + 1, sizeof *ids);
        ids[count++] = (int32_t)id;
    }
    if (!err->text[0]) {
        char *text = tokenizer_decode(tokenizer, ids, count, &bytes);
        terminal_write(stdout, text, bytes);
        free(text);
    }
    free(ids);
    return err->text[0] ? -1 : 0;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {0}, *o = &options;
    const Option flags[] = {
        OPT_WORDS("FILE", &o->files),
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model whose tokenizer it is"),
        OPT_STRING("tokenizer", 0, "FILE", &o->tokenizer,
                   "Or its tokenizer.json, or a folder with one"),
        OPT_FLAG("ids", 0, &o->ids, "Print the ids alone, with blanks between them"),
        OPT_FLAG("decode", 0, &o->decode,
                 "The reverse: ids, or lines of ids and pieces, in; text out"),
        OPT_END};
    options_parse(argc, argv, command_tokenize.about, flags);
    if (!o->model == !o->tokenizer)
        options_error(argv, "--model DIR or --tokenizer FILE says which tokenizer");
    if (o->ids && o->decode) options_error(argv, "--ids and --decode exclude each other");
    if (o->files.count > 1) options_error(argv, "one FILE at most");
    Tokenizer *tokenizer = load(o, err);
    if (!tokenizer) return -1;
    Input input = {0};
    int status = read_input(&input, o, err);
    if (!status && o->decode) status = decode(tokenizer, &input, err);
    if (!status && !o->decode) encode(tokenizer, &input, o->ids);
    if (input.read)
        free(input.read);
    else
        file_unmap(&input.file);
    free(o->files.items);
    tokenizer_free(tokenizer);
    return status;
}

const Command command_tokenize = {
    "tokenize", "Shows a text as pieces and ids (FILE, or stdin), or ids as text.", run};

/*
 * Files become documents, documents become clean text.
 */
#include "10_full_model/data/documents.h"
#include "10_full_model/data/normalise.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include "common/core/rng.h"
#include "common/core/utf8.h"

/* ---- what is a document ---- */

typedef struct Found {
    char texts[4000]; /* the documents, each in [] */
    int count;
} Found;

/* Reads a file of this content to its end; the first error ends it, and is in err. */
static Found read_all(const char *name, const char *content, size_t bytes,
                      const DocumentOptions *options, Error *err) {
    Scratch scratch = scratch_open();
    const char *path = scratch_write(&scratch, name, content, bytes);
    DocumentReader reader;
    Found found = {0};
    err->text[0] = 0;
    if (documents_open(&reader, &path, 1, options, err) == 0) {
        Piece piece;
        size_t used = 0;
        int more;
        while ((more = documents_next(&reader, &piece, err)) == 1) {
            DocumentText text;
            if (document_text(&reader, &piece, &text, err)) break;
            used += (size_t)snprintf(found.texts + used, sizeof found.texts - used, "[%.*s]",
                                     (int)text.bytes, text.text);
            document_text_free(&text);
            found.count++;
        }
        if (!more) cr_expect(documents_position(&reader) == bytes);
        documents_close(&reader);
    }
    return found;
}

Test(documents, of_raw_text) {
    static const struct {
        TextSplit split;
        const char *text, *expected;
    } cases[] = {
        {SPLIT_FILE, "one\n\ntwo\n", "[one\n\ntwo\n]"},
        {SPLIT_FILE, "\xEF\xBB\xBFone", "[one]"},
        {SPLIT_FILE, "one<|endoftext|>two<|endoftext|>", "[one][two]"},
        {SPLIT_FILE, "<|endoftext|>\n<|endoftext|>\none", "[\none]"},
        {SPLIT_FILE, "one<|endoftext|", "[one<|endoftext|]"},
        {SPLIT_PARAGRAPHS, "a\nb\n\nc\n \t\r\n\n\nd", "[a\nb\n\n][c\n \t\r\n][d]"},
        {SPLIT_PARAGRAPHS, "a\n", "[a\n]"},
        {SPLIT_PARAGRAPHS, "a\n  ", "[a\n  ]"},
        {SPLIT_LINES, "a\n\n b\nc", "[a\n][ b\n][c]"},
        {SPLIT_LINES, "a<|endoftext|>b\nc", "[a][b\n][c]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DocumentOptions options = documents_defaults();
        Error err;
        options.split = cases[i].split;
        Found found = read_all("a.txt", cases[i].text, strlen(cases[i].text), &options, &err);
        if (cases[i].text[0] == '<') /* blank documents are passed over, with their markers */
            cr_expect(found.count == 1, "%d documents", found.count);
        else
            cr_expect_str_eq(found.texts, cases[i].expected, "case %zu: %s", i, found.texts);
        cr_expect_str_eq(err.text, "");
    }
}

/* Pieces are never longer than asked, end where a reader would pause, and together are the text. */
Test(documents, are_cut_where_a_reader_pauses) {
    static const struct {
        size_t cut;
        const char *text, *expected;
    } cases[] = {
        {12, "aaaa bbb\n\nccccc ddd eee fff", "[aaaa bbb\n\n][ccccc ][ddd eee fff]"},
        {12, "aaaa bbb\nccc ddd eee ffff ggg", "[aaaa bbb\n][ccc ddd ][eee ffff ggg]"},
        {8, "aaaaaaaaaaaaaaaaaaaa", "[aaaaaaaa][aaaaaa][aaaaaa]"},
        {5, "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9",
         "[\xC3\xA9\xC3\xA9][\xC3\xA9\xC3\xA9][\xC3\xA9\xC3\xA9]"},
        {6, "aaa<|endoftext|>bbbb", "[aaa][bbbb]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        DocumentOptions options = documents_defaults();
        Error err;
        options.cut = cases[i].cut;
        Found found = read_all("a.txt", cases[i].text, strlen(cases[i].text), &options, &err);
        cr_expect_str_eq(found.texts, cases[i].expected, "case %zu: %s", i, found.texts);
    }
}

Test(documents, of_json_lines) {
    DocumentOptions options = documents_defaults();
    const char *text = "{\"text\": \"a\\n\\u00e9\", \"id\": [1, {\"text\": 2}]}\r\n"
                       "\n"
                       "  {\"n\":1,\"text\":\"\"}\n"
                       "{\"text\":\"last\"}";
    cr_expect_str_eq(read_all("a.jsonl", text, strlen(text), &options, &err).texts,
                     "[a\n\xC3\xA9][][last]", "%s", err.text);
    options.field = "n";
    text = "{\"n\":\"x\"}";
    cr_expect_str_eq(read_all("a.json", text, strlen(text), &options, &err).texts, "[x]");
    options.format = FORMAT_TEXT;
    cr_expect_str_eq(read_all("a.json", text, strlen(text), &options, &err).texts,
                     "[{\"n\":\"x\"}]");
}

/* What RFC 8259 allows and cJSON does not read, and what is wrong with a text and not with JSON. */
Test(documents, of_the_web) {
    static const struct {
        const char *name, *line, *expected;
        size_t replaced;
    } cases[] = {
        {"a.jsonl", "{\"text\":\"one\\u0000two\"}", "one\x01two", 0}, /* goes with other controls */
        {"a.jsonl", "{\"u\\u0000rl\":\"a\\u0000b\",\"text\":\"fine\"}", "fine", 0},
        {"a.jsonl", "{\"text\":\"\\\\u0000\"}", "\\u0000", 0}, /* a backslash, and letters */
        {"a.jsonl", "{\"text\":\"caf\xE9 x\"}", "caf\xEF\xBF\xBD x", 1},
        {"a.jsonl", "{\"\\ud800\":\"\xFF\",\"text\":\"x\xE4\xB8\"}", "x\xEF\xBF\xBD", 1},
        {"a.jsonl", "{\"text\":\"a \\ud83d b\"}", "a \xEF\xBF\xBD b", 1},
        {"a.jsonl", "{\"text\":\"\\uDE00\\uD83D\"}", "\xEF\xBF\xBD\xEF\xBF\xBD", 2},
        {"a.jsonl", "{\"text\":\"\\ud83d\\ud83d\\ude00\"}", "\xEF\xBF\xBD\xF0\x9F\x98\x80", 1},
        {"a.jsonl", "{\"text\":\"\\uD83D\\uDE00\"}", "\xF0\x9F\x98\x80", 0},
        {"a.jsonl", "{\"text\":\"\\ud83d\\n\"}", "\xEF\xBF\xBD\n", 1},
        {"a.jsonl", "\xEF\xBB\xBF{\"text\":\"a\"}", "a", 0}, /* within: files put together */
        {"A.JSONL", "{\"text\":\"upper\"}", "upper", 0},
        {"a.Json", "{\"text\":\"mixed\"}", "mixed", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Scratch scratch = scratch_open();
        DocumentOptions options = documents_defaults();
        Error err = {""};
        char lines[300];
        snprintf(lines, sizeof lines, "{\"text\":\"first\"}\n%s\n", cases[i].line);
        const char *path = scratch_write(&scratch, cases[i].name, lines, strlen(lines));
        DocumentReader reader;
        Piece piece;
        DocumentText text = {0};
        check_ok(documents_open(&reader, &path, 1, &options, &err), &err);
        cr_assert(documents_next(&reader, &piece, &err) == 1);
        cr_assert(documents_next(&reader, &piece, &err) == 1);
        check_ok(document_text(&reader, &piece, &text, &err), &err);
        cr_expect(text.bytes == strlen(cases[i].expected) &&
                      !memcmp(text.text, cases[i].expected, text.bytes),
                  "case %zu: '%s'", i, text.text);
        cr_expect(text.replaced == cases[i].replaced, "case %zu: %zu", i, text.replaced);
        document_text_free(&text);
        documents_close(&reader);
    }
}

/* Whatever bytes a line has: it is read as valid UTF-8, or what is wrong with it is said. */
Test(documents, any_line_is_read_or_named) {
    static const char *const pieces[] = {"{\"text\":\"", "\"}",         "\"",      "\\",    "\\u",
                                         "\\ud83d",      "\\ude00",     "\\u0000", "\xC3",  "\xA9",
                                         "\xF0\x9F",     "\xED\xA0",    "a",       "[1,2]", ",",
                                         "\x01",         "\xEF\xBB\xBF"};
    int read = 0;
    for (uint64_t round = 0; round < 4000; round++) {
        char line[400] = "{\"text\":\"";
        bool whole = philox(21, round, 0).word[1] % 2; /* half of them are a string at least */
        for (uint64_t i = 0; i < 1 + philox(21, round, 0).word[0] % 12; i++)
            strcat(line, pieces[philox(22, round, i).word[0] % (sizeof pieces / sizeof *pieces)]);
        if (whole) strcat(line, "\"}");
        DocumentReader reader = {.options = documents_defaults(), .paths = &(const char *){"x"}};
        Piece piece = {line, strlen(line), 0, 1};
        DocumentText text = {0};
        Error err = {""};
        if (document_text(&reader, &piece, &text, &err)) {
            cr_expect(strstr(err.text, "x:1: "), "'%s'", err.text);
            continue;
        }
        read++;
        for (size_t i = 0, length; i < text.bytes; i += length) {
            int bytes = utf8_character(text.text + i, text.bytes - i);
            cr_assert(bytes > 0, "'%s' gives invalid UTF-8", line);
            length = (size_t)bytes;
        }
        document_text_free(&text);
    }
    cr_expect(read > 400, "only %d lines were read", read);
}

Test(documents, bad_lines_are_named) {
    static const struct {
        const char *line, *message;
    } cases[] = {
        {"{\"text\": \"a\"", "not JSON at byte"},
        {"{\"text\": \"a\"} x", "not JSON at byte"},
        {"plain text", "not JSON at byte 1"},
        {"{\"text\": \"a\tb\x01\"}", "a control character"},
        {"{\"txt\": \"a\"}", "there is no field \"text\""},
        {"{\"Text\": \"a\"}", "there is no field \"text\""},
        {"{}", "there is no field \"text\""},
        {"{\"text\": 1}", "the field \"text\" is not a string"},
        {"{\"text\": null}", "the field \"text\" is not a string"},
        {"{\"text\": [\"a\"]}", "the field \"text\" is not a string"},
        {"{\"text\": \"a\", \"text\": \"b\"}", "is there 2 times"},
        {"[\"text\"]", "not an object"},
        {"\"text\"", "not an object"},
        {"7", "not an object"},
        {"{\"text\": \"\\ud80\"}", "not JSON"},
        {"{\"text\": \"\\u000\"}", "not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        DocumentOptions options = documents_defaults();
        Error err;
        snprintf(text, sizeof text, "{\"text\":\"good\"}\n\n%s\n{\"text\":\"more\"}\n",
                 cases[i].line);
        Found found = read_all("a.jsonl", text, strlen(text), &options, &err);
        cr_expect_str_eq(found.texts, "[good]");
        cr_expect(strstr(err.text, cases[i].message), "'%s' should say '%s'", err.text,
                  cases[i].message);
        cr_expect(strstr(err.text, "a.jsonl:3: "), "line 3 is not named: '%s'", err.text);
        cr_expect(!strstr(err.text, "line 1"), "two lines are named: '%s'", err.text);
    }
}

Test(documents, files_that_cannot_be_read) {
    DocumentOptions options = documents_defaults();
    Found found = read_all("a.txt", "", 0, &options, &err);
    cr_expect(!found.count && strstr(err.text, "no text"), "%s", err.text);
    read_all("a.txt", "\x1F\x8B\x08rest", 7, &options, &err);
    cr_expect(strstr(err.text, "gzip") && strstr(err.text, "a.txt"), "%s", err.text);
    static const struct {
        const char *text, *name;
        size_t bytes;
    } others[] = {{"\xFF\xFE\x16\x4E\x20\x00", "UTF-16", 6},
                  {"\xFE\xFFx", "UTF-16", 3},
                  {"h\0e\0l\0l\0", "UTF-16", 8},
                  {"\0h\0e\0\n", "UTF-16", 6},
                  {"\xFF\xFE\0\0h\0\0\0", "UTF-32", 8},
                  {"PAR1", "parquet", 4}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        for (int json = 0; json < 2; json++) {
            read_all(json ? "a.jsonl" : "a.txt", others[i].text, others[i].bytes, &options, &err);
            cr_expect(strstr(err.text, others[i].name), "%s: '%s'", others[i].name, err.text);
        }
    read_all("a.txt", "page one\0page two", 17, &options, &err); /* a zero byte is no reason */
    cr_expect_str_eq(err.text, "");
    options.longest = 10;
    read_all("a.jsonl", "{}\n0123456789abc\n", 17, &options, &err);
    cr_expect(strstr(err.text, "field"), "%s", err.text);
    read_all("a.jsonl", "\n0123456789abc\n", 15, &options, &err);
    cr_expect(strstr(err.text, "a.jsonl:2: the line is longer than 10"), "%s", err.text);
    const char *paths[] = {"/proc/none/a.txt", "/tmp"};
    for (int i = 0; i < 2; i++) {
        DocumentReader reader;
        cr_expect(documents_open(&reader, paths + i, 1, &options, &err) == -1);
        cr_expect(strstr(err.text, paths[i]), "%s", err.text);
    }
}

/* From any place on, the next line is found whole; positions count over all files. */
Test(documents, seek_finds_lines) {
    Scratch scratch = scratch_open();
    char first[400], second[400];
    snprintf(first, sizeof first, "%s", scratch_write(&scratch, "a.txt", "aa\nbbb\n", 7));
    snprintf(second, sizeof second, "%s", scratch_write(&scratch, "b.txt", "cc\nd", 4));
    const char *paths[] = {first, second};
    DocumentOptions options = documents_defaults();
    options.split = SPLIT_LINES;
    DocumentReader reader;
    cr_assert(documents_open(&reader, paths, 2, &options, NULL) == 0);
    static const char next[] = "abbbccccddd-";
    for (size_t position = 0; position <= reader.total; position++) {
        Piece piece;
        documents_seek(&reader, position);
        int more = documents_next(&reader, &piece, NULL);
        cr_expect((more ? *piece.text : '-') == next[position], "at %zu: %c", position,
                  more ? *piece.text : '-');
        documents_release(&reader);
    }
    documents_close(&reader);
}

/* ---- normalising ---- */

static void becomes(const char *text, size_t bytes, const char *expected, size_t replaced) {
    char out[600];
    memset(out, 'x', sizeof out);
    Normalised n = normalise(text, bytes, "<|endoftext|>", out);
    cr_expect(n.bytes == strlen(expected) && !strcmp(out, expected), "'%s' became '%s', not '%s'",
              text, out, expected);
    cr_expect(n.replaced == replaced, "'%s': %zu pieces, not %zu", text, n.replaced, replaced);
}
#define BECOMES(text, expected, replaced) becomes(text, sizeof(text) - 1, expected, replaced)

Test(normalise, examples) {
    BECOMES("plain  text, \"quoted\"", "plain  text, \"quoted\"", 0);
    BECOMES("a\r\nb\rc\r\r\nd\n", "a\nb\nc\n\nd", 0);
    BECOMES(" \n\t\n  a  \n b\t \n\n\n", "  a\n b", 0);
    BECOMES("a\x01\x7F\0b\x1B[0m", "ab[0m", 0);
    BECOMES("\xEF\xBB\xBF"
            "a\xEF\xBB\xBF"
            "b",
            "ab", 0);
    BECOMES("a\xC2\x85\xC2\x80"
            "b\xC2\xA0"
            "c",
            "ab\xC2\xA0"
            "c",
            0);
    BECOMES("one<|endoftext|>two <|endo\x01"
            "ftext|>\n",
            "one\ntwo", 0);
    BECOMES("<|endoftext|>", "", 0);
    BECOMES(" \r\n\x02", "", 0);
    BECOMES("", "", 0);
}

/* Unicode's table 3-8, as every browser does it: one U+FFFD for each longest piece that could
 * begin a character. */
Test(normalise, invalid_utf8) {
    BECOMES("a\xFF"
            "b",
            "a\xEF\xBF\xBD"
            "b",
            1);
    BECOMES("\xC3\xA9\xC3", "\xC3\xA9\xEF\xBF\xBD", 1);
    BECOMES("\xF0\x9F\x98"
            "a",
            "\xEF\xBF\xBD"
            "a",
            1);
    BECOMES("\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80", 0);
    BECOMES("\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", 3); /* a surrogate */
    BECOMES("\xC0\xAF", "\xEF\xBF\xBD\xEF\xBF\xBD", 2);                 /* an overlong slash */
    BECOMES("\xF4\x90\x80\x80"
            "a",
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
            "a",
            4);
    BECOMES("\xE2\x82", "\xEF\xBF\xBD", 1);
}

/* Whatever the bytes: the result is valid, has no control characters, no marker, and normalising
 * it again changes nothing. */
Test(normalise, twice_is_once) {
    static const char *const pieces[] = {"a",
                                         " ",
                                         "\n",
                                         "\r",
                                         "\t",
                                         "\x01",
                                         "\xC3\xA9",
                                         "\xC3",
                                         "\xEF\xBB\xBF",
                                         "\xF0\x9F",
                                         "<|endoftext|>",
                                         "<|endo",
                                         "ftext|>",
                                         "\xE2\x80\xA6"};
    for (uint64_t trial = 0; trial < 20000; trial++) {
        char text[200] = "", once[600], twice[600];
        for (uint64_t i = 0; i < 10; i++) {
            Philox p = philox(trial, 0, i);
            strcat(text, pieces[p.word[0] % (sizeof pieces / sizeof *pieces)]);
        }
        Normalised a = normalise(text, strlen(text), "<|endoftext|>", once);
        Normalised b = normalise(once, a.bytes, "<|endoftext|>", twice);
        cr_assert(!strcmp(once, twice) && b.replaced == 0, "'%s' became '%s', then '%s'", text,
                  once, twice);
        cr_assert(!strstr(once, "<|endoftext|>") && !strpbrk(once, "\r\x01"), "'%s'", once);
        cr_assert(!strstr(once, " \n") && !strstr(once, "\t\n"), "'%s'", once);
    }
}

/*
 * The text that the demo learns: a file, the program `bible`, or what is built in.
 */
#include "common/text/chartext.h"

#include "common/core/memory.h"
#include "common/files/process.h"
#include "common/program/progress.h"
#include "common/text/text_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Genesis 1 in the King James Version of 1611/1769. A plain string is limited to 4095 bytes by
 * C11.
 */
static const char *const passage[] = {
    "In the beginning God created the heaven and the earth. And the earth was without form, "
    "and void; and darkness was upon the face of the deep. And the Spirit of God moved upon "
    "the face of the waters. And God said, Let there be light: and there was light. And God "
    "saw the light, that it was good: and God divided the light from the darkness. And God "
    "called the light Day, and the darkness he called Night. And the evening and the morning "
    "were the first day. And God said, Let there be a firmament in the midst of the waters, "
    "and let it divide the waters from the waters. And God made the firmament, and divided "
    "the waters which were under the firmament from the waters which were above the "
    "firmament: and it was so. And God called the firmament Heaven. And the evening and the "
    "morning were the second day. And God said, Let the waters under the heaven be gathered "
    "together unto one place, and let the dry land appear: and it was so. And God called the "
    "dry land Earth; and the gathering together of the waters called he Seas: and God saw "
    "that it was good. And God said, Let the earth bring forth grass, the herb yielding seed, "
    "and the fruit tree yielding fruit after his kind, whose seed is in itself, upon the "
    "earth: and it was so. And the earth brought forth grass, and herb yielding seed after "
    "his kind, and the tree yielding fruit, whose seed was in itself, after his kind: and God "
    "saw that it was good. And the evening and the morning were the third day. And God said, "
    "Let there be lights in the firmament of the heaven to divide the day from the night; and "
    "let them be for signs, and for seasons, and for days, and years: And let them be for "
    "lights in the firmament of the heaven to give light upon the earth: and it was so. And "
    "God made two great lights; the greater light to rule the day, and the lesser light to "
    "rule the night: he made the stars also. And God set them in the firmament of the heaven "
    "to give light upon the earth, And to rule over the day and over the night, and to divide "
    "the light from the darkness: and God saw that it was good. And the evening and the ",
    "morning were the fourth day. And God said, Let the waters bring forth abundantly the "
    "moving creature that hath life, and fowl that may fly above the earth in the open "
    "firmament of heaven. And God created great whales, and every living creature that "
    "moveth, which the waters brought forth abundantly, after their kind, and every winged "
    "fowl after his kind: and God saw that it was good. And God blessed them, saying, Be "
    "fruitful, and multiply, and fill the waters in the seas, and let fowl multiply in the "
    "earth. And the evening and the morning were the fifth day. And God said, Let the earth "
    "bring forth the living creature after his kind, cattle, and creeping thing, and beast of "
    "the earth after his kind: and it was so. And God made the beast of the earth after his "
    "kind, and cattle after their kind, and every thing that creepeth upon the earth after "
    "his kind: and God saw that it was good. And God said, Let us make man in our image, "
    "after our likeness: and let them have dominion over the fish of the sea, and over the "
    "fowl of the air, and over the cattle, and over all the earth, and over every creeping "
    "thing that creepeth upon the earth. So God created man in his own image, in the image of "
    "God created he him; male and female created he them. And God blessed them, and God said "
    "unto them, Be fruitful, and multiply, and replenish the earth, and subdue it: and have "
    "dominion over the fish of the sea, and over the fowl of the air, and over every living "
    "thing that moveth upon the earth. And God said, Behold, I have given you every herb "
    "bearing seed, which is upon the face of all the earth, and every tree, in the which is "
    "the fruit of a tree yielding seed; to you it shall be for meat. And to every beast of "
    "the earth, and to every fowl of the air, and to every thing that creepeth upon the "
    "earth, wherein there is life, I have given every green herb for meat: and it was so. And "
    "God saw every thing that he had made, and, behold, it was very good. And the evening and "
    "the morning were the sixth day.",
};

enum { BIBLE_BYTES = 1 << 19 }; /* Genesis has 218 KB */

static char *text_memory(size_t size) {
    char *text = must_alloc(size + 1, 1);
    text[size] = 0;
    return text;
}

/*
 * "Ge1:1 In the beginning\nGe1:2 And" -> "In the beginning And": verse numbers teach nothing
 * about English. In place.
 */
static void strip_verse_numbers(char *text) {
    char *to = text;
    for (char *line = text; *line;) {
        char *end = strchr(line, '\n');
        if (!end) end = line + strlen(line);
        char *space = memchr(line, ' ', (size_t)(end - line));
        const char *verse = space ? space + 1 : line;
        if (to > text) *to++ = ' ';
        memmove(to, verse, (size_t)(end - verse));
        to += end - verse;
        line = *end ? end + 1 : end;
    }
    *to = 0;
}

static char *from_bible(void) {
    const char *const command[] = {"bible", "-f", "gen1:1-gen50:26", NULL};
    char *text = must_alloc(BIBLE_BYTES, 1);
    int status = process_run(command, text, BIBLE_BYTES, NULL);
    /* Another program of that name prints something else. */
    if (status != 0 || strncmp(text, "Ge1:1 In the beginning", 22) != 0) {
        free(text);
        return NULL;
    }
    strip_verse_numbers(text);
    return text;
}

static void from_passage(CharText *text) {
    const size_t parts = sizeof passage / sizeof *passage;
    for (size_t i = 0; i < parts; i++) text->size += strlen(passage[i]);
    char *to = text->data = text_memory(text->size);
    for (size_t i = 0; i < parts; i++) {
        memcpy(to, passage[i], strlen(passage[i]));
        to += strlen(passage[i]);
    }
}

static Alphabet alphabet_of(const char *text, size_t bytes) {
    Alphabet a = {0};
    bool seen[256] = {false};
    for (size_t i = 0; i < bytes; i++) seen[(uint8_t)text[i]] = true;
    for (int b = 0; b < 256; b++) {
        a.id[b] = seen[b] ? a.size : -1;
        if (seen[b]) a.byte[a.size++] = (uint8_t)b;
    }
    return a;
}

int chartext_load(CharText *text, const char *path, int least, Error *err) {
    *text = (CharText){0};
    if (path) {
        MappedFile file;
        if (text_file_map(&file, path, err)) return -1;
        size_t mark = text_mark(file.data, file.size);
        text->size = file.size - mark;
        text->data = text_memory(text->size);
        if (text->size) memcpy(text->data, file.data + mark, text->size);
        file_unmap(&file);
        snprintf(text->source, sizeof text->source, "%s", path);
    } else if ((text->data = from_bible())) {
        text->size = strlen(text->data);
        snprintf(text->source, sizeof text->source, "Genesis, from the program `bible`");
    } else {
        from_passage(text);
        snprintf(text->source, sizeof text->source,
                 "Genesis 1, built in (install bible-kjv, or give --text FILE, for more)");
    }
    if (text->size < (size_t)least) {
        error_set(err, "%s has %zu bytes; the demo needs at least %d to learn from", text->source,
                  text->size, least);
        chartext_free(text);
        return -1;
    }
    text->count = (int64_t)text->size;
    text->train = text->count - text->count / 20;
    text->alphabet = alphabet_of(text->data, text->size);
    text->ids = must_alloc(text->size, sizeof *text->ids);
    for (size_t i = 0; i < text->size; i++)
        text->ids[i] = text->alphabet.id[(uint8_t)text->data[i]];
    return 0;
}

void chartext_free(CharText *text) {
    free(text->data);
    free(text->ids);
    *text = (CharText){0};
}

void chartext_print(const CharText *text) {
    char number[32];
    printf("   %s:\n"
           "   %s characters, %d different ones. The last 5 %% are kept for validation.\n\n",
           text->source, format_count(number, sizeof number, text->count), text->alphabet.size);
}

/* where[b] is where stretch b begins, from 0 to 1 */
static void stretches(const CharText *text, Context *ctx, bool kept, const double *where, int B,
                      int T, Tensor **ids, Tensor **targets) {
    int64_t low = kept ? text->train : 0, room = (kept ? text->count : text->train) - low - T - 1;
    int32_t *from = must_alloc(2 * (size_t)B * (size_t)T, sizeof *from), *next = from + B * T;
    for (int b = 0; b < B; b++) {
        const int32_t *at = text->ids + low + (int64_t)(where[b] * (double)room);
        memcpy(from + (int64_t)b * T, at, (size_t)T * sizeof *from);
        memcpy(next + (int64_t)b * T, at + 1, (size_t)T * sizeof *from);
    }
    *ids = tensor_copy_in(ctx, "ids", I32, from, SHAPE(B, T));
    *targets = tensor_copy_in(ctx, "targets", I32, next, SHAPE(B, T));
    free(from);
}

void chartext_batch(const CharText *text, Context *ctx, Rng *rng, int B, int T, Tensor **ids,
                    Tensor **targets) {
    if (!rng) {
        chartext_batch_kept(text, ctx, 0, B, B, T, ids, targets);
        return;
    }
    uint64_t stream = rng_next_stream(rng);
    double where[B];
    for (int b = 0; b < B; b++) where[b] = rng_uniform(rng->seed, stream, (uint64_t)b);
    stretches(text, ctx, false, where, B, T, ids, targets);
}

void chartext_batch_kept(const CharText *text, Context *ctx, int first, int of, int B, int T,
                         Tensor **ids, Tensor **targets) {
    double where[B];
    for (int b = 0; b < B; b++) where[b] = (double)(first + b) / of;
    stretches(text, ctx, true, where, B, T, ids, targets);
}

/*
 * Inputs come as lines NAME=VALUE in one buffer, answers leave as one JSON object in another: both
 * sides read and write them with what they have, and a test can, too.
 *
 * Numbers are written with nine digits, which tell any float from its neighbours.
 */
#include "common/program/web.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char *input, *answer, *file;
static size_t input_capacity, answer_capacity, answer_length, file_size;

char *web_input(size_t size) {
    input = grow(input, &input_capacity, size + 1, 1);
    input[size] = 0;
    answer_length = 0;
    return input;
}

char *web_room(size_t size) {
    free(file);
    return file = must_alloc(file_size = size, 1);
}

const void *web_file(size_t *size) {
    *size = file_size;
    return file;
}

/* ---- inputs ---- */

/* The text behind "name=", and its length. */
static const char *find(const char *name, size_t *length) {
    size_t letters = strlen(name);
    for (const char *line = input; line && *line;) {
        const char *end = line + strcspn(line, "\n");
        if (!strncmp(line, name, letters) && line[letters] == '=') {
            *length = (size_t)(end - line) - letters - 1;
            return line + letters + 1;
        }
        line = *end ? end + 1 : end;
    }
    *length = 0;
    return "";
}

double web_number(const char *name, double least, double most) {
    size_t length;
    const char *text = find(name, &length);
    double value = length ? strtod(text, NULL) : least;
    return !(value >= least) ? least : value > most ? most : value; /* a NaN is not >= anything */
}

int web_int(const char *name, int least, int most) {
    return (int)floor(web_number(name, least, most));
}

void web_text(char *to, size_t size, const char *name) {
    size_t length;
    const char *text = find(name, &length);
    if (length > size - 1) {
        length = size - 1;
        while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
    }
    memcpy(to, text, length);
    to[length] = 0;
}

int web_list(float *to, int most, const char *name, double least, double high) {
    char text[4096], *at = text;
    int count = 0;
    web_text(text, sizeof text, name);
    while (*at && count < most) {
        char *end;
        double value = strtod(at, &end);
        if (end == at)
            at++; /* whatever stands between numbers */
        else if (at = end, value == value)
            to[count++] = (float)fmin(fmax(value, least), high);
    }
    return count;
}

double web_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- answers ---- */

static __attribute__((format(printf, 1, 2))) void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char piece[512];
    size_t length = (size_t)vsnprintf(piece, sizeof piece, format, args);
    va_end(args);
    answer = grow(answer, &answer_capacity, answer_length + length + 2, 1);
    memcpy(answer + answer_length, piece, length + 1);
    answer_length += length;
}

static void begin(const char *name) { say("%c\"%s\":", answer_length ? ',' : '{', name); }

/* Nine digits tell any float from its neighbours. */
static void number(double value) {
    if (isfinite(value))
        say("%.9g", value);
    else
        say("null");
}

#define LIST(name, values, count)                                                      \
    do {                                                                               \
        begin(name);                                                                   \
        for (int64_t i = 0; i < (count); i++) say(i ? "," : "["), number((values)[i]); \
        say((count) > 0 ? "]" : "[]");                                                 \
    } while (0)

void web_value(const char *name, double value) {
    begin(name);
    number(value);
}
void web_floats(const char *name, const float *values, int64_t count) { LIST(name, values, count); }
void web_doubles(const char *name, const double *values, int64_t count) {
    LIST(name, values, count);
}
void web_ints(const char *name, const int32_t *values, int64_t count) { LIST(name, values, count); }

void web_string(const char *name, const char *text) {
    begin(name);
    say("\"");
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            say("\\%c", c);
        else if (c < ' ')
            say("\\u%04x", c);
        else
            say("%c", c);
    }
    say("\"");
}

void web_tensor(Context *ctx, const char *name, const Tensor *t) {
    int64_t count = tensor_count(t);
    float *host = must_alloc((size_t)count, sizeof *host);
    tensor_download(ctx, host, t);
    web_floats(name, host, count);
    free(host);
}

const char *web_answer(void) {
    say(answer_length ? "}" : "{}");
    answer_length = 0;
    return answer;
}

void web_context(Context *ctx, uint64_t seed) {
    Error err;
    if (context_init(ctx, CPU, F32, seed, &err)) fatal("%s", err.text);
}

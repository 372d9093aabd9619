#include "text_stream.h"

#include "../common/error.h"

#include <stdlib.h>
#include <string.h>

TextStream text_stream(TextFunction emit, void *user, const char *const *stops, int stop_count) {
    return (TextStream){.emit = emit, .user = user, .stops = stops, .stop_count = stop_count};
}

/* How many bytes the UTF-8 character that begins with c has; 1 for what cannot begin one. */
static size_t character_length(unsigned char c) {
    return c >= 0xf0 && c < 0xf8 ? 4 : c >= 0xe0 ? (c < 0xf0 ? 3 : 1) : c >= 0xc2 ? 2 : 1;
}

/* The bytes of the character at text; a byte that does not continue it ends it. 0: it is not whole. */
static size_t whole_character(const char *text, size_t bytes) {
    size_t length = character_length((unsigned char)text[0]);
    for (size_t i = 1; i < length; i++) {
        if (i == bytes) return 0;
        if (((unsigned char)text[i] & 0xc0) != 0x80) return i;
    }
    return length;
}

/* Emits up to `bytes` of what waits, in whole characters; `all`: the last one as it is. */
static void flush(TextStream *stream, size_t bytes, bool all) {
    size_t done = 0;
    while (done < bytes) {
        size_t length = whole_character(stream->waiting + done, bytes - done);
        if (length == 0 && !all) break;
        if (length == 0) length = bytes - done;
        if (stream->emit) stream->emit(stream->user, stream->waiting + done, length);
        done += length;
    }
    if (done == 0) return; /* there may be no buffer yet */
    stream->count -= done;
    memmove(stream->waiting, stream->waiting + done, stream->count);
}

/* Where the first stop string begins, or might begin, in what waits; count if nowhere. */
static size_t find_stop(const TextStream *stream, bool *complete) {
    *complete = false;
    for (size_t at = 0; at < stream->count; at++) {
        size_t left = stream->count - at;
        bool possible = false;
        for (int i = 0; i < stream->stop_count; i++) {
            size_t length = strlen(stream->stops[i]);
            size_t shared = length < left ? length : left;
            if (memcmp(stream->waiting + at, stream->stops[i], shared)) continue;
            if (length <= left) *complete = true;
            possible = true;
        }
        if (possible) return at;
    }
    return stream->count;
}

bool text_stream_add(TextStream *stream, const char *text, size_t bytes) {
    if (stream->count + bytes > stream->capacity) {
        stream->capacity = 2 * (stream->count + bytes);
        stream->waiting = realloc(stream->waiting, stream->capacity);
        if (!stream->waiting) fatal("out of memory");
    }
    if (bytes) memcpy(stream->waiting + stream->count, text, bytes);
    stream->count += bytes;
    bool stopped;
    size_t safe = find_stop(stream, &stopped);
    flush(stream, safe, stopped);
    if (stopped) stream->count = 0;
    return stopped;
}

void text_stream_end(TextStream *stream) {
    flush(stream, stream->count, true);
    free(stream->waiting);
    stream->waiting = NULL;
    stream->count = stream->capacity = 0;
}

/*
 * Bytes wait in one buffer. New ones are appended; then the first stop string that is complete is
 * looked for, or else the first place at which one might begin, and everything before it is emitted
 * in whole characters. A character that the last bytes leave unfinished stays.
 */
#include "10_full_model/generate/text_stream.h"

#include "common/core/memory.h"
#include "common/core/utf8.h"

#include <stdlib.h>
#include <string.h>

TextStream text_stream(TextFunction emit, void *user, const char *const *stops, int stop_count) {
    return (TextStream){.emit = emit, .user = user, .stops = stops, .stop_count = stop_count};
}

/* Emits up to `bytes` of what waits, in whole characters; `all`: nothing will follow them. */
static void flush(TextStream *stream, size_t bytes, bool all) {
    size_t done = 0;
    while (done < bytes) {
        const char *text = stream->waiting + done;
        int length = utf8_character(text, bytes - done);
        /* A piece that reaches to the end is a character's beginning, or a byte that is none. */
        bool open = -length == (int)(bytes - done) && (unsigned char)text[0] >= 0xC2 &&
                    (unsigned char)text[0] <= 0xF4;
        if (length < 0 && open && !all) break;
        if (stream->emit && length > 0) stream->emit(stream->user, text, (size_t)length);
        if (stream->emit && length < 0) stream->emit(stream->user, "\xEF\xBF\xBD", 3);
        done += (size_t)abs(length);
    }
    if (done == 0) return; /* there may be no buffer yet */
    stream->count -= done;
    memmove(stream->waiting, stream->waiting + done, stream->count);
}

/* The longest stop string that ends behind the first `end` bytes of what waits; 0: none does. */
static size_t stop_at(const TextStream *stream, size_t end) {
    size_t longest = 0;
    for (int i = 0; i < stream->stop_count; i++) {
        size_t length = strlen(stream->stops[i]);
        if (length <= end && length > longest &&
            memcmp(stream->waiting + end - length, stream->stops[i], length) == 0)
            longest = length;
    }
    return longest;
}

/* Is what waits from `at` on the beginning of a stop string? */
static bool may_stop(const TextStream *stream, size_t at) {
    size_t left = stream->count - at;
    for (int i = 0; i < stream->stop_count; i++)
        if (strlen(stream->stops[i]) > left &&
            memcmp(stream->waiting + at, stream->stops[i], left) == 0)
            return true;
    return false;
}

/* What may be emitted of what waits: up to the stop string that is complete first, else up to what
 * might become one. */
static size_t safe_bytes(const TextStream *stream, bool *stopped) {
    for (size_t end = 1, length; end <= stream->count; end++)
        if ((length = stop_at(stream, end))) return *stopped = true, end - length;
    size_t at = 0;
    while (at < stream->count && !may_stop(stream, at)) at++;
    return *stopped = false, at;
}

bool text_stream_add(TextStream *stream, const char *text, size_t bytes) {
    stream->waiting = grow(stream->waiting, &stream->capacity, stream->count + bytes, 1);
    if (bytes) memcpy(stream->waiting + stream->count, text, bytes);
    stream->count += bytes;
    bool stopped;
    size_t safe = safe_bytes(stream, &stopped);
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

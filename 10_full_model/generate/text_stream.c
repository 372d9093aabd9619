/*
 * Bytes wait in one buffer. New ones are appended; then the first place is looked for at which a
 * stop string begins or might begin, and everything before it is emitted in whole characters. A
 * character that the last bytes leave unfinished stays.
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
    stream->waiting = grow(stream->waiting, &stream->capacity, stream->count + bytes, 1);
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

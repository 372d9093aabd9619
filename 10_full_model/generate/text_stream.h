/*
 * Text as it comes, token by token: handed on as soon as it is whole.
 *
 * Two things make text wait. A token may end within a UTF-8 character; its bytes wait for the rest,
 * for a terminal shows half a character as rubbish. And what could be the beginning of a stop
 * string waits until it is one or is none. The text ends before the stop string that is complete
 * first; of two that end together, before the longer. So it does not depend on how the text was cut
 * into tokens, nor on what a longer stop string might still become. Bytes that belong to no
 * character, which a model may well write, come out as U+FFFD: what is emitted is valid UTF-8
 * whatever happens.
 */
#ifndef TEXT_STREAM_H
#define TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>

typedef void (*TextFunction)(void *user, const char *text, size_t bytes);

typedef struct TextStream {
    TextFunction emit; /* gets whole characters, one at a time */
    void *user;
    const char *const *stops; /* not empty strings */
    int stop_count;
    char *waiting;
    size_t count, capacity;
} TextStream;

TextStream text_stream(TextFunction emit, void *user, const char *const *stops, int stop_count);

/* More bytes. True when a stop string is complete: what was before it has been emitted, and nothing
 * more will be. */
bool text_stream_add(TextStream *stream, const char *text, size_t bytes);

/* The end: emits what waits. Frees the buffer. */
void text_stream_end(TextStream *stream);

#endif

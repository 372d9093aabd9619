/*
 * Bytes as characters: where one ends, whether it is one, and how to show text that nobody has
 * looked at yet.
 *
 * A terminal obeys what is written to it: behind an escape character a title changes, a line
 * vanishes, a key gets a new meaning. So what comes out of files and models goes to a terminal
 * through terminal_write(), which shows such characters instead; into files and pipes every byte
 * goes as it is.
 */
#ifndef COMMON_UTF8_H
#define COMMON_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Bytes of the UTF-8 character at text (1 .. 4), or minus the bytes of the piece that could have
 * begun one (-1 .. -3): no overlong forms, no surrogates, nothing above U+10FFFF (Unicode, table
 * 3-7). left >= 1.
 */
int utf8_beyond_ascii(const char *text, size_t left);
static inline int utf8_character(const char *text, size_t left) {
    return (unsigned char)*text < 0x80 ? 1 : utf8_beyond_ascii(text, left);
}

/* Is this character of so many bytes a control character (C0 but tab and newline, DEL, C1)? */
static inline bool utf8_is_control(const char *text, int bytes) {
    const unsigned char *s = (const unsigned char *)text;
    if (bytes == 1) return (*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7F;
    return bytes == 2 && s[0] == 0xC2 && s[1] < 0xA0;
}

/* Writes text; to a terminal control characters, and bytes that are no UTF-8, as <1B>. */
void terminal_write(FILE *out, const char *text, size_t bytes);
void terminal_print(FILE *out, const char *text); /* zero-terminated */

/* The same as text, whatever `out` may be, for the caller to free(). */
char *terminal_text(const char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif

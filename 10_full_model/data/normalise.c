/*
 * One pass over the bytes, from one buffer into another that is as large: what comes out is never
 * longer, but for U+FFFD (three bytes for one), which the caller's room allows for. Blanks at a
 * line's end are taken back when the end is met, and blank lines at the beginning are never begun.
 */
#include "10_full_model/data/normalise.h"

#include <stdbool.h>
#include <string.h>

int utf8_character(const char *text, size_t left) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned char c = s[0];
    if (c < 0x80) return 1;
    if (c < 0xC2 || c > 0xF4) return -1;
    int length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    unsigned char low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    unsigned char high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == left || s[i] < low || s[i] > high) return -i;
        low = 0x80, high = 0xBF; /* only the second byte has limits of its own */
    }
    return length;
}

/* C1 is U+0080 .. U+009F: C2 80 .. C2 9F. */
static bool is_dropped(const unsigned char *s, int length) {
    if (length == 1) return (*s < 0x20 && *s != '\n' && *s != '\t') || *s == 0x7F;
    if (length == 2) return s[0] == 0xC2 && s[1] < 0xA0;
    return length == 3 && s[0] == 0xEF && s[1] == 0xBB && s[2] == 0xBF;
}

static size_t without_blanks(const char *out, size_t n) {
    while (n && (out[n - 1] == ' ' || out[n - 1] == '\t')) n--;
    return n;
}

/* A line ends: its last blanks go, and the line end too where nothing stands before it. */
static size_t end_line(char *out, size_t n) {
    n = without_blanks(out, n);
    if (n) out[n++] = '\n';
    return n;
}

Normalised normalise(const char *text, size_t bytes, const char *marker, char *out) {
    size_t n = 0, replaced = 0, marker_bytes = marker ? strlen(marker) : 0;
    for (size_t i = 0; i < bytes;) {
        const char *s = text + i;
        int length = utf8_character(s, bytes - i);
        i += (size_t)(length < 0 ? -length : length);
        if (length < 0) {
            memcpy(out + n, "\xEF\xBF\xBD", 3);
            n += 3, replaced++;
            continue;
        }
        if (*s == '\r') {
            if (i == bytes || text[i] != '\n') n = end_line(out, n); /* before \n that one counts */
            continue;
        }
        if (*s == '\n') {
            n = end_line(out, n);
            continue;
        }
        if (is_dropped((const unsigned char *)s, length)) continue;
        for (int k = 0; k < length; k++) out[n++] = s[k];
        /* Looked for in what is written: taking characters away may have put the marker
         * together. */
        if (marker_bytes && s[length - 1] == marker[marker_bytes - 1] && n >= marker_bytes &&
            memcmp(out + n - marker_bytes, marker, marker_bytes) == 0)
            n = end_line(out, n - marker_bytes);
    }
    while (n && (out[n - 1] == '\n' || out[n - 1] == ' ' || out[n - 1] == '\t')) n--;
    out[n] = 0;
    return (Normalised){.bytes = n, .replaced = replaced};
}

/*
 * One pass over the bytes, from one buffer into another that is as large: what comes out is never
 * longer, but for U+FFFD (three bytes for one), which the caller's room allows for. Blanks at a
 * line's end are taken back when the end is met, and blank lines at the beginning are never begun.
 */
#include "10_full_model/data/normalise.h"

#include "common/core/utf8.h"

#include <stdbool.h>
#include <string.h>

static bool is_dropped(const char *s, int length) {
    return utf8_is_control(s, length) || (length == 3 && memcmp(s, "\xEF\xBB\xBF", 3) == 0);
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
        if (is_dropped(s, length)) continue;
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

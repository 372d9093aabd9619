/*
 * One spelling for what is one text: what editors, systems and copying leave behind is taken
 * away, nothing that is read.
 *
 *   line ends            \r\n and \r become \n
 *   spaces, tabs         at the end of a line go
 *   blank lines          at the beginning and the end of the document go
 *   control characters   (C0 but tab and newline, DEL, C1) go; so does U+FEFF, the byte order mark
 *   invalid UTF-8        becomes U+FFFD, one for each longest piece that begins a character (as in
 *                        Python and in browsers)
 *   the end-of-text      marker becomes a line end: its token must stand between documents only
 *
 * Not done: Unicode's NFC (é as one character or as e and an accent stay different), for its
 * tables are a library's work; and quotes, dashes, cases and double spaces stay, for they carry
 * meaning. normalise(normalise(x)) = normalise(x).
 */
#ifndef NORMALISE_H
#define NORMALISE_H

#include <stddef.h>

typedef struct Normalised {
    size_t bytes;
    size_t replaced; /* pieces of invalid UTF-8 */
} Normalised;

/* out has room for 3 * bytes + 1 (U+FFFD is three bytes long); the result is zero-terminated.
 * marker may be NULL. */
Normalised normalise(const char *text, size_t bytes, const char *marker, char *out);

#endif

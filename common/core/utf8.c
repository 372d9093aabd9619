/*
 * C1 controls are U+0080 .. U+009F, two bytes each (C2 80 .. C2 9F); a terminal that is not set to
 * UTF-8 takes the single bytes 80 .. 9F for them, which is why bytes that are no character are
 * shown, too.
 */
#include "common/core/utf8.h"

#include "common/core/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int utf8_beyond_ascii(const char *text, size_t left) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned char c = s[0];
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

char *terminal_text(const char *text, size_t bytes) {
    char *out = must_alloc(4 * bytes + 1, 1), *end = out;
    for (size_t i = 0; i < bytes;) {
        int length = utf8_character(text + i, bytes - i);
        if (length > 0 && !utf8_is_control(text + i, length)) {
            memcpy(end, text + i, (size_t)length);
            end += length;
        } else {
            int code = length == 2 ? (unsigned char)text[i + 1] : (unsigned char)text[i];
            end += sprintf(end, "<%02X>", (unsigned)code);
        }
        i += length > 0 ? (size_t)length : 1;
    }
    *end = 0;
    return out;
}

void terminal_write(FILE *out, const char *text, size_t bytes) {
    if (!isatty(fileno(out))) {
        fwrite(text, 1, bytes, out);
        return;
    }
    char *shown = terminal_text(text, bytes);
    fputs(shown, out);
    free(shown);
}

void terminal_print(FILE *out, const char *text) { terminal_write(out, text, strlen(text)); }

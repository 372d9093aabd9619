/*
 * Characters, and what a terminal gets to see of them.
 */
#define _GNU_SOURCE
#include "common/core/utf8.h"
#include "common/files/json.h"
#include "common/program/testing.h"

#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *text, *shown;
} cases[] = {
    {"plain\ttext\n", "plain\ttext\n"},
    {"\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80", "\xC3\xA9 \xE4\xB8\xAD \xF0\x9F\x98\x80"},
    {"\x1B]0;title\x07", "<1B>]0;title<07>"},
    {"a\rb\b\x7F", "a<0D>b<08><7F>"},
    {"\xC2\x9B"
     "31m\xC2\x80\xC2\x9F\xC2\xA0",
     "<9B>31m<80><9F>\xC2\xA0"}, /* C1, and what is none */
    {"\x9B"
     "31m",
     "<9B>31m"}, /* the same in Latin-1 */
    {"\xE4\xB8", "<E4><B8>"},
    {"\xED\xA0\x80", "<ED><A0><80>"},
    {"", ""},
};

Test(utf8, what_a_terminal_would_obey_is_shown) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_str_eq(terminal_text(cases[i].text, strlen(cases[i].text)), cases[i].shown,
                         "case %zu", i);
}

/* To a terminal as above, and to anything else byte by byte. */
Test(utf8, only_terminals_are_spared) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char got[100] = "", *text = NULL;
        size_t size;
        FILE *memory = open_memstream(&text, &size);
        terminal_print(memory, cases[i].text);
        fclose(memory);
        cr_expect(size == strlen(cases[i].text) && !memcmp(text, cases[i].text, size));
        free(text);

        int master, slave;
        cr_assert(openpty(&master, &slave, NULL, NULL, NULL) == 0);
        FILE *terminal = fdopen(slave, "w");
        terminal_print(terminal, cases[i].text);
        fputs(".", terminal);
        fflush(terminal);
        for (size_t length = 0; !length || got[length - 1] != '.';) { /* it may come in pieces */
            ssize_t more = read(master, got + length, sizeof got - 1 - length);
            cr_assert(more > 0);
            length += (size_t)more;
        }
        char *line_end = strstr(got, "\r\n"); /* the terminal's own */
        if (line_end) memmove(line_end, line_end + 1, strlen(line_end));
        char wanted[100];
        snprintf(wanted, sizeof wanted, "%s.", cases[i].shown);
        cr_expect_str_eq(got, wanted, "case %zu", i);
        fclose(terminal);
        close(master);
    }
}

Test(utf8, names_are_fit_to_be_shown) {
    cr_expect_str_eq(name_text("a\x1B[m\xC2\x9B"
                               "b\n\xFF")
                         .text,
                     "a?[m?b??");
    char name[200] = "";
    for (int i = 0; i < 60; i++) strcat(name, "\xC3\xA9");
    cr_expect_str_eq(name_text(name).text + 80, "...", "not cut within a character");
    cr_expect_str_eq(name_text("x"
                               "\xC3\xA9")
                         .text,
                     "x\xC3\xA9");
}

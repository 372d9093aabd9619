/*
 * What the page should have said: a chapter's figures as a native program, linked with the
 * chapter's own library. It reads questions from stdin, a line each,
 *
 *     FIGURE NAME=VALUE NAME=VALUE ...        tabs between them
 *
 * and prints each answer as a line of JSON. tools/book/test_book.py compares them with the page's.
 */
#define _GNU_SOURCE /* dlsym's RTLD_DEFAULT */
#include "common/program/web.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void read_model(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) fatal("%s cannot be read", path);
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    if (fread(web_room(size), 1, size, f) != size) fatal("%s cannot be read", path);
    fclose(f);
}

int main(int argc, char **argv) {
    char *line = NULL;
    size_t capacity = 0;
    if (argc > 1) read_model(argv[1]);
    while (getline(&line, &capacity, stdin) > 0) {
        line[strcspn(line, "\n")] = 0;
        char *inputs = line + strcspn(line, "\t"), name[128];
        snprintf(name, sizeof name, "web_figure_%.*s", (int)(inputs - line), line);
        if (*inputs) inputs++;
        for (char *c = inputs; *c; c++) *c = *c == '\t' ? '\n' : *c;
        void (*figure)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, name);
        if (!figure) fatal("there is no figure %s", name);
        memcpy(web_input(strlen(inputs)), inputs, strlen(inputs));
        figure();
        puts(web_answer());
        fflush(stdout);
    }
    free(line);
    return 0;
}

/*
 * Names of parameters, made of a prefix and a last part.
 */
#ifndef FULL_NAME_H
#define FULL_NAME_H

#include <stdio.h>

typedef struct FullName {
    char text[256];
} FullName;

/* "PREFIX.name", by value: its text lives as long as the expression that calls. */
static inline FullName full_name(const char *prefix, const char *name) {
    FullName full;
    snprintf(full.text, sizeof full.text, "%s.%s", prefix, name);
    return full;
}

#endif

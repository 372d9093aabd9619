/*
 * How a page of the book asks a chapter: by name, with named inputs, for named answers.
 *
 *     WEB(heat_map) {                             the page calls  heat_map
 *         int dim = web_int("dim", 1, 256);       its input "dim", held within the limits
 *         ...
 *         web_floats("weights", p, n * n);        becomes answer.weights in the page
 *     }
 *
 * A function takes its inputs from where web.c has put them, computes with the chapter's own
 * functions, and says what the page is to show; drawing is the page's business. It may keep state
 * between calls (a model that trains); work of more than a tenth of a second is cut into calls.
 *
 * The same file is compiled twice: by clang to WebAssembly, and natively into the program that the
 * tests compare the page's numbers with.
 *
 * Invariant: whatever a page sends, an input is within its limits when a figure sees it.
 */
#ifndef COMMON_WEB_H
#define COMMON_WEB_H

#include "common/core/context.h"

#ifdef __wasm__
#define WEB(name)                                                     \
    __attribute__((export_name(#name))) void web_figure_##name(void); \
    void web_figure_##name(void)
#else
#define WEB(name)                 \
    void web_figure_##name(void); \
    void web_figure_##name(void)
#endif

/* ---- inputs ---- */

/* A missing one, or one that is no number, is `least`. */
double web_number(const char *name, double least, double most);
int web_int(const char *name, int least, int most);
/* Of at most `size` - 1 bytes, cut between characters; "" when it is missing. */
void web_text(char *to, size_t size, const char *name);
/* A file of the page's: bytes that it put into memory before it asked (10: the model). */
const void *web_file(size_t *size);
/* Numbers of a text, "1, 2.5 -3": at most `most` of them, each held within the limits. Returns how
 * many. */
int web_list(float *to, int most, const char *name, double least, double high);

/* ---- answers ---- */

void web_value(const char *name, double value); /* NaN and infinity become null */
void web_floats(const char *name, const float *values, int64_t count);
void web_doubles(const char *name, const double *values, int64_t count);
void web_ints(const char *name, const int32_t *values, int64_t count);
void web_string(const char *name, const char *text);
/* The numbers of a tensor, from its device. */
void web_tensor(Context *ctx, const char *name, const Tensor *t);

/* Seconds of a clock that only goes forward. */
double web_seconds(void);

/* Opens a context on the CPU in F32; nothing can go wrong there. */
void web_context(Context *ctx, uint64_t seed);

/* ---- the page's side: around each call of a figure ---- */

/* Room for `size` bytes of lines NAME=VALUE, to be written before the call; what was said is
 * forgotten. */
char *web_input(size_t size);
/* Behind it: all that was said, as a JSON object. Good until the next call. */
const char *web_answer(void);
/* Room for a file, once. */
char *web_room(size_t size);

#endif

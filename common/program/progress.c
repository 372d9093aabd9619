/*
 * How it draws: the line is made as wide as the terminal at most (one that wraps could not be
 * redrawn) and printed after a carriage return. Where there is little room the bar, which has cells
 * of eighths, gives up its own first, then the text is cut; the time left stands at the end and
 * stays. It is that of the rest at the mean speed since the start. Off a terminal the distance
 * between two lines grows with the time already spent.
 */
#include "common/program/progress.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR_WIDTH = 24 };
static const double REDRAW = 0.1;     /* seconds between two drawings on a terminal */
static const double LINE_EVERY = 2;   /* seconds between two plain lines at the least, and */
static const double LINE_SHARE = 0.1; /* at least this share of the time already spent */

double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

char *format_time(char *buffer, size_t size, double seconds) {
    /* An estimate can be anything; a year is as good as never. */
    int64_t s = seconds >= 0 && seconds < 3e7 ? (int64_t)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(buffer, size, "%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60),
                 (int)(s % 60));
    else
        snprintf(buffer, size, "%d:%02d", (int)(s / 60), (int)(s % 60));
    return buffer;
}

char *format_count(char *buffer, size_t size, int64_t n) {
    char digits[32];
    /* The magnitude as unsigned: INT64_MIN has no positive counterpart. */
    uint64_t magnitude = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    int length = snprintf(digits, sizeof digits, "%" PRIu64, magnitude);
    size_t used = 0;
    if (n < 0 && used + 1 < size) buffer[used++] = '-';
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0 && used + 1 < size) buffer[used++] = ',';
        if (used + 1 < size) buffer[used++] = digits[i];
    }
    if (size) buffer[used] = 0;
    return buffer;
}

static int terminal_width(void) {
    struct winsize window;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) return window.ws_col;
    return 80;
}

/* A bar of `cells` cells, drawn in eighths of a cell. */
static void draw_bar(char *bar, int cells, double share) {
    static const char *const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    int filled = (int)(share * cells * 8);
    *bar = 0;
    for (int cell = 0; cell < cells; cell++) {
        int here = filled - 8 * cell;
        strcat(bar, here >= 8 ? "█" : eighths[here > 0 ? here : 0]);
    }
}

/* The first so many characters of a text in UTF-8, in bytes; *characters: how many it has, too. */
static int bytes_of(const char *text, int *characters) {
    int most = *characters;
    *characters = 0;
    const char *end = text;
    for (; *end; end++) {
        bool begins = ((unsigned char)*end & 0xC0) != 0x80;
        if (begins && *characters == most) break;
        *characters += begins;
    }
    return (int)(end - text);
}

/* The line again, in `columns` characters at most. */
static void redraw(const char *label, double share, const char *text, const char *left,
                   int columns) {
    char bar[BAR_WIDTH * 4 + 1], percent[8];
    int wanted = INT_MAX, name = INT_MAX, end = (int)strlen(left) + (int)strlen(" left");
    bytes_of(text, &wanted), bytes_of(label, &name);
    int room = columns - name - (int)strlen("  100%    ") - end;
    int cells = room - wanted < 0 ? 0 : room - wanted < BAR_WIDTH ? room - wanted : BAR_WIDTH;
    draw_bar(bar, cells, share);
    snprintf(percent, sizeof percent, "%3d%%", (int)(100 * share));
    room = room < 0 ? 0 : room - cells;
    int bytes = bytes_of(text, &room);
    fprintf(stderr, "\r%s %s %s  %.*s  %s left\033[K", label, bar, percent, bytes, text, left);
}

Progress progress_start(const char *label, int64_t total) {
    const char *kind = getenv("TERM");
    return (Progress){.label = label,
                      .total = total,
                      .started = seconds_now(),
                      .drawn = -1e9, /* the first update is shown at once */
                      .terminal = isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0};
}

void progress_skip(Progress *progress, int64_t done) { progress->skipped = done; }

void progress_update(Progress *progress, int64_t done, const char *format, ...) {
    double now = seconds_now(), spent = now - progress->started;
    double every = LINE_EVERY > LINE_SHARE * spent ? LINE_EVERY : LINE_SHARE * spent;
    if (now - progress->drawn < (progress->terminal ? REDRAW : every)) return;
    progress->drawn = now;

    double share = progress->total > 0 ? (double)done / (double)progress->total : 0;
    share = share < 0 ? 0 : share > 1 ? 1 : share;
    char text[512], left[32] = "?";
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (progress->total > 0 && done > progress->skipped) {
        double each = spent / (double)(done - progress->skipped);
        format_time(left, sizeof left, each * (double)(progress->total - done));
    }

    if (progress->terminal) {
        redraw(progress->label, share, text, left, terminal_width() - 1);
    } else {
        fprintf(stderr, "%s %3d%%  %s  %s left\n", progress->label, (int)(100 * share), text, left);
        progress->lines++;
    }
    fflush(stderr);
}

void progress_clear(Progress *progress) {
    if (!progress->terminal) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    progress->drawn = -1e9;
}

/* The line that stays: label, `how` it ended, after what time, and the text. */
static void last_line(const Progress *progress, const char *how, const char *format, va_list args) {
    char text[512] = "", spent[32];
    if (format) vsnprintf(text, sizeof text, format, args);
    format_time(spent, sizeof spent, seconds_now() - progress->started);
    fprintf(stderr, "%s%s  %s %s%s%s\n", progress->terminal ? "\r\033[K" : "", progress->label, how,
            spent, *text ? "  " : "", text);
    fflush(stderr);
}

void progress_finish(Progress *progress, const char *format, ...) {
    va_list args;
    va_start(args, format);
    last_line(progress, "done in", format, args);
    va_end(args);
}

void progress_stop(Progress *progress, const char *format, ...) {
    va_list args;
    va_start(args, format);
    last_line(progress, "stopped after", format, args);
    va_end(args);
}

char *format_number(char *buffer, size_t size, double number) {
    bool is_float = (double)(float)number == number;
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(buffer, size, "%.*g", digits, number);
        if (is_float ? strtof(buffer, NULL) == (float)number : strtod(buffer, NULL) == number)
            break;
    }
    return buffer;
}

/*
 * How it draws: the line is made in a buffer, cut to the terminal's width (a line that wraps could
 * not be redrawn), and printed after a carriage return. The bar has cells of eighths. The time left
 * is that of the rest at the mean speed since the start. Off a terminal the distance between two
 * lines grows with the time already spent.
 */
#include "common/program/progress.h"

#include <inttypes.h>
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

/* Prints at most `columns` characters: a line that wraps could not be redrawn. */
static void print_cut(const char *text, int columns) {
    const char *end = text;
    for (int used = 0; *end; end++) {
        bool begins = ((unsigned char)*end & 0xC0) != 0x80; /* of a UTF-8 sequence */
        if (begins && ++used > columns) break;
    }
    fwrite(text, 1, (size_t)(end - text), stderr);
}

/* A bar of BAR_WIDTH cells, drawn in eighths of a cell. */
static void draw_bar(char *bar, double share) {
    static const char *const eighths[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    int filled = (int)(share * BAR_WIDTH * 8);
    *bar = 0;
    for (int cell = 0; cell < BAR_WIDTH; cell++) {
        int here = filled - 8 * cell;
        strcat(bar, here >= 8 ? "█" : eighths[here > 0 ? here : 0]);
    }
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

    char line[1024];
    if (progress->terminal) {
        char bar[BAR_WIDTH * 4 + 1];
        draw_bar(bar, share);
        snprintf(line, sizeof line, "%s %s %3d%%  %s  %s left", progress->label, bar,
                 (int)(100 * share), text, left);
        fputc('\r', stderr);
        print_cut(line, terminal_width() - 1);
        fputs("\033[K", stderr); /* clears what a longer line left behind */
    } else {
        fprintf(stderr, "%s %3d%%  %s  %s left\n", progress->label, (int)(100 * share), text, left);
        progress->lines++;
    }
    fflush(stderr);
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

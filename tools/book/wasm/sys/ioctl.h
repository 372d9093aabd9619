/* progress.c asks how wide the terminal is; there is none. */
#ifndef BOOK_IOCTL_H
#define BOOK_IOCTL_H

#include_next <sys/ioctl.h>

enum { TIOCGWINSZ = 0x5413 };
struct winsize {
    unsigned short ws_row, ws_col;
};

#endif

/*
 * Ctrl-C, and its like: what ends a run in the ordinary way.
 *
 * SIGINT, SIGTERM, SIGHUP (a terminal that is closed) and SIGPIPE (a reader of our output that has
 * gone, `| head`) are noted, and a run looks at the note between two steps, saves and stops. The
 * first three end the process at once when they come a second time. A closing that was ignored
 * before (nohup) is still ignored.
 */
#ifndef INTERRUPT_H
#define INTERRUPT_H

/* From here on they are noted; nothing has come yet. */
void interrupt_catch(void);
/* They do again what they did before. */
void interrupt_release(void);

/* The last one that came; 0: none. */
int interrupt_signal(void);

#endif

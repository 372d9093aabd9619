/*
 * posix_spawn with a pipe: stdin is /dev/null, stdout and stderr share the pipe. All that is
 * written is read, and what does not fit is dropped, so that the child never blocks on a full pipe;
 * then its status is waited for.
 */
#define _GNU_SOURCE /* pipe2 */
#include "common/files/process.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Reads until the other end is closed; what does not fit is read and dropped, so that the writer
 * never blocks. */
static void read_all(int fd, char *output, size_t size) {
    size_t used = 0;
    for (;;) {
        char buffer[4096];
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        size_t room = size - 1 - used, take = (size_t)got < room ? (size_t)got : room;
        memcpy(output + used, buffer, take);
        used += take;
    }
    output[used] = 0;
}

int process_run(const char *const argv[], char *output, size_t size, Error *err) {
    CHECK(size > 0, "no room for the output");
    output[0] = 0;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) return error_set(err, "%s: %s", argv[0], strerror(errno));

    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
    pid_t child;
    /* The cast: posix_spawn promises not to write to argv, but its type dates from before const. */
    int failed = posix_spawnp(&child, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failed) {
        close(ends[0]);
        if (failed == ENOENT) return PROCESS_MISSING;
        return error_set(err, "%s: %s", argv[0], strerror(failed));
    }
    read_all(ends[0], output, size);
    close(ends[0]);

    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return error_set(err, "%s: %s", argv[0], strerror(errno));
    if (WIFSIGNALED(status)) return error_set(err, "%s: %s", argv[0], strsignal(WTERMSIG(status)));
    return WEXITSTATUS(status);
}

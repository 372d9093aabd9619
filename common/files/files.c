/*
 * Reading by mmap, replacing by rename.
 *
 * Who reads a page that a shortened file no longer has gets SIGBUS. All mappings are in a list,
 * which a handler of that signal can read at any moment: places are added at its head and never
 * freed, only used again. So it can name the file, where otherwise the program would just be gone.
 *
 * Invariant of an AtomicFile: while stream is open, `temporary` exists and `path` is as it was
 * before atomic_open(). Every way out (commit, failed commit, abandon) closes the stream and
 * leaves no temporary file.
 */
#define _GNU_SOURCE /* program_invocation_short_name */
#include "common/files/files.h"

#include "common/core/memory.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ---- */

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "a directory";
    if (S_ISCHR(mode) || S_ISBLK(mode)) return "a device";
    if (S_ISFIFO(mode)) return "a pipe";
    if (S_ISSOCK(mode)) return "a socket";
    return "a special file";
}

typedef struct Mapping {
    const char *data;
    size_t size; /* 0: free to be used again */
    char *path;
    struct Mapping *next;
} Mapping;

static Mapping *volatile mappings;
static pthread_mutex_t mappings_lock = PTHREAD_MUTEX_INITIALIZER;

static void say(const char *text) { (void)!write(2, text, strlen(text)); }

/* Only what a signal handler may call. */
static void on_lost_page(int signal, siginfo_t *info, void *context) {
    (void)context;
    const char *at = info->si_addr;
    for (const Mapping *m = mappings; m; m = m->next) {
        if (at < m->data || at >= m->data + m->size) continue;
        say("\n"), say(program_invocation_short_name), say(": ");
        say(m->path);
        say(" has become shorter, or cannot be read any more, while it was being read. Restore it, "
            "or wait until it is complete, and begin again\n");
        _exit(1);
    }
    struct sigaction usual = {.sa_handler =
                                  SIG_DFL}; /* not a file's: it comes again, and ends us */
    sigaction(signal, &usual, NULL);
}

static void remember_mapping(const MappedFile *file, const char *path) {
    pthread_mutex_lock(&mappings_lock);
    if (!mappings) {
        struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
        sigaction(SIGBUS, &action, NULL);
    }
    Mapping *m = mappings;
    while (m && m->size) m = m->next;
    if (m) free(m->path);
    Mapping *place = m ? m : must_alloc(1, sizeof *place);
    place->path = must_strdup(path);
    place->data = file->data;
    place->size = file->size;
    if (!m) {
        place->next = mappings;
        mappings = place;
    }
    pthread_mutex_unlock(&mappings_lock);
}

static void forget_mapping(const MappedFile *file) {
    pthread_mutex_lock(&mappings_lock);
    for (Mapping *m = mappings; m; m = m->next)
        if (m->data == file->data) m->size = 0;
    pthread_mutex_unlock(&mappings_lock);
}

static int map_descriptor(MappedFile *file, int fd, const char *path, Error *err) {
    struct stat info;
    if (fstat(fd, &info) < 0) return error_set(err, "cannot read %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return error_set(err, "cannot read %s: it is %s, not a file", path, kind_of(info.st_mode));
    if (info.st_size == 0) { /* mmap refuses length 0 */
        *file = (MappedFile){.data = "", .size = 0};
        return 0;
    }
    void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return error_set(err, "cannot map %s: %s", path, strerror(errno));
    *file = (MappedFile){.data = data, .size = (size_t)info.st_size};
    remember_mapping(file, path);
    return 0;
}

int file_map(MappedFile *file, const char *path, Error *err) {
    *file = (MappedFile){.data = "", .size = 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not make us wait */
    if (fd < 0) return error_set(err, "cannot open %s: %s", path, strerror(errno));
    int result = map_descriptor(file, fd, path, err);
    close(fd); /* the mapping stays */
    return result;
}

void file_unmap(MappedFile *file) {
    if (file->size) {
        forget_mapping(file);
        munmap((void *)file->data, file->size);
    }
    *file = (MappedFile){.data = "", .size = 0};
}

/* ---- writing ---- */

/* file->path becomes what `path` really is (the file behind a link), *mode what it will have. */
static int resolve_target(AtomicFile *file, const char *path, mode_t *mode, Error *err) {
    struct stat info;
    char real[PATH_MAX];
    *mode = 0; /* no such file yet: the umask decides */
    if (stat(path, &info) == 0) {
        /* Renaming over /dev/null would replace the device by a file. */
        if (!S_ISREG(info.st_mode))
            return error_set(err, "cannot write %s: it is %s, not a file", path,
                             kind_of(info.st_mode));
        *mode = info.st_mode & 0777;
        if (realpath(path, real)) path = real;
    } else if (errno != ENOENT) {
        return error_set(err, "cannot write %s: %s", path, strerror(errno));
    }
    if (strlen(path) >= sizeof file->path)
        return error_set(err, "cannot write %.80s...: the path is longer than %zu bytes", path,
                         sizeof file->path - 1);
    strcpy(file->path, path);
    return 0;
}

/* atomic_open() and replacement_open() make NAME.PID-N.tmp: back over each part, from the end. */
bool file_is_temporary(const char *name, char *base, size_t size) {
    const char *at = name + strlen(name);
    if (at - name < 4 || strcmp(at -= 4, ".tmp")) return false;
    for (const char *before = "-."; *before; before++) { /* a number, and what stands before it */
        const char *end = at;
        while (at > name && isdigit((unsigned char)at[-1])) at--;
        if (at == end || at == name || *--at != *before) return false;
    }
    return at > name && (size_t)snprintf(base, size, "%.*s", (int)(at - name), name) < size;
}

int atomic_open(AtomicFile *file, const char *path, Error *err) {
    mode_t mode;
    file->stream = NULL;
    if (resolve_target(file, path, &mode, err) < 0) return -1;

    /* Not mkstemp(): it makes files that only their owner can read. A killed run may have left
     * a temporary file with our process number; its name is passed over. */
    int fd = -1;
    for (int attempt = 0; fd < 0 && attempt < 1000; attempt++) {
        snprintf(file->temporary, sizeof file->temporary, "%s.%ld-%d.tmp", file->path,
                 (long)getpid(), attempt);
        fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd < 0) return error_set(err, "cannot write %s: %s", path, strerror(errno));
    if (mode) (void)!fchmod(fd, mode); /* a courtesy: fails only where modes do not exist */
    file->stream = fdopen(fd, "wb");
    if (!file->stream) {
        close(fd);
        unlink(file->temporary);
        return error_set(err, "cannot write %s: %s", path, strerror(errno));
    }
    return 0;
}

void atomic_abandon(AtomicFile *file) {
    if (!file->stream) return;
    fclose(file->stream);
    file->stream = NULL;
    unlink(file->temporary);
}

int directory_sync(const char *directory, Error *err) {
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return 0; /* a directory we may write but not read: nothing more can be done */
    int failed = fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP;
    int code = errno;
    close(fd);
    if (!failed) return 0;
    return error_set(err, "%s could not be flushed to disk: %s", directory, strerror(code));
}

static int sync_directory_of(const char *path, Error *err) {
    char directory[512];
    snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    if (!slash)
        strcpy(directory, ".");
    else if (slash == directory)
        directory[1] = 0;
    else
        *slash = 0;
    return directory_sync(directory, err);
}

int atomic_commit(AtomicFile *file, Error *err) {
    CHECK(file->stream, "atomic_commit: nothing is open");
    FILE *stream = file->stream;
    int failed = ferror(stream), code = 0;
    /* Why an earlier write failed is forgotten by now; one more byte fails for the same reason. */
    if (failed && write(fileno(stream), "", 1) < 0) code = errno;
    if (!failed && (fflush(stream) != 0 || fsync(fileno(stream)) < 0)) {
        failed = 1;
        code = errno;
    }
    if (fclose(stream) != 0 && !failed) {
        failed = 1;
        code = errno;
    }
    file->stream = NULL;
    if (!failed && rename(file->temporary, file->path) < 0) {
        failed = 1;
        code = errno;
    }
    if (failed) {
        unlink(file->temporary);
        return error_set(err, "cannot write %s: %s (the file is as it was before)", file->path,
                         code ? strerror(code) : "a write failed");
    }
    return sync_directory_of(file->path, err)
               ? error_prefix(err, "wrote %s, but its directory ", file->path)
               : 0;
}

/* ---- directories ---- */

PathText file_path(const char *directory, const char *name) {
    PathText path;
    snprintf(path.text, sizeof path.text, "%s/%s", directory, name);
    return path;
}

static int make_directory(const char *path, Error *err) {
    struct stat info;
    if (mkdir(path, 0777) == 0) return 0;
    int code = errno;
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) return 0;
        code = ENOTDIR;
    }
    return error_set(err, "cannot create the directory %s: %s", path, strerror(code));
}

int make_directories_above(const char *path, Error *err) {
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0) return 0;
    if (length >= sizeof part) return error_set(err, "the path %.80s... is too long", path);
    memcpy(part, path, length + 1);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (make_directory(part, err) < 0) return -1;
        *slash = '/';
    }
    return 0;
}

int make_directories(const char *path, Error *err) {
    if (!*path) return 0; /* the directory of "file" is here */
    return make_directories_above(path, err) ? -1 : make_directory(path, err);
}

static int first_folder(const char *path) {
    const char *slash = strchr(path, '/');
    return slash ? (int)(slash - path) : 0;
}

bool project_owns(const char *path) {
    return strncmp(path, "common/", 7) == 0 ||
           (first_folder(path) > 2 && isdigit((unsigned char)path[0]) &&
            isdigit((unsigned char)path[1]));
}

int project_path(char *buffer, size_t size, const char *path, Error *err) {
    const char *prefix = "";
    int first = first_folder(path);
    const char *const above[] = {"", "../", "../../"};
    for (size_t i = 0; project_owns(path) && i < sizeof above / sizeof *above; i++) {
        char folder[PATH_MAX];
        struct stat info;
        snprintf(folder, sizeof folder, "%s%.*s", above[i], first, path);
        if (stat(folder, &info) == 0 && S_ISDIR(info.st_mode)) {
            prefix = above[i];
            break;
        }
    }
    if ((size_t)snprintf(buffer, size, "%s%s", prefix, path) >= size)
        return error_set(err, "%s: the path is longer than %zu characters", path, size - 1);
    return 0;
}

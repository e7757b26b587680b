// A disk under a real process: preloaded, it stands between the process and the system calls on files below one folder.
//
// It does three things, each asked for by an environment variable (the test sets them, see shim.rs):
//
//   MAILRING_SHIM_ROOT    the folder; an absolute path without links
//   MAILRING_SHIM_SHADOW  a folder on the same file system that tells what a loss of power would leave
//   MAILRING_SHIM_DIE_AT  kill the process at its n-th change of the folder, before it is made
//   MAILRING_SHIM_FAIL    "KIND PART ERRNO FIRST PERIOD TIMES": fail calls number FIRST, FIRST + PERIOD, .. of one kind, on
//                         files whose path contains PART
//   MAILRING_SHIM_LIE     "KIND PART": forces of files whose path contains PART say that they are done, and do nothing
//
// The files themselves are written as ever, so the process sees what it wrote: they are the page cache. The shadow is the
// medium. A force copies to it exactly what it promises, and nothing else does:
//
//   pins/INODE     a hard link to the file, which keeps the number from being given to another file
//   durable/INODE  the file's contents that are forced; missing while there are none
//   dirs/INODE     the directory's entries that are forced, "INODE f|d NAME" a line; missing while there are none
//
// So a file is on the medium when its contents were forced, and has a name there when its directory was. A force copies
// what *this process* has written since the last one, successful or not: after a failed force the kernel calls the pages
// clean, and nobody may rely on a later force for them. What a call does while it is killed is done in part, as on a disk.
//
// Reads and changes are failed as the plan says. A failed write has written its first half. ERRNO 0 is no error but a
// write of the first half.
//
// Left out: whatever the engine does not do. Files that are open for direct or synchronous I/O, or to append, end the
// process with a message. Directories are never renamed or removed. The file whose rename goes by a raw system call (a
// tree's pointer) is seen in its directory like any other, but that call is not failed.

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

// How long a force takes. While it does, others write and die.
#define FORCE_MICROSECONDS 100

// The next definition of a function: the C library's.
#define REAL(name)                                                \
    ({                                                            \
        static __typeof__(&name) real;                            \
        if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
        real;                                                     \
    })

enum kind { OPEN, CREATE, LIST, STAT, READ, WRITE, FSYNC, FDATASYNC, DIRSYNC, RENAME, UNLINK, MKDIR, KINDS };
static const char *const names[KINDS] = {"open",  "create",    "list",    "stat",   "read",   "write",
                                         "fsync", "fdatasync", "dirsync", "rename", "unlink", "mkdir"};

#define SHORT 0
#define NO_ERROR -1

static const char *root, *shadow;
static unsigned long die_at;
static struct {
    char kind[16], part[PATH_MAX];
    int error;
    unsigned long first, period, times;
    atomic_ulong count;
} plan;
static struct {
    char kind[16], part[PATH_MAX];
} lie;

static atomic_ulong counts[KINDS], changes;

// What was written and not forced. The lock is held while a force copies, so that no other one returns before.
struct dirty {
    ino_t inode;
    off_t from, to;
    struct dirty *next;
};
static struct dirty *dirty;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char *what) {
    fprintf(stderr, "shim: %s: %s\n", what, strerror(errno));
    abort();
}

// ---------------------------------------------------------------------------------------------------------- the plan

static int shadow_file(const char *folder, unsigned long name, const char *suffix, int flags) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s/%lu%s", shadow, folder, name, suffix);
    return open(path, flags, 0644);
}

__attribute__((constructor)) static void begin(void) {
    const char *text;
    shadow = getenv("MAILRING_SHIM_SHADOW");
    if ((text = getenv("MAILRING_SHIM_DIE_AT"))) die_at = strtoul(text, NULL, 10);
    if ((text = getenv("MAILRING_SHIM_FAIL")) &&
        sscanf(text, "%15s %4095s %d %lu %lu %lu", plan.kind, plan.part, &plan.error, &plan.first, &plan.period,
               &plan.times) != 6)
        give_up("MAILRING_SHIM_FAIL");
    if ((text = getenv("MAILRING_SHIM_LIE")) && sscanf(text, "%15s %4095s", lie.kind, lie.part) != 2)
        give_up("MAILRING_SHIM_LIE");
    root = shadow ? getenv("MAILRING_SHIM_ROOT") : NULL;
}

// Who ends by himself leaves the number of calls of each kind, and of changes.
__attribute__((destructor)) static void end(void) {
    char path[PATH_MAX];
    if (!root) return;
    snprintf(path, sizeof path, "%s/counts", shadow);
    FILE *file = fopen(path, "w");
    if (!file) return;
    for (int kind = 0; kind < KINDS; kind++) fprintf(file, "%s %lu\n", names[kind], counts[kind]);
    fprintf(file, "changes %lu\n", changes);
    fclose(file);
}

// The folder's own path does not count.
static int is_part(const char *part, const char *path) { return strstr(path + strlen(root), part) != NULL; }

// Counts a call, dies if it is the last one, and gives the error that it must end with.
static int step(enum kind kind, const char *path) {
    int is_change = kind == CREATE || kind >= WRITE;
    atomic_fetch_add(&counts[kind], 1);
    if (is_change && atomic_fetch_add(&changes, 1) + 1 == die_at) {
        kill(getpid(), SIGKILL);
        pause();
    }
    if (strcmp(plan.kind, names[kind]) || !is_part(plan.part, path)) return NO_ERROR;
    unsigned long number = atomic_fetch_add(&plan.count, 1) + 1;
    if (number < plan.first) return NO_ERROR;
    unsigned long later = number - plan.first;
    return later % plan.period == 0 && later / plan.period < plan.times ? plan.error : NO_ERROR;
}

static int fails(enum kind kind, const char *path) {
    int error = step(kind, path);
    if (error != NO_ERROR) errno = error;
    return error != NO_ERROR;
}

static int is_below_root(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return length && !strncmp(path, root, length) && (!path[length] || path[length] == '/');
}

// The path is that of now, or has " (deleted)" behind it.
static int is_watched(int fd, char path[PATH_MAX]) {
    char link[64];
    if (!root) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return is_below_root(path);
}

// -------------------------------------------------------------------------------------------------------- the medium

static void pin(int fd) {
    char from[64], to[PATH_MAX];
    struct stat stat;
    if (fstat(fd, &stat)) give_up("fstat");
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    snprintf(to, sizeof to, "%s/pins/%lu", shadow, (unsigned long)stat.st_ino);
    int before = errno;
    if (linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) && errno != EEXIST) give_up("a pin");
    errno = before;
}

static void note_written(int fd, off_t from, ssize_t length) {
    struct stat stat;
    if (fstat(fd, &stat)) give_up("fstat");
    off_t to = from + length;
    pthread_mutex_lock(&lock);
    struct dirty *range = dirty;
    while (range && (range->inode != stat.st_ino || range->to < from || range->from > to)) range = range->next;
    if (!range) {
        range = malloc(sizeof *range);
        if (!range) give_up("malloc");
        *range = (struct dirty){stat.st_ino, from, to, dirty};
        dirty = range;
    }
    if (from < range->from) range->from = from;
    if (to > range->to) range->to = to;
    pthread_mutex_unlock(&lock);
}

static void copy_range(int from, int to, off_t offset, off_t end) {
    static char buffer[1 << 16];
    while (offset < end) {
        size_t part = end - offset < (off_t)sizeof buffer ? (size_t)(end - offset) : sizeof buffer;
        ssize_t length = pread(from, buffer, part, offset);
        if (length < 0 || pwrite(to, buffer, length, offset) != length) give_up("copying to the medium");
        if (!length) return;  // The file was cut since.
        offset += length;
    }
}

// Forgets what is dirty in a file, and copies it if `to_medium`.
static void clean(ino_t inode, int to_medium) {
    int from = -1, to = -1;
    if (to_medium) {
        struct stat stat;
        from = shadow_file("pins", inode, "", O_RDONLY);
        to = shadow_file("durable", inode, "", O_WRONLY | O_CREAT);
        if (from < 0 || to < 0 || fstat(from, &stat) || ftruncate(to, stat.st_size)) give_up("a file of the medium");
    }
    for (struct dirty **link = &dirty; *link;) {
        struct dirty *range = *link;
        if (range->inode != inode) {
            link = &range->next;
            continue;
        }
        if (to_medium) copy_range(from, to, range->from, range->to);
        *link = range->next;
        free(range);
    }
    if (to_medium) {
        close(from);
        close(to);
    }
}

static void record_directory(int fd, ino_t inode) {
    char path[PATH_MAX], fresh[PATH_MAX];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR *directory = opendir(path);
    snprintf(path, sizeof path, "%s/dirs/%lu", shadow, (unsigned long)inode);
    snprintf(fresh, sizeof fresh, "%s/fresh", shadow);
    FILE *file = fopen(fresh, "w");
    if (!directory || !file) give_up("a directory of the medium");
    struct dirent64 *entry;
    while ((entry = REAL(readdir64)(directory))) {
        struct stat stat;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        // It may have been removed since.
        if (fstatat(fd, entry->d_name, &stat, AT_SYMLINK_NOFOLLOW)) continue;
        fprintf(file, "%lu %c %s\n", (unsigned long)stat.st_ino, S_ISDIR(stat.st_mode) ? 'd' : 'f', entry->d_name);
    }
    closedir(directory);
    if (fclose(file) || rename(fresh, path)) give_up("a directory of the medium");
}

static int force(int fd, enum kind kind, int (*real)(int)) {
    char path[PATH_MAX];
    struct stat stat;
    if (!is_watched(fd, path)) return real(fd);
    if (fstat(fd, &stat)) give_up("fstat");
    if (S_ISDIR(stat.st_mode)) kind = DIRSYNC;
    int error = step(kind, path);
    if (error == EINTR) {
        errno = error;
        return -1;
    }
    usleep(FORCE_MICROSECONDS);
    int lies = !strcmp(lie.kind, names[kind]) && is_part(lie.part, path);
    int to_medium = error == NO_ERROR && !lies;
    pthread_mutex_lock(&lock);
    if (kind != DIRSYNC)
        clean(stat.st_ino, to_medium);
    else if (to_medium)
        record_directory(fd, stat.st_ino);
    pthread_mutex_unlock(&lock);
    if (error == NO_ERROR) return 0;
    errno = error;
    return -1;
}

int fsync(int fd) { return force(fd, FSYNC, REAL(fsync)); }
int fdatasync(int fd) { return force(fd, FDATASYNC, REAL(fdatasync)); }

// --------------------------------------------------------------------------------------------------------- the files

static int open_file(const char *path, int flags, mode_t mode) {
    int watched = is_below_root(path);
    if (watched) {
        if (flags & (O_DIRECT | O_DSYNC | O_APPEND)) give_up("a file is opened in a way that is not modelled");
        if (fails(flags & O_CREAT ? CREATE : OPEN, path)) return -1;
    }
    int fd = REAL(open64)(path, flags, mode);
    if (watched && fd >= 0 && flags & O_CREAT) pin(fd);
    return fd;
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_file(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_file(path, flags, mode);
}

// At the offset, or where the file stands if that is negative.
static ssize_t write_file(int fd, const void *bytes, size_t length, off_t offset) {
    char path[PATH_MAX];
    int moves = offset < 0;
    if (!is_watched(fd, path))
        return moves ? REAL(write)(fd, bytes, length) : REAL(pwrite64)(fd, bytes, length, offset);
    int error = step(WRITE, path);
    if (error == EINTR) {
        errno = error;
        return -1;
    }
    if (moves) offset = lseek(fd, 0, SEEK_CUR);
    if (error != NO_ERROR) length = (length + 1) / 2;
    ssize_t written = REAL(pwrite64)(fd, bytes, length, offset);
    if (written > 0) note_written(fd, offset, written);
    if (error != NO_ERROR && error != SHORT) {
        errno = error;
        return -1;
    }
    if (moves && written > 0) lseek(fd, offset + written, SEEK_SET);
    return written;
}

ssize_t write(int fd, const void *bytes, size_t length) { return write_file(fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return write_file(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    return write_file(fd, bytes, length, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!is_watched(fd, path)) return REAL(writev)(fd, parts, count);
    // A short write of the first part that has bytes is an answer, too.
    while (count > 1 && !parts->iov_len) parts++, count--;
    return count ? write_file(fd, parts->iov_base, parts->iov_len, -1) : 0;
}

ssize_t read(int fd, void *bytes, size_t length) {
    char path[PATH_MAX];
    return is_watched(fd, path) && fails(READ, path) ? -1 : REAL(read)(fd, bytes, length);
}

ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) {
    char path[PATH_MAX];
    return is_watched(fd, path) && fails(READ, path) ? -1 : REAL(pread64)(fd, bytes, length, offset);
}

// --------------------------------------------------------------------------------------------------------- the names

int rename(const char *from, const char *to) {
    if (!is_below_root(from)) return REAL(rename)(from, to);
    if (fails(RENAME, from)) return -1;
    // A directory that is forced meanwhile has one name or the other.
    pthread_mutex_lock(&lock);
    int result = REAL(rename)(from, to);
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) { return is_below_root(path) && fails(UNLINK, path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { return is_below_root(path) && fails(MKDIR, path) ? -1 : REAL(mkdir)(path, mode); }
DIR *opendir(const char *path) { return is_below_root(path) && fails(LIST, path) ? NULL : REAL(opendir)(path); }

struct dirent64 *readdir64(DIR *directory) {
    char path[PATH_MAX];
    return is_watched(dirfd(directory), path) && fails(LIST, path) ? NULL : REAL(readdir64)(directory);
}

// Under a name without the header's promise that the path is not null: whoever tries whether the call is there gives none.
int find(int at, const char *path, int flags, unsigned mask, void *found) __asm__("statx");
int find(int at, const char *path, int flags, unsigned mask, void *found) {
    char of_file[PATH_MAX];
    int watched = path && *path ? is_below_root(path) : is_watched(at, of_file);
    return watched && fails(STAT, path && *path ? path : of_file) ? -1 : REAL(statx)(at, path, flags, mask, found);
}

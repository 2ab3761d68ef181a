/* Loaded before the C library of a node (LD_PRELOAD), it writes down all that the node does to files under $RECORD_ROOT: to
 * $RECORD_LOG, in the order in which it was done. replay.rs, beside this file, plays any part of that again.
 *
 * One entry: kind u8, nanoseconds of the monotonic clock u64, inode u64, offset u64, lengths of two byte strings u32 each, and
 * the two; all of this machine's byte order. The lock makes the order of the entries the order of the deeds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { OPEN = 1, WRITE, LENGTH, SYNC, SYNC_DIR, RENAME, UNLINK, MKDIR };
enum { FDS = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t watched[FDS];
static int log_fd = -1;
static const char *root;

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("RECORD_LOG");
    root = getenv("RECORD_ROOT");
    if (path && root) log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int is_ours(const char *path) { return log_fd >= 0 && path && !strncmp(path, root, strlen(root)); }
static int is_open(int fd) { return log_fd >= 0 && fd >= 0 && fd < FDS && watched[fd]; }

static void entry(uint8_t kind, uint64_t inode, uint64_t offset, const void *a, uint32_t a_len, const void *b, uint32_t b_len) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint8_t head[33];
    uint64_t words[3] = {(uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, inode, offset};
    uint32_t lengths[2] = {a_len, b_len};
    head[0] = kind;
    memcpy(head + 1, words, 24);
    memcpy(head + 25, lengths, 8);
    struct iovec parts[3] = {{head, sizeof head}, {(void *)a, a_len}, {(void *)b, b_len}};
    int kept = errno;
    if (syscall(SYS_writev, log_fd, parts, 3) != (long)(sizeof head + a_len + b_len)) abort();
    errno = kept;
}

static uint64_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) ? 0 : st.st_ino;
}

static int open_any(const char *path, int flags, mode_t mode) {
    if (!is_ours(path)) return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && fd < FDS) {
        struct stat st;
        fstat(fd, &st);
        watched[fd] = S_ISDIR(st.st_mode) ? 2 : 1;
        uint64_t how = ((flags & O_CREAT) ? 1 : 0) | ((flags & O_TRUNC) ? 2 : 0);
        if (watched[fd] == 1) entry(OPEN, st.st_ino, how, path, strlen(path), "", 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN_LIKE(name)                                              \
    int name(const char *path, int flags, ...) {                     \
        va_list more;                                                \
        va_start(more, flags);                                       \
        mode_t mode = (flags & O_CREAT) ? va_arg(more, mode_t) : 0;  \
        va_end(more);                                                \
        return open_any(path, flags, mode);                          \
    }
OPEN_LIKE(open)
OPEN_LIKE(open64)

int close(int fd) {
    REAL(close);
    if (!is_open(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    watched[fd] = 0;
    int result = real(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    REAL(write);
    if (!is_open(fd)) return real(fd, bytes, len);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, bytes, len);
    if (done > 0) entry(WRITE, inode_of(fd), (uint64_t)(lseek(fd, 0, SEEK_CUR) - done), bytes, (uint32_t)done, "", 0);
    pthread_mutex_unlock(&lock);
    return done;
}

static ssize_t pwrite_any(int fd, const void *bytes, size_t len, off_t at) {
    if (!is_open(fd)) return syscall(SYS_pwrite64, fd, bytes, len, at);
    pthread_mutex_lock(&lock);
    ssize_t done = syscall(SYS_pwrite64, fd, bytes, len, at);
    if (done > 0) entry(WRITE, inode_of(fd), (uint64_t)at, bytes, (uint32_t)done, "", 0);
    pthread_mutex_unlock(&lock);
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite_any(fd, bytes, len, at); }
ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t at) { return pwrite_any(fd, bytes, len, at); }

static int truncate_any(int fd, off_t len) {
    if (!is_open(fd)) return (int)syscall(SYS_ftruncate, fd, len);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_ftruncate, fd, len);
    if (!result) entry(LENGTH, inode_of(fd), (uint64_t)len, "", 0, "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate(int fd, off_t len) { return truncate_any(fd, len); }
int ftruncate64(int fd, off_t len) { return truncate_any(fd, len); }

static int sync_any(int fd, long number) {
    if (!is_open(fd)) return (int)syscall(number, fd);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(number, fd);
    if (!result && watched[fd] == 2) {
        char link[64], path[4096];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t len = readlink(link, path, sizeof path);
        if (len > 0) entry(SYNC_DIR, 0, 0, path, (uint32_t)len, "", 0);
    } else if (!result) {
        entry(SYNC, inode_of(fd), 0, "", 0, "", 0);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

int rename(const char *from, const char *to) {
    if (!is_ours(to)) return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (!result) entry(RENAME, 0, 0, from, strlen(from), to, strlen(to));
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) {
    if (!is_ours(path)) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!result) entry(UNLINK, 0, 0, path, strlen(path), "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    if (!is_ours(path)) return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!result) entry(MKDIR, 0, 0, path, strlen(path), "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

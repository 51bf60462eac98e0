/*
 * Preloaded into the server under test: a disk whose syncs can be made to fail, and that
 * remembers what was synced, so that a test can take away all that was not.
 *
 * In the directory FAILING_DISK:
 *   fail-once.EXT    fails the next sync of a file *.EXT with EIO (and is removed)
 *   fail-always.EXT  fails every one
 *   syncs            a line per sync of a journal's file or of a directory: call, result, path
 *   kept/            each file of a journal or of the store as it was when its last good sync began
 *   names/           the names in each directory when its last sync began, / in its path being %
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *disk(void) {
    const char *dir = getenv("FAILING_DISK");
    return dir ? dir : "/nonexistent";
}

static void note(const char *call, const char *result, const char *path) {
    char file[PATH_MAX], line[PATH_MAX + 32];
    snprintf(file, sizeof file, "%s/syncs", disk());
    int length = snprintf(line, sizeof line, "%s %s %s\n", call, result, path);
    int to = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (to < 0 || write(to, line, length) != length) abort();
    close(to);
}

/* Copies the file under a name of its journal's and its own; complete or not at all. */
static void keep(int fd, const char *path) {
    static __thread char bytes[65536];
    char name[PATH_MAX], half[PATH_MAX], whole[PATH_MAX];
    const char *file = strrchr(path, '/'), *journal = file;
    while (journal > path && journal[-1] != '/') journal--;
    snprintf(name, sizeof name, "%.*s-%s", (int)(file - journal), journal, file + 1);
    snprintf(half, sizeof half, "%s/kept/.%d-%d-%s", disk(), fd, gettid(), name);
    snprintf(whole, sizeof whole, "%s/kept/%s", disk(), name);
    int to = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    off_t at = 0;
    ssize_t got;
    while ((got = pread(fd, bytes, sizeof bytes, at)) > 0) {
        if (write(to, bytes, got) != got) abort();
        at += got;
    }
    if (to < 0 || got < 0 || close(to) != 0 || rename(half, whole) != 0) abort();
}

/* Notes which names the directory has; complete or not at all. */
static void keep_names(int fd, const char *path) {
    char flat[PATH_MAX], half[PATH_MAX + 64], whole[PATH_MAX + 64];
    snprintf(flat, sizeof flat, "%s", path);
    for (char *at = flat; *at; at++)
        if (*at == '/') *at = '%';
    snprintf(half, sizeof half, "%s/names/.%d-%d", disk(), fd, gettid());
    snprintf(whole, sizeof whole, "%s/names/%s", disk(), flat);
    FILE *to = fopen(half, "w");
    DIR *dir = opendir(path);
    if (!to || !dir) abort();
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            fprintf(to, "%s\n", entry->d_name);
    closedir(dir);
    if (fclose(to) != 0 || rename(half, whole) != 0) abort();
}

static int fails(const char *extension) {
    char control[PATH_MAX];
    snprintf(control, sizeof control, "%s/fail-once%s", disk(), extension);
    if (unlink(control) == 0) return 1;
    snprintf(control, sizeof control, "%s/fail-always%s", disk(), extension);
    return access(control, F_OK) == 0;
}

static int sync_by(const char *call, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    char link[64], path[PATH_MAX];
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || fstat(fd, &status) != 0) return real(fd);
    path[length] = 0;
    if (S_ISDIR(status.st_mode)) {
        note(call, "good", path);
        keep_names(fd, path);
        return real(fd);
    }
    const char *extension = strrchr(path, '.');
    int is_journal = extension && strcmp(extension, ".tgj") == 0;
    int is_store = extension && strncmp(extension, ".db", 3) == 0;
    if (extension && fails(extension)) {
        if (is_journal) note(call, "failed", path);
        errno = EIO;
        return -1;
    }
    if (is_journal) {
        keep(fd, path);
        note(call, "good", path);
    }
    if (is_store) keep(fd, path);
    return real(fd);
}

int fsync(int fd) { return sync_by("fsync", fd); }

int fdatasync(int fd) { return sync_by("fdatasync", fd); }

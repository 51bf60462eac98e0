/* A resolver that never answers for names that end in .silent, under the binary that ships:
 * preloaded into it, this stands between it and getaddrinfo(3). Each such question is counted by a
 * byte at the end of the file that SILENT_RESOLVER names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_silent(const char *node)
{
    static const char end[] = ".silent";
    size_t length = node ? strlen(node) : 0;
    return length > sizeof end - 1 && strcmp(node + length - (sizeof end - 1), end) == 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (is_silent(node)) {
        int file = open(getenv("SILENT_RESOLVER"), O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (file >= 0) {
            (void)!write(file, ".", 1);
            close(file);
        }
        for (;;)
            pause();
    }
    return real(node, service, hints, found);
}

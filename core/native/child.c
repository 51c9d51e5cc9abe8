/*
 * Steps that children of every kind take between their birth and their exec. All of this runs on
 * borrowed memory: see the rules in native.h.
 */
#include "native.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

void
default_signal(int sig)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(sig, &action, NULL);
}

/* Reset every signal that has a handler: the parent's handlers would run on the parent's memory.
 * Ignored signals stay ignored. */
void
drop_signal_handlers(void)
{
    for (int sig = 1; sig < NSIG; sig++) {
        struct sigaction action;
        if (sigaction(sig, NULL, &action) == 0 && action.sa_handler != SIG_DFL
            && action.sa_handler != SIG_IGN) {
            default_signal(sig);
        }
    }
}

/* Move the calling process into the cgroup whose cgroup.procs is procs_fd. */
int
join_cgroup(int procs_fd)
{
    ssize_t written;
    do {
        written = write(procs_fd, "0", 1);
    } while (written < 0 && errno == EINTR);
    return written == 1 ? 0 : -1;
}

int
keep_over_exec(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags < 0 ? -1 : fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC);
}

struct directory_entry { /* struct linux_dirent64 */
    uint64_t inode;
    int64_t offset;
    unsigned short length;
    unsigned char type;
    char name[];
};

/* Close those of first..last that /proc/self/fd lists; readdir() would allocate. */
static int
close_listed(unsigned int first, unsigned int last)
{
    int directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) {
        return -1;
    }
    char buffer[4096] __attribute__((aligned(8)));
    long size;
    while ((size = syscall(SYS_getdents64, directory, buffer, sizeof(buffer))) > 0) {
        for (long at = 0; at < size;) {
            struct directory_entry *entry = (struct directory_entry *)(buffer + at);
            at += entry->length;
            if (entry->name[0] == '.') {
                continue;
            }
            unsigned int fd = 0;
            for (const char *digit = entry->name; *digit; digit++) {
                fd = fd * 10 + (unsigned int)(*digit - '0');
            }
            if (fd >= first && fd <= last && (int)fd != directory) {
                close((int)fd);
            }
        }
    }
    close(directory);
    return size == 0 ? 0 : -1;
}

/* Close first..last: by close_range (Linux 5.9), else by the list in /proc, else one by one. */
void
close_span(unsigned int first, unsigned int last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0
        || close_listed(first, last) == 0) {
        return;
    }
    struct rlimit limit;
    unsigned int end = 65536;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < end) {
        end = (unsigned int)limit.rlim_cur;
    }
    for (unsigned int fd = first; fd <= last && fd < end; fd++) {
        close((int)fd);
    }
}

void
execute(const struct child *child, const char *path)
{
    if (child->envp != NULL) {
        execve(path, child->argv, child->envp);
    }
    else {
        execv(path, child->argv);
    }
}

/* dup2, also where both numbers are the same: the descriptor has to stay open over the exec.
 * fd -1: do nothing. */
int
put_at(int fd, int target)
{
    if (fd == -1) {
        return 0;
    }
    return fd == target ? keep_over_exec(fd) : dup2(fd, target);
}

/*
 * Ways to start a process that the patch points in Python do not see. The tests build a shared
 * library of it.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As a C extension does: the child shares the memory, and the parent waits, until the exec. */
int by_posix_spawn(char *const argv[])
{
	pid_t pid;

	return posix_spawn(&pid, argv[0], NULL, NULL, argv, NULL) ? -1 : pid;
}

/* Without any function of libc. */
int by_clone(char *const argv[])
{
	long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0) {
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

/* A daemon, in a session of its own and no child of the caller. Returns the child in between. */
int by_double_fork(char *const argv[])
{
	long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0) {
		setsid();
		if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
			execv(argv[0], argv);
			_exit(127);
		}
		_exit(0);
	}
	return pid;
}

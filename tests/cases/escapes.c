/*
 * The ways by which a process gets past everything that Python knows of its children. Built by
 * the tests into a shared library.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* As a C extension does it: the child shares our memory, and we wait, until it has executed. */
int by_posix_spawn(char *const argv[])
{
	pid_t pid;

	return posix_spawn(&pid, argv[0], NULL, NULL, argv, NULL) ? -1 : pid;
}

/* No function of libc is told of it. */
int by_clone(char *const argv[])
{
	long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0) {
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

/* A daemon: no child of ours, no session of ours. Returns the child in between. */
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

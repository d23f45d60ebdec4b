/* A server that makes a child process per session, as FTP and mail servers do: the children change who they are, go into
 * namespaces of their own, talk with their maker, get descriptors from it, end in every way, and are waited for in a handler. */
#include "victim.h"
#include <grp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define NOBODY 65534

static volatile sig_atomic_t ended, bad;
static volatile pid_t last_ended;
static volatile int last_status;

static void on_child(int signal)
{
	int status, before = errno;
	pid_t pid;
	(void)signal;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		last_ended = pid;
		last_status = status;
		ended++;
	}
	if (pid == 0 || errno == ECHILD)
		errno = before;
	else
		bad = 1;
}

static void pass(int over, int fd)
{
	char byte = 'd', control[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *part = CMSG_FIRSTHDR(&message);
	part->cmsg_level = SOL_SOCKET;
	part->cmsg_type = SCM_RIGHTS;
	part->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(part), &fd, sizeof fd);
	CHECK(sendmsg(over, &message, 0) == 1);
}

static int receive(int over)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	CHECK(recvmsg(over, &message, 0) == 1 && byte == 'd');
	int fd;
	CHECK(CMSG_FIRSTHDR(&message) != NULL);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

/* The unprivileged end: answers each number with its successor. */
static __attribute__((noreturn)) void serve(int over)
{
	struct rlimit none = { 0, 0 };
	CHECK(setgroups(0, NULL) == 0);
	CHECK(chdir("/proc") == 0 && chroot(".") == 0);
	CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	CHECK(getuid() == NOBODY);
	CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
	int out = receive(over);
	unsigned long number;
	while (read(over, &number, sizeof number) == sizeof number) {
		number++;
		CHECK(write(out, &number, sizeof number) == sizeof number);
	}
	_exit(7);
}

/* A session: a process that stands between the server and an unprivileged child of its own. */
static __attribute__((noreturn)) void session(int over)
{
	int pair[2], way[2];
	signal(SIGCHLD, SIG_DFL);
	CHECK(setsid() == getpid());
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK(pipe(way) == 0);
	pid_t pid = syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, NULL, NULL, NULL, NULL);
	CHECK(pid >= 0);
	if (pid == 0) {
		close(pair[0]);
		close(over);
		serve(pair[1]);
	}
	close(pair[1]);
	pass(pair[0], way[1]);
	close(way[1]);
	unsigned long number;
	while (read(over, &number, sizeof number) == sizeof number) {
		CHECK(write(pair[0], &number, sizeof number) == sizeof number);
		CHECK(read(way[0], &number, sizeof number) == sizeof number);
		CHECK(write(over, &number, sizeof number) == sizeof number);
	}
	close(pair[0]);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	exit(3);
}

static void wait_for(int count)
{
	sigset_t child, before;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	CHECK(sigprocmask(SIG_BLOCK, &child, &before) == 0);
	while (ended < count)
		sigsuspend(&before);
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
	CHECK(!bad);
}

static volatile char *volatile nowhere;

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	/* Without SA_RESTART any call may end with EINTR while nobody traces it after a promotion: it waits in the filter
	 * then, where a signal finds it. */
	struct sigaction action = { .sa_handler = on_child, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGCHLD, &action, NULL) == 0);
	int count = 0, long_lived = -1;
	do {
		/* One that lives for some rounds, and one that does for this one. */
		for (int i = 0; i < 2; i++) {
			int pair[2], over = long_lived;
			if (i == 1 || long_lived < 0) {
				CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
				pid_t pid = syscall(SYS_clone, CLONE_NEWIPC | SIGCHLD, NULL, NULL, NULL, NULL);
				CHECK(pid >= 0);
				if (pid == 0) {
					close(pair[0]);
					if (long_lived >= 0)
						close(long_lived);
					session(pair[1]);
				}
				close(pair[1]);
				over = pair[0];
			}
			for (unsigned long n = 0; n < 5; n++) {
				unsigned long number = n;
				CHECK(write(over, &number, sizeof number) == sizeof number);
				ssize_t got;
				while ((got = read(over, &number, sizeof number)) < 0)
					CHECK(errno == EINTR);
				CHECK(got == sizeof number && number == n + 1);
			}
			if (i == 0 && victim_rounds % 20 != 19) {
				long_lived = over;
				continue;
			}
			if (i == 0)
				long_lived = -1;
			CHECK(close(over) == 0);
			wait_for(++count);
			CHECK(WIFEXITED(last_status) && WEXITSTATUS(last_status) == 3);
		}
		/* Ends of every other kind. */
		for (int kind = 0; kind < 4; kind++) {
			pid_t pid = fork();
			CHECK(pid >= 0);
			if (pid == 0) {
				if (kind == 0)
					*nowhere = 1;
				if (kind == 1)
					abort();
				if (kind == 2)
					raise(SIGUSR1);
				if (fork() == 0)
					_exit(1);
				_exit(9);
			}
			wait_for(++count);
			CHECK(last_ended == pid);
			int fatal[] = { SIGSEGV, SIGABRT, SIGUSR1 };
			if (kind < 3)
				CHECK(WIFSIGNALED(last_status) && WTERMSIG(last_status) == fatal[kind]);
			else
				CHECK(WIFEXITED(last_status) && WEXITSTATUS(last_status) == 9);
		}
	} while (victim_next(1000));
	return 0;
}

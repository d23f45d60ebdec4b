/* Signals: interval timers, POSIX timers, SIGCHLD, handlers with and without SA_RESTART, masks,
 * sigsuspend, sigtimedwait, signalfd, queued values, an alternate stack. */
#include "victim.h"
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static volatile sig_atomic_t alarms, usr1s, children, queued_value, on_stack;
static char stack[64 * 1024];

static void on_alarm(int signal)
{
	CHECK(signal == SIGALRM);
	alarms++;
}

static void on_usr1(int signal)
{
	CHECK(signal == SIGUSR1);
	char here;
	on_stack = &here >= stack && &here < stack + sizeof stack;
	usr1s++;
}

static void on_child(int signal, siginfo_t *info, void *context)
{
	(void)context;
	CHECK(signal == SIGCHLD && info->si_pid > 0);
	children++;
}

static void on_queued(int signal, siginfo_t *info, void *context)
{
	(void)context;
	CHECK(signal == SIGRTMIN);
	queued_value = info->si_value.sival_int;
}

static void handle(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
	CHECK(sigaction(signal, &action, NULL) == 0);
}

static void handle_info(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO };
	CHECK(sigaction(signal, &action, NULL) == 0);
}

static sigset_t one(int signal)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, signal);
	return set;
}

/* A timer signal interrupts a read without SA_RESTART. Repeats, lest it come before the read. */
static void interrupted_read(int fd)
{
	handle(SIGALRM, on_alarm, 0);
	int before = alarms;
	struct itimerval every = { { 0, 1000 }, { 0, 500 } }, off = { { 0, 0 }, { 0, 0 } }, old;
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	char byte;
	CHECK(read(fd, &byte, 1) == -1 && errno == EINTR);
	CHECK(getitimer(ITIMER_REAL, &old) == 0);
	CHECK(old.it_interval.tv_usec == 1000);
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	CHECK(alarms > before);
}

/* With SA_RESTART the read goes on, and ends when a child has written. */
static void restarted_read(int in, int out)
{
	handle(SIGALRM, on_alarm, SA_RESTART);
	int before = children;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		struct timespec wait = { 0, 2000 * 1000 };
		nanosleep(&wait, NULL);
		_exit(write(out, "y", 1) == 1 ? 5 : 6);
	}
	struct itimerval every = { { 0, 500 }, { 0, 500 } }, off = { { 0, 0 }, { 0, 0 } };
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	char byte = 0;
	CHECK(read(in, &byte, 1) == 1 && byte == 'y');
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
	CHECK(children == before + 1);
}

static void posix_timer(void)
{
	sigset_t alarm_only = one(SIGALRM), before;
	CHECK(sigprocmask(SIG_BLOCK, &alarm_only, &before) == 0);
	timer_t timer;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	event.sigev_value.sival_int = 4711;
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	struct itimerspec once = { { 0, 0 }, { 0, 300 * 1000 } }, left;
	CHECK(timer_settime(timer, 0, &once, NULL) == 0);
	siginfo_t info;
	struct timespec limit = { 10, 0 };
	CHECK(sigtimedwait(&alarm_only, &info, &limit) == SIGALRM);
	CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 4711);
	CHECK(timer_gettime(timer, &left) == 0);
	CHECK(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
	CHECK(timer_getoverrun(timer) == 0);
	CHECK(timer_delete(timer) == 0);
	struct timespec none = { 0, 0 };
	CHECK(sigtimedwait(&alarm_only, &info, &none) == -1 && errno == EAGAIN);
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
}

static void suspend(void)
{
	sigset_t usr1 = one(SIGUSR1), before, pending, open_mask;
	CHECK(sigprocmask(SIG_BLOCK, &usr1, &before) == 0);
	int count = usr1s;
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1);
	CHECK(usr1s == count);
	open_mask = before;
	sigdelset(&open_mask, SIGUSR1);
	CHECK(sigsuspend(&open_mask) == -1 && errno == EINTR);
	CHECK(usr1s == count + 1 && on_stack);
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
	/* Not blocked: runs before kill returns. */
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK(usr1s == count + 2);
	CHECK(syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), SIGUSR1) == 0);
	CHECK(usr1s == count + 3);
	CHECK(raise(SIGUSR1) == 0);
	CHECK(usr1s == count + 4);
}

/* A blocked signal that waits gets through the mask that the call is given, and only while it waits. */
static void masked_waits(int instance)
{
	sigset_t usr1 = one(SIGUSR1), before, open_mask, now;
	CHECK(sigprocmask(SIG_BLOCK, &usr1, &before) == 0);
	open_mask = before;
	sigdelset(&open_mask, SIGUSR1);
	for (int i = 0; i < 3; i++) {
		int count = usr1s;
		CHECK(kill(getpid(), SIGUSR1) == 0);
		CHECK(usr1s == count);
		struct epoll_event event;
		struct timespec limit = { 10, 0 };
		int got = i == 0 ? ppoll(NULL, 0, &limit, &open_mask)
			: i == 1 ? pselect(0, NULL, NULL, NULL, &limit, &open_mask)
			: epoll_pwait(instance, &event, 1, 10000, &open_mask);
		CHECK(got == -1 && errno == EINTR);
		CHECK(usr1s == count + 1);
		CHECK(sigprocmask(SIG_SETMASK, NULL, &now) == 0 && sigismember(&now, SIGUSR1) == 1);
	}
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
}

static void through_fd(int fd)
{
	/* SIGUSR2 is blocked throughout. */
	CHECK(kill(getpid(), SIGUSR2) == 0);
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
	CHECK(poll(&poll_fd, 1, 10000) == 1 && poll_fd.revents == POLLIN);
	struct signalfd_siginfo info;
	CHECK(read(fd, &info, sizeof info) == sizeof info);
	CHECK(info.ssi_signo == SIGUSR2);
	CHECK(read(fd, &info, sizeof info) == -1 && errno == EAGAIN);
}

static void with_value(int value)
{
	union sigval sent = { .sival_int = value };
	CHECK(sigqueue(getpid(), SIGRTMIN, sent) == 0);
	CHECK(queued_value == value);
}

/* The time left of an interrupted sleep is told and is less than was asked for. */
static void interrupted_sleep(void)
{
	handle(SIGALRM, on_alarm, SA_RESTART);
	/* It repeats, lest the only signal come before the sleep begins. */
	struct itimerval every = { { 0, 1000 }, { 0, 500 } }, off = { { 0, 0 }, { 0, 0 } };
	struct timespec asked = { 20, 0 }, left = { 99, 99 };
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	CHECK(nanosleep(&asked, &left) == -1 && errno == EINTR);
	CHECK(setitimer(ITIMER_REAL, &off, NULL) == 0);
	CHECK(left.tv_sec >= 0 && left.tv_sec <= 20);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof stack };
	CHECK(sigaltstack(&alternate, NULL) == 0);
	handle(SIGUSR1, on_usr1, SA_RESTART | SA_ONSTACK);
	handle_info(SIGCHLD, on_child, SA_RESTART);
	handle_info(SIGRTMIN, on_queued, SA_RESTART);
	sigset_t usr2 = one(SIGUSR2);
	CHECK(sigprocmask(SIG_BLOCK, &usr2, NULL) == 0);
	int fd = signalfd(-1, &usr2, SFD_CLOEXEC | SFD_NONBLOCK);
	CHECK(fd >= 0);
	int pair[2], instance = epoll_create1(EPOLL_CLOEXEC);
	CHECK(pipe2(pair, O_CLOEXEC) == 0 && instance >= 0);
	do {
		interrupted_read(pair[0]);
		restarted_read(pair[0], pair[1]);
		posix_timer();
		suspend();
		masked_waits(instance);
		through_fd(fd);
		with_value((int)(victim_rounds & 0xffff));
		interrupted_sleep();
	} while (victim_next(500));
	return 0;
}

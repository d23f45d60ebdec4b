/* Holds, while it sleeps, locks that name their owner; and is told of a signal by a signalfd in an epoll set, where nothing
 * but that says so. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/time.h>

#include "victim.h"

static pthread_rwlock_t written = PTHREAD_RWLOCK_INITIALIZER;
static pthread_mutex_t recursive = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_mutex_t checks = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;

/* Another thread, for the C library to take locks in earnest. */
static void *waits(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

static void sleep_with_it(void)
{
	struct timespec moment = { 0, 300000 };
	while (nanosleep(&moment, &moment) != 0)
		CHECK(errno == EINTR);
}

static void take_locks(void)
{
	CHECK(pthread_rwlock_wrlock(&written) == 0);
	sleep_with_it();
	CHECK(pthread_rwlock_unlock(&written) == 0);
	CHECK(pthread_mutex_lock(&recursive) == 0);
	sleep_with_it();
	CHECK(pthread_mutex_lock(&recursive) == 0);
	CHECK(pthread_mutex_unlock(&recursive) == 0);
	CHECK(pthread_mutex_unlock(&recursive) == 0);
	CHECK(pthread_mutex_lock(&checks) == 0);
	sleep_with_it();
	CHECK(pthread_mutex_unlock(&checks) == 0);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	sigset_t alarms;
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	CHECK(sigprocmask(SIG_BLOCK, &alarms, NULL) == 0);
	int told = signalfd(-1, &alarms, SFD_CLOEXEC | SFD_NONBLOCK);
	int set = epoll_create1(EPOLL_CLOEXEC);
	CHECK(told >= 0 && set >= 0);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = told };
	CHECK(epoll_ctl(set, EPOLL_CTL_ADD, told, &event) == 0);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, waits, NULL) == 0);

	do {
		take_locks();
		struct itimerval once = { .it_value.tv_usec = 100 };
		CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
		int ready;
		while ((ready = epoll_wait(set, &event, 1, 10000)) < 0)
			CHECK(errno == EINTR);
		CHECK(ready == 1 && event.data.fd == told);
		struct signalfd_siginfo info;
		CHECK(read(told, &info, sizeof info) == sizeof info && info.ssi_signo == SIGALRM);
	} while (victim_next(0));
	return 0;
}

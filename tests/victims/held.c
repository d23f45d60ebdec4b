/* Reads a clock all the time; a handler that interrupts that waits until it is let go on, through a FIFO beside the
 * progress file. */
#include <sys/stat.h>

#include "victim.h"

static int hold = -1;

static void on_usr1(int signal)
{
	(void)signal;
	int error = errno;
	char byte;
	ssize_t got;
	while ((got = read(hold, &byte, 1)) < 0 && errno == EINTR)
		;
	CHECK(got == 1);
	errno = error;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	char path[4096];
	CHECK(snprintf(path, sizeof path, "%s.hold", argv[1]) < (int)sizeof path);
	CHECK(mkfifo(path, 0600) == 0);
	hold = open(path, O_RDWR | O_CLOEXEC);
	CHECK(hold >= 0);
	sigset_t usr1, before;
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &usr1, &before) == 0);
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	do {
		/* It comes in here or not at all. */
		CHECK(sigprocmask(SIG_UNBLOCK, &usr1, NULL) == 0);
		struct timespec now, last = { 0, 0 };
		for (int i = 0; i < 2000; i++) {
			CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
			CHECK(now.tv_sec > last.tv_sec ||
			      (now.tv_sec == last.tv_sec && now.tv_nsec >= last.tv_nsec));
			last = now;
		}
		CHECK(sigprocmask(SIG_BLOCK, &usr1, NULL) == 0);
	} while (victim_next(0));
	return 0;
}

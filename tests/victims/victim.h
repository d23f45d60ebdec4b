/* What every victim does alike: it counts its rounds in a file, checks itself, and leaves on SIGTERM.
 *
 * A victim is called with the path of its progress file. After each round the file holds one line
 * with the number of rounds done. Whatever is not as it must be ends in abort() with a line on stderr.
 * The file is truncated only at start, so that "the counter grew" means "the program went on".
 *
 * SIGTERM stays blocked within a round, so that it interrupts nothing that a round checks.
 */
#ifndef VICTIM_H
#define VICTIM_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Ends the program loudly when `what` does not hold. */
#define CHECK(what)                                                                            \
	do {                                                                                   \
		if (!(what)) {                                                                 \
			int error_ = errno;                                                    \
			/* A report of a divergence shows the beginning of what was written. */            \
			fprintf(stderr, "errno %d, %s:%d: not so: %s (%s)\n", error_, __FILE__,         \
				__LINE__, #what, strerror(error_));                                    \
			abort();                                                               \
		}                                                                              \
	} while (0)

static volatile sig_atomic_t victim_stop;
static int victim_progress = -1;
static unsigned long victim_rounds;

static void victim_on_term(int signal)
{
	(void)signal;
	victim_stop = 1;
}

/* To be called first, before any thread is made. */
static void victim_start(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s PROGRESS-FILE\n", argv[0]);
		exit(2);
	}
	victim_progress = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	CHECK(victim_progress >= 0);
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	CHECK(sigprocmask(SIG_BLOCK, &term, NULL) == 0);
	struct sigaction action = { .sa_handler = victim_on_term, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGTERM, &action, NULL) == 0);
}

/* A FIFO beside the progress file, from which this program reads when it is to wait until a test lets it go on. */
static inline int victim_hold(char **argv)
{
	char path[4096];
	CHECK(snprintf(path, sizeof path, "%s.hold", argv[1]) < (int)sizeof path);
	CHECK(mkfifo(path, 0600) == 0);
	int hold = open(path, O_RDWR | O_CLOEXEC);
	CHECK(hold >= 0);
	return hold;
}

/* Ends a round: counts it, lets SIGTERM in, waits `pause_us`. False when it is time to leave. */
static int victim_next(long pause_us)
{
	char line[32];
	int length = snprintf(line, sizeof line, "%012lu\n", ++victim_rounds);
	CHECK(pwrite(victim_progress, line, length, 0) == length);
	sigset_t term, before;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	CHECK(sigprocmask(SIG_UNBLOCK, &term, &before) == 0);
	CHECK(sigprocmask(SIG_SETMASK, &before, NULL) == 0);
	struct timespec left = { .tv_sec = 0, .tv_nsec = pause_us * 1000 };
	while (!victim_stop && nanosleep(&left, &left) != 0)
		CHECK(errno == EINTR);
	return !victim_stop;
}
#endif

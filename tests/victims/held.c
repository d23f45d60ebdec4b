/* Asked by SIGUSR1 it reads a clock until a timer's signal interrupts it, most likely within a reading; the handler waits
 * until it is let go on, through a FIFO beside the progress file. */
#include <sys/time.h>
#include <sys/wait.h>

#include "victim.h"

static int hold = -1;
static volatile sig_atomic_t asked, held;

static void on_usr1(int signal)
{
	(void)signal;
	asked = 1;
}

static void on_alarm(int signal)
{
	(void)signal;
	int error = errno;
	char byte;
	ssize_t got;
	while ((got = read(hold, &byte, 1)) < 0 && errno == EINTR)
		;
	CHECK(got == 1);
	held = 1;
	errno = error;
}

/* A clock does not go back. */
static void read_clock(struct timespec *last)
{
	struct timespec now;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	CHECK(now.tv_sec > last->tv_sec ||
	      (now.tv_sec == last->tv_sec && now.tv_nsec >= last->tv_nsec));
	*last = now;
}

#ifdef HELD_IS_A_CHILD
/* Goes on in a child; its parent stays until SIGTERM comes, and ends it then. */
static void become_a_child(void)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0)
		return;
	sigset_t term;
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	struct timespec limit = { 0, 2000000 };
	int status;
	/* Meanwhile it has others, which hardly live. */
	while (sigtimedwait(&term, NULL, &limit) != SIGTERM) {
		pid_t brief = fork();
		CHECK(brief >= 0);
		if (brief == 0) {
			usleep(200);
			_exit(0);
		}
		CHECK(waitpid(brief, &status, 0) == brief && status == 0);
	}
	CHECK(kill(child, SIGTERM) == 0 && waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status));
	exit(WEXITSTATUS(status));
}
#endif

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	hold = victim_hold(argv);
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	action.sa_handler = on_alarm;
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
#ifdef HELD_IS_A_CHILD
	become_a_child();
#endif
	struct timespec last = { 0, 0 };
	do {
		for (int i = 0; i < 20; i++)
			read_clock(&last);
		if (asked) {
			asked = held = 0;
			struct itimerval once = { { 0, 0 }, { 0, 500 } };
			CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
			while (!held)
				read_clock(&last);
		}
	} while (victim_next(1000));
	return 0;
}

/* Timers of one thread, that its successor must have although nobody can ask a process that dies: an interval timer and
 * two of timer_create that are set at the start, and others that are set anew again and again.
 */
#include "victim.h"
#include <sys/time.h>

#define TICK (SIGRTMIN + 1)
#define TOCK (SIGRTMIN + 2)

static timer_t ticking, tocking, far, moment;
static time_t due;

static timer_t create(clockid_t clock, int signal)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = signal };
	timer_t timer;
	CHECK(timer_create(clock, &event, &timer) == 0);
	return timer;
}

static void wait_for(int signal)
{
	sigset_t set;
	struct timespec limit = { 20, 0 };
	sigemptyset(&set);
	sigaddset(&set, signal);
	siginfo_t info;
	int got;
	do
		got = sigtimedwait(&set, &info, &limit);
	while (got == -1 && errno == EINTR);
	CHECK(got == signal);
}

static void set(timer_t timer, int flags, struct timespec value, struct timespec interval)
{
	struct itimerspec spec = { interval, value };
	CHECK(timer_settime(timer, flags, &spec, NULL) == 0);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	sigset_t blocked;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	sigaddset(&blocked, TICK);
	sigaddset(&blocked, TOCK);
	CHECK(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
	ticking = create(CLOCK_MONOTONIC, TICK);
	tocking = create(CLOCK_REALTIME, TOCK);
	far = create(CLOCK_BOOTTIME, TICK);
	moment = create(CLOCK_REALTIME, TICK);
	struct timespec now, none = { 0, 0 };
	struct itimerval often = { { 0, 7000 }, { 0, 5000 } };
	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	set(ticking, 0, (struct timespec){ 0, 3000000 }, (struct timespec){ 0, 4000000 });
	set(far, 0, (struct timespec){ 1000000, 0 }, none);
	CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
	due = now.tv_sec + 500000;
	set(moment, TIMER_ABSTIME, (struct timespec){ due, 0 }, none);
	unsigned round = 0;
	do {
		/* Those of the start go on, */
		wait_for(SIGALRM);
		wait_for(TICK);
		/* and so do those that are set in the course of time. */
		set(tocking, 0, (struct timespec){ 0, 2000000 + round % 3 * 1000000 }, none);
		wait_for(TOCK);
		struct itimerspec left;
		CHECK(timer_gettime(far, &left) == 0);
		CHECK(left.it_value.tv_sec > 900000 && left.it_value.tv_sec < 1000000);
		CHECK(timer_gettime(moment, &left) == 0);
		CHECK(left.it_value.tv_sec > 400000 && left.it_value.tv_sec <= 500000);
		struct itimerval interval;
		CHECK(getitimer(ITIMER_REAL, &interval) == 0 && interval.it_interval.tv_usec == 7000);
		if (++round % 16 == 0)
			set(far, 0, (struct timespec){ 999999, 0 }, none);
	} while (victim_next(1000));
	return 0;
}

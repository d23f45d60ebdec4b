/* Reads clocks in every way that the vDSO knows, where it is hard: in signal handlers that interrupt
 * readings, in threads that come and go, in long runs without any system call, and by a thread that then
 * sleeps in a futex, which is not recorded.
 *
 * Each reading that comes from a clock that cannot go back is compared with the one before on its thread,
 * so a reading that was lost, repeated or given to another thread shows up here, too. All readings go into a
 * sum that is written: the follower must have had the very same ones.
 */
#include "victim.h"
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>

static __thread struct timespec latest;
static __thread unsigned long sum;
static volatile sig_atomic_t ticks;
static int null;

static void note(const struct timespec *now)
{
	CHECK(now->tv_sec > latest.tv_sec ||
	      (now->tv_sec == latest.tv_sec && now->tv_nsec >= latest.tv_nsec));
	latest = *now;
	sum = sum * 31 + (unsigned long)now->tv_sec + (unsigned long)now->tv_nsec;
}

/* Where no handler can read the clock in between. */
static void read_monotonic(void)
{
	struct timespec now;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	note(&now);
}

/* Every function, and every clock that it answers without a system call, and one that it does not. */
static unsigned long read_all(void)
{
	static const clockid_t clocks[] = {
		CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
		CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_PROCESS_CPUTIME_ID,
	};
	unsigned long all = 0;
	struct timespec now;
	for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
		CHECK(clock_gettime(clocks[i], &now) == 0);
		CHECK(now.tv_nsec >= 0 && now.tv_nsec < 1000000000);
		all = all * 31 + (unsigned long)now.tv_sec + (unsigned long)now.tv_nsec;
	}
	struct timeval tv;
	struct timezone tz;
	CHECK(gettimeofday(&tv, NULL) == 0);
	CHECK(tv.tv_usec >= 0 && tv.tv_usec < 1000000);
	all = all * 31 + (unsigned long)tv.tv_sec + (unsigned long)tv.tv_usec;
	CHECK(gettimeofday(&tv, &tz) == 0);
	time_t stored = 0, seconds = time(NULL);
	CHECK(time(&stored) == stored && stored - seconds <= 60);
	CHECK(clock_gettime(12345, &now) == -1 && errno == EINVAL);
	return all * 31 + (unsigned long)seconds;
}

static void on_tick(int signal)
{
	(void)signal;
	int error = errno;
	struct timespec now;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	ticks++;
	/* A call in the handler: what was read before it must be known to be before it. */
	CHECK(write(null, &now, sizeof now) == sizeof now);
	CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
	errno = error;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, slept = PTHREAD_COND_INITIALIZER;
static unsigned long turn, answered;

/* Reads with the lock held and then sleeps without a call that is recorded. */
static void *sleeper(void *unused)
{
	(void)unused;
	unsigned long done = 0;
	CHECK(pthread_mutex_lock(&lock) == 0);
	for (;;) {
		read_monotonic();
		while (turn == done)
			CHECK(pthread_cond_wait(&wake, &lock) == 0);
		done = turn;
		read_monotonic();
		answered = done;
		CHECK(pthread_cond_signal(&slept) == 0);
		if (done == ~0ul)
			break;
	}
	CHECK(pthread_mutex_unlock(&lock) == 0);
	return NULL;
}

static void *brief(void *unused)
{
	(void)unused;
	for (int i = 0; i < 5; i++)
		read_monotonic();
	/* Ends with readings behind its last call. */
	CHECK(write(null, &sum, sizeof sum) == sizeof sum);
	read_monotonic();
	return NULL;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK(null >= 0);
	pthread_t rests, comes;
	/* The timer's signal goes to the main thread only. */
	sigset_t tick, before;
	sigemptyset(&tick);
	sigaddset(&tick, SIGALRM);
	CHECK(pthread_sigmask(SIG_BLOCK, &tick, &before) == 0);
	CHECK(pthread_create(&rests, NULL, sleeper, NULL) == 0);
	struct sigaction action = { .sa_handler = on_tick, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	struct itimerval every = { { 0, 700 }, { 0, 700 } };
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	do {
		CHECK(pthread_create(&comes, NULL, brief, NULL) == 0);
		CHECK(pthread_sigmask(SIG_UNBLOCK, &tick, NULL) == 0);
		/* More than fit into a slot, with ticks in between. */
		struct timespec now;
		for (int i = 0; i < 400; i++) {
			CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
			sum = sum * 31 + (unsigned long)now.tv_nsec;
		}
		CHECK(pthread_sigmask(SIG_BLOCK, &tick, NULL) == 0);
		sum += read_all();
		CHECK(write(null, &sum, sizeof sum) == sizeof sum);
		CHECK(pthread_mutex_lock(&lock) == 0);
		turn++;
		CHECK(pthread_cond_signal(&wake) == 0);
		while (answered != turn)
			CHECK(pthread_cond_wait(&slept, &lock) == 0);
		CHECK(pthread_mutex_unlock(&lock) == 0);
		read_monotonic();
		CHECK(pthread_join(comes, NULL) == 0);
	} while (victim_next(2000));
	every = (struct itimerval){ { 0, 0 }, { 0, 0 } };
	CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
	CHECK(pthread_mutex_lock(&lock) == 0);
	turn = ~0ul;
	CHECK(pthread_cond_signal(&wake) == 0);
	CHECK(pthread_mutex_unlock(&lock) == 0);
	CHECK(pthread_join(rests, NULL) == 0);
	CHECK(answered == ~0ul && ticks > 0);
	return 0;
}

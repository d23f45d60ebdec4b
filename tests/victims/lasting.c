/* What the kernel keeps for a process besides its descriptors, and what must go over to its successor: POSIX
 * timers with their ids, signals that wait, scheduling. Each round checks what the last one left.
 */
#include "victim.h"
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define TICK (SIGRTMIN + 1)
#define TOCK (SIGRTMIN + 2)
#define LATER (SIGRTMIN + 3)
#define MINE (SIGRTMIN + 4)

static int tocks[2];
static timer_t ticking, tocking, idle, silent;
static volatile pid_t helper_id;
static pthread_t helper;

static void on_tock(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	CHECK(info->si_code == SI_TIMER && pthread_equal(pthread_self(), helper));
	/* What one thread tells another must be seen in a call. A full pipe tells enough. */
	CHECK(write(tocks[1], "", 1) == 1 || errno == EAGAIN);
}

/* The only thread that gets the signals of the second timer. */
static void *help(void *unused)
{
	helper = pthread_self();
	helper_id = (pid_t)syscall(SYS_gettid);
	for (;;)
		pause();
	return unused;
}

static timer_t create(clockid_t clock, struct sigevent *event)
{
	timer_t timer;
	CHECK(timer_create(clock, event, &timer) == 0);
	return timer;
}

static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART };
	CHECK(sigaction(signal, &action, NULL) == 0);
}

static void make_timers(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK, .sigev_value.sival_int = 4711 };
	/* Ids with gaps. */
	timer_t gap = create(CLOCK_MONOTONIC, &event);
	ticking = create(CLOCK_MONOTONIC, &event);
	timer_t another_gap = create(CLOCK_MONOTONIC, &event);
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = TOCK;
	event.sigev_notify_thread_id = helper_id;
	tocking = create(CLOCK_REALTIME, &event);
	event.sigev_notify = SIGEV_NONE;
	silent = create(CLOCK_BOOTTIME, &event);
	idle = create(CLOCK_PROCESS_CPUTIME_ID, NULL);
	CHECK(timer_delete(gap) == 0 && timer_delete(another_gap) == 0);
	struct itimerspec often = { { 0, 3000000 }, { 0, 1000000 } }, once = { { 0, 0 }, { 1000000, 0 } };
	CHECK(timer_settime(ticking, 0, &often, NULL) == 0);
	CHECK(timer_settime(tocking, 0, &often, NULL) == 0);
	CHECK(timer_settime(silent, 0, &once, NULL) == 0);
}

/* Each has its own setting, whoever asks. */
static void check_timers(void)
{
	struct itimerspec left;
	CHECK(timer_gettime(ticking, &left) == 0 && left.it_interval.tv_nsec == 3000000);
	CHECK(timer_gettime(tocking, &left) == 0 && left.it_interval.tv_nsec == 3000000);
	CHECK(timer_gettime(silent, &left) == 0);
	CHECK(left.it_interval.tv_nsec == 0 && left.it_value.tv_sec > 900000 && left.it_value.tv_sec < 1000000);
	CHECK(timer_gettime(idle, &left) == 0 && left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
	/* And they go on: both threads are woken. */
	siginfo_t info;
	sigset_t tick;
	struct timespec limit = { 10, 0 };
	sigemptyset(&tick);
	sigaddset(&tick, TICK);
	CHECK(sigtimedwait(&tick, &info, &limit) == TICK);
	CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 4711);
	char told[4096];
	while (read(tocks[0], told, sizeof told) == sizeof told)
		;
	CHECK(read(tocks[0], told, sizeof told) > 0);
}

/* One signal waits for the process and one for this thread, with what they were sent with. */
static void send_signals(int round)
{
	sigset_t both;
	struct timespec none = { 0, 0 };
	sigemptyset(&both);
	sigaddset(&both, LATER);
	sigaddset(&both, MINE);
	pid_t pid;
	do {
		/* Between the look at the id and the sending the process may be promoted, and has another id then: what was
		 * sent to the old one is lost (README, limits). */
		while (sigtimedwait(&both, NULL, &none) > 0)
			;
		pid = getpid();
		union sigval value = { .sival_int = round };
		CHECK(sigqueue(pid, LATER, value) == 0);
		value.sival_int = -round;
		CHECK(pthread_sigqueue(pthread_self(), MINE, value) == 0);
	} while (getpid() != pid);
}

static void take_signals(int round)
{
	siginfo_t info;
	sigset_t set;
	struct timespec none = { 0, 0 };
	sigemptyset(&set);
	sigaddset(&set, LATER);
	CHECK(sigtimedwait(&set, &info, &none) == LATER);
	CHECK(info.si_code == SI_QUEUE && info.si_value.sival_int == round);
	CHECK(sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);
	sigemptyset(&set);
	sigaddset(&set, MINE);
	CHECK(sigtimedwait(&set, &info, &none) == MINE);
	CHECK(info.si_code == SI_QUEUE && info.si_value.sival_int == -round);
	CHECK(sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN);
}

static void set_scheduling(int round)
{
	CHECK(setpriority(PRIO_PROCESS, 0, round % 5) == 0);
	CHECK(prctl(PR_SET_TIMERSLACK, 50000 + round % 100, 0, 0, 0) == 0);
	CHECK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | round % 8) == 0);
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(round % 2 && sysconf(_SC_NPROCESSORS_ONLN) > 1, &cpus);
	CHECK(sched_setaffinity(0, sizeof cpus, &cpus) == 0);
	pid_t pid;
	do {
		/* If the process is promoted before it writes, the file is the old one's (README, limits). */
		pid = getpid();
		FILE *file = fopen("/proc/self/oom_score_adj", "w");
		CHECK(file && fprintf(file, "%d", 100 + round % 50) > 0 && fclose(file) == 0);
	} while (getpid() != pid);
}

static void check_scheduling(int round)
{
	CHECK(getpriority(PRIO_PROCESS, 0) == round % 5);
	CHECK(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 50000 + round % 100);
	CHECK(syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | round % 8));
	cpu_set_t cpus;
	CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0);
	CHECK(CPU_COUNT(&cpus) == 1 && CPU_ISSET(round % 2 && sysconf(_SC_NPROCESSORS_ONLN) > 1, &cpus));
	int score = -1;
	FILE *file = fopen("/proc/self/oom_score_adj", "r");
	CHECK(file && fscanf(file, "%d", &score) == 1 && fclose(file) == 0);
	CHECK(score == 100 + round % 50);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	/* When a handler ran between two calls nobody can tell, so these are waited for. */
	sigset_t later;
	sigemptyset(&later);
	sigaddset(&later, TICK);
	sigaddset(&later, LATER);
	sigaddset(&later, MINE);
	CHECK(sigprocmask(SIG_BLOCK, &later, NULL) == 0);
	handle(TOCK, on_tock);
	CHECK(pipe2(tocks, 0) == 0 && fcntl(tocks[1], F_SETFL, O_NONBLOCK) == 0);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, help, NULL) == 0);
	while (!helper_id)
		sched_yield();
	make_timers();
	int round = 0;
	do {
		if (round) {
			take_signals(round);
			check_scheduling(round);
		}
		check_timers();
		round++;
		set_scheduling(round);
		send_signals(round);
	} while (victim_next(1000));
	return 0;
}

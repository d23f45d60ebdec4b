/* Faults that are handled, on purpose: a page that is not there (left by siglongjmp, or brought in), a division by zero, a
 * breakpoint; signals of that kind that it sends to itself; and signals that it ignores, sent to a thread that waits in
 * epoll_wait and must never be interrupted.
 *
 * A test pokes a number into `fault`: then one process does something else.
 */
#include "victim.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

/* The same numbers are in tests/tests/divergences.rs and killed_leader.rs. */
enum fault { NONE, NO_FAULT, ONE_MORE, DIES_IN_HANDLER, LAST_WORD };
static volatile int fault;

static volatile sig_atomic_t aborts, brought, traps, dies;
static volatile int zero;
static sigjmp_buf away;
static char *page;
static int bell, answer;
static pthread_t waiter;

static void on_segv(int signal, siginfo_t *info, void *context)
{
	(void)context;
	if (dies) {
		/* As a program that writes a report: calls, then the default action. */
		getppid();
		struct sigaction action = { .sa_handler = SIG_DFL };
		sigaction(signal, &action, NULL);
		getppid();
		raise(signal);
		return;
	}
	CHECK(signal == SIGSEGV && info->si_addr >= (void *)page && info->si_addr < (void *)(page + 4096) && info->si_code == SEGV_ACCERR);
	if (!brought)
		siglongjmp(away, 1);
	CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
	brought++;
}

static void on_fpe(int signal)
{
	CHECK(signal == SIGFPE);
	siglongjmp(away, 2);
}

static void on_trap(int signal)
{
	CHECK(signal == SIGTRAP);
	traps++;
}

static void on_abort(int signal)
{
	CHECK(signal == SIGABRT);
	aborts++;
}

static void on_last(int signal)
{
	(void)signal;
	CHECK(!"a crash is not taken over before its report");
}

static void one_fault(int none)
{
	brought = 0;
	CHECK(mprotect(page, 4096, none ? PROT_READ | PROT_WRITE : PROT_NONE) == 0);
	int came = sigsetjmp(away, 1);
	if (came == 0) {
		*(volatile char *)page = 1;
		if (none)
			return;
		CHECK(!"a write to a page without access");
	}
	CHECK(came == 1);
}

/* The instruction is made again after the handler has brought the page. */
static void bring(void)
{
	CHECK(mprotect(page, 4096, PROT_NONE) == 0);
	brought = 1;
	*(volatile char *)(page + 100) = 7;
	CHECK(brought == 2 && page[100] == 7);
}

static void faults(int f)
{
	if (f == DIES_IN_HANDLER) {
		dies = 1;
		*(volatile char *)16 = 1;
	}
	if (f == LAST_WORD)
		__asm__ volatile("ud2");
	if (f == ONE_MORE)
		bring();
	one_fault(f == NO_FAULT);
	getppid();
	bring();
	int came = sigsetjmp(away, 1);
	if (came == 0)
		zero = 100 / zero;
	CHECK(came == 2);
	int before = traps;
	__asm__ volatile("int3");
	CHECK(traps == before + 1);
}

/* Promoted between the call that asks for its id and the one that uses it, it has addressed a process that is gone. */
static void again(int how, int signal)
{
	int error;
	do {
		error = 0;
		if (how == 0 && raise(signal) != 0)
			error = errno;
		if (how == 1 && kill(getpid(), signal) != 0)
			error = errno;
		if (how == 2)
			error = pthread_kill(waiter, signal);
	} while (error == ESRCH);
	CHECK(error == 0);
}

/* Signals of the same numbers that nobody's mistake has caused. */
static void sent(void)
{
	int before = aborts;
	again(0, SIGABRT);
	CHECK(aborts == before + 1);
	again(1, SIGABRT);
	CHECK(aborts == before + 2);
	/* Ignored. */
	again(1, SIGBUS);
}

static void ignored(void)
{
	const int signals[] = { SIGCHLD, SIGWINCH, SIGURG, SIGCONT, SIGUSR1, SIGBUS };
	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
		again(2, signals[i]);
}

static void *work(void *unused)
{
	(void)unused;
	sigset_t abort_only;
	sigemptyset(&abort_only);
	sigaddset(&abort_only, SIGABRT);
	CHECK(pthread_sigmask(SIG_UNBLOCK, &abort_only, NULL) == 0);
	uint64_t word;
	do {
		faults(fault);
		sent();
		ignored();
		/* It waits still, and hears what is meant for it. */
		word = 1;
		if (victim_rounds % 4 == 0) {
			CHECK(write(bell, &word, sizeof word) == sizeof word);
			CHECK(read(answer, &word, sizeof word) == sizeof word && word == 1);
		}
	} while (victim_next(5000));
	word = 2;
	CHECK(write(bell, &word, sizeof word) == sizeof word);
	return NULL;
}

static void handle(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
	CHECK(sigaction(signal, &action, NULL) == 0);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	char path[4096], line[32];
	CHECK(snprintf(path, sizeof path, "%s.switch", argv[1]) < (int)sizeof path);
	int out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	CHECK(out >= 0);
	int length = snprintf(line, sizeof line, "%lu\n", (unsigned long)&fault);
	CHECK(write(out, line, length) == length && close(out) == 0);
	struct sigaction segv = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };
	CHECK(sigaction(SIGSEGV, &segv, NULL) == 0);
	handle(SIGFPE, on_fpe, 0);
	handle(SIGTRAP, on_trap, 0);
	handle(SIGABRT, on_abort, 0);
	handle(SIGILL, on_last, SA_RESETHAND);
	handle(SIGUSR1, SIG_IGN, 0);
	handle(SIGBUS, SIG_IGN, 0);
	/* This thread's alone are the ignored ones: a handler would interrupt it, as it should. */
	sigset_t abort_only;
	sigemptyset(&abort_only);
	sigaddset(&abort_only, SIGABRT);
	CHECK(sigprocmask(SIG_BLOCK, &abort_only, NULL) == 0);
	page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	bell = eventfd(0, EFD_CLOEXEC);
	answer = eventfd(0, EFD_CLOEXEC);
	int instance = epoll_create1(EPOLL_CLOEXEC);
	CHECK(bell >= 0 && answer >= 0 && instance >= 0);
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 4711 };
	CHECK(epoll_ctl(instance, EPOLL_CTL_ADD, bell, &event) == 0);
	waiter = pthread_self();
	pthread_t worker;
	CHECK(pthread_create(&worker, NULL, work, NULL) == 0);
	for (;;) {
		uint64_t word;
		CHECK(epoll_wait(instance, &event, 1, 1000000) == 1 && event.data.u64 == 4711);
		CHECK(read(bell, &word, sizeof word) == sizeof word);
		if (word == 2)
			break;
		CHECK(write(answer, &word, sizeof word) == sizeof word);
	}
	CHECK(pthread_join(worker, NULL) == 0);
	return 0;
}

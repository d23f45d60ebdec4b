/* Programs that cannot be followed, each for one reason: refused REASON PROGRESS-FILE. After it has
 * done what it is refused for, it counts its rounds like a victim, so that one sees that it goes on.
 */
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "../victims/victim.h"

static void io_uring(void)
{
	struct io_uring_params params = { 0 };
	CHECK(syscall(SYS_io_uring_setup, 4, &params) >= 0);
}

static void aio(void)
{
	aio_context_t context = 0;
	CHECK(syscall(SYS_io_setup, 4, &context) == 0);
}

static void faults(void)
{
	CHECK(syscall(SYS_userfaultfd, 0) >= 0);
}

static void counter(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof attr,
					.config = PERF_COUNT_SW_TASK_CLOCK };
	CHECK(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) >= 0);
}

static void filter(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = 1, .filter = &allow };
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void shared(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
}

/* Read-only now, but mprotect(2) could change that. */
static void writable(void)
{
	char path[] = "/tmp/mvedsua-refused-XXXXXX";
	int file = mkstemp(path);
	CHECK(file >= 0 && unlink(path) == 0 && ftruncate(file, 4096) == 0);
	CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED);
	close(file);
}

/* No copy of the process has it. */
static void uncopied(void)
{
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED && madvise(page, 4096, MADV_DONTFORK) == 0);
}

static void *rest(void *ready)
{
	pthread_barrier_wait(ready);
	while (!victim_stop)
		pause();
	return NULL;
}

/* The raw call: glibc's would change all threads. */
static void *become_nobody(void *ready)
{
	CHECK(syscall(SYS_setresuid, 65534, 65534, 65534) == 0);
	return rest(ready);
}

static void thread(void *(*body)(void *))
{
	static pthread_barrier_t ready;
	pthread_t other;
	CHECK(pthread_barrier_init(&ready, NULL, 2) == 0);
	CHECK(pthread_create(&other, NULL, body, &ready) == 0);
	pthread_barrier_wait(&ready);
}

static void threads(void)
{
	thread(rest);
}

static void identities(void)
{
	thread(become_nobody);
}

static void nothing(void)
{
}

static const struct {
	const char *name;
	void (*go)(void);
} reasons[] = {
	{ "io_uring", io_uring },     { "aio", aio },	      { "userfaultfd", faults },
	{ "perf_event", counter },    { "seccomp", filter },  { "shared", shared },
	{ "writable", writable },     { "uncopied", uncopied },
	{ "identities", identities }, { "threads", threads }, { "nothing", nothing },
};

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	victim_start(argc - 1, argv + 1);
	for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
		if (strcmp(argv[1], reasons[i].name) == 0) {
			reasons[i].go();
			while (victim_next(1000))
				;
			return 0;
		}
	}
	fprintf(stderr, "no such reason: %s\n", argv[1]);
	return 2;
}

/* Executes itself again all the time, with many arguments, which the kernel has to read from a disk if the progress file is
 * on one: it takes its time. In turn: without other threads, from the main thread beside others, and from another thread
 * than that. Its rounds count on.
 */
#include "victim.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define FILLERS 50
#define LENGTH (100 << 10)
#define IDLE 3

static char **words;

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

/* FILLERS words of LENGTH bytes in a file, of which nothing is in memory. */
static char *far_words(void)
{
	char path[4096];
	CHECK(snprintf(path, sizeof path, "%s.words", words[1]) < (int)sizeof path);
	int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(file >= 0);
	struct stat is;
	CHECK(fstat(file, &is) == 0);
	if (is.st_size < (off_t)FILLERS * LENGTH) {
		static char word[LENGTH];
		memset(word, 'x', sizeof word - 1);
		for (int i = 0; i < FILLERS; i++)
			CHECK(write(file, word, sizeof word) == sizeof word);
		CHECK(fdatasync(file) == 0);
	}
	size_t size = (size_t)FILLERS * LENGTH;
	char *far = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
	CHECK(far != MAP_FAILED);
	/* Only what costs nothing on some file systems. */
	(void)madvise(far, size, MADV_RANDOM);
	(void)posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
	return far;
}

/* Once more: PROGRESS-FILE ROUNDS GENERATION FILLERS... */
static void *execute(void *unused)
{
	static char rounds[24], generation[24];
	unsigned long before = words[2] ? strtoul(words[3], NULL, 10) : 0;
	/* A quarter of it is the most for arguments. */
	struct rlimit stack;
	CHECK(getrlimit(RLIMIT_STACK, &stack) == 0);
	stack.rlim_cur = 64 << 20;
	CHECK(setrlimit(RLIMIT_STACK, &stack) == 0);
	snprintf(rounds, sizeof rounds, "%lu", victim_rounds);
	snprintf(generation, sizeof generation, "%lu", before + 1);
	char *far = far_words();
	char *next[4 + FILLERS + 1] = { words[0], words[1], rounds, generation };
	for (int i = 0; i < FILLERS; i++)
		next[4 + i] = far + (size_t)i * LENGTH;
	execv("/proc/self/exe", next);
	CHECK(!"execv returned");
	return unused;
}

int main(int argc, char **argv)
{
	words = argv;
	unsigned long generation = 0;
	if (argc == 2) {
		victim_start(argc, argv);
	} else {
		/* SIGTERM is still blocked. */
		struct sigaction action = { .sa_handler = victim_on_term, .sa_flags = SA_RESTART };
		CHECK(sigaction(SIGTERM, &action, NULL) == 0);
		victim_progress = open(argv[1], O_WRONLY | O_CLOEXEC);
		CHECK(victim_progress >= 0);
		victim_rounds = strtoul(argv[2], NULL, 10);
		generation = strtoul(argv[3], NULL, 10);
	}
	pthread_t thread;
	if (generation % 3 != 0)
		for (int i = 0; i < IDLE; i++)
			CHECK(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
	/* Longer than an update takes until it stops the server. */
	for (int i = 0; i < 20; i++)
		if (!victim_next(5000))
			return 0;
	if (generation % 3 != 2)
		execute(NULL);
	CHECK(pthread_create(&thread, NULL, execute, NULL) == 0);
	for (;;)
		pause();
}

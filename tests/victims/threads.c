/* Eight threads: contended mutexes and condition variables, pipes between them, creation and join. */
#include "victim.h"
#include <pthread.h>

#define THREADS 8
#define STEPS 4

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long turn;		/* under lock: who may go, modulo THREADS */
static unsigned long generation;	/* under lock: round that the threads work on */
static unsigned long done;		/* under lock: threads that finished the round */
static unsigned long shared[16];	/* under lock: all equal, always */
static int leave;			/* under lock */
static int ring[THREADS][2];		/* pipe from each thread to the next */

/* Adds one to every word, and sees that nobody else was at it. */
static void contend(void)
{
	CHECK(pthread_mutex_lock(&lock) == 0);
	for (int i = 0; i < 16; i++) {
		CHECK(i == 15 || shared[i] == shared[i + 1]);
		shared[i]++;
		CHECK(shared[i] == shared[0]);
	}
	CHECK(pthread_mutex_unlock(&lock) == 0);
}

static void *work(void *argument)
{
	unsigned long me = (unsigned long)argument, seen = 0;
	for (;;) {
		CHECK(pthread_mutex_lock(&lock) == 0);
		while (generation == seen && !leave)
			CHECK(pthread_cond_wait(&changed, &lock) == 0);
		if (leave) {
			CHECK(pthread_mutex_unlock(&lock) == 0);
			return (void *)(me + 1);
		}
		seen = generation;
		/* In turn: each waits for its predecessor. */
		while (turn % THREADS != me)
			CHECK(pthread_cond_wait(&changed, &lock) == 0);
		turn++;
		CHECK(pthread_cond_broadcast(&changed) == 0);
		CHECK(pthread_mutex_unlock(&lock) == 0);

		for (int i = 0; i < STEPS; i++)
			contend();

		/* A token around the ring of pipes; thread 0 starts it and gets it back. */
		unsigned long token = seen * 1000;
		if (me == 0)
			CHECK(write(ring[0][1], &token, sizeof token) == sizeof token);
		int from = (me + THREADS - 1) % THREADS;
		CHECK(read(ring[from][0], &token, sizeof token) == sizeof token);
		if (me == 0) {
			CHECK(token == seen * 1000 + THREADS - 1);
		} else {
			CHECK(token == seen * 1000 + me - 1);
			token++;
			CHECK(write(ring[me][1], &token, sizeof token) == sizeof token);
		}

		CHECK(pthread_mutex_lock(&lock) == 0);
		done++;
		CHECK(pthread_cond_broadcast(&changed) == 0);
		CHECK(pthread_mutex_unlock(&lock) == 0);
	}
}

/* A thread that lives for one round. */
static void *once(void *argument)
{
	contend();
	return (void *)((unsigned long)argument * 3);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++)
		CHECK(pipe2(ring[i], O_CLOEXEC) == 0);
	for (unsigned long i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
	do {
		CHECK(pthread_mutex_lock(&lock) == 0);
		unsigned long before = shared[0];
		done = 0;
		generation++;
		CHECK(pthread_cond_broadcast(&changed) == 0);
		while (done < THREADS)
			CHECK(pthread_cond_wait(&changed, &lock) == 0);
		CHECK(shared[0] == before + THREADS * STEPS);
		CHECK(shared[15] == shared[0]);
		CHECK(turn == generation * THREADS);
		CHECK(pthread_mutex_unlock(&lock) == 0);

		pthread_t brief;
		void *result;
		CHECK(pthread_create(&brief, NULL, once, (void *)generation) == 0);
		CHECK(pthread_join(brief, &result) == 0);
		CHECK((unsigned long)result == generation * 3);
	} while (victim_next(1000));
	CHECK(pthread_mutex_lock(&lock) == 0);
	leave = 1;
	CHECK(pthread_cond_broadcast(&changed) == 0);
	CHECK(pthread_mutex_unlock(&lock) == 0);
	for (unsigned long i = 0; i < THREADS; i++) {
		void *result;
		CHECK(pthread_join(threads[i], &result) == 0);
		CHECK((unsigned long)result == i + 1);
	}
	return 0;
}

/* An event loop and a thread, both changed, and a helper that comes and goes. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static int wakeups, work;

__attribute__((noinline)) static void helper(int value) {
    work += value * VERSION;
}

__attribute__((noinline)) static int wait_for_events(void) {
    int events = poll(NULL, 0, 0);
    wakeups += VERSION;
    return events;
}

static void *worker(void *argument) {
    work += VERSION;
    return argument;
}

void answer(const char *line) {
    pthread_t thread;
    pthread_create(&thread, NULL, worker, NULL);
    wait_for_events();
    helper(atoi(line));
    pthread_join(thread, NULL);
    printf("%d %d\n", wakeups, work);
}

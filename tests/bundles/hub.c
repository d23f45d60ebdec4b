/* Clients whose addresses are in epoll data words, in registers and on stacks, and a lock that a thread
 * may hold for long. Version 2 puts a field before the others of a client. main() does not change. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

struct client {
#if VERSION == 2
    long opened;
#endif
    int fd;
    long count;
    char name[16];
};

struct client *clients[4];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int to_holder[2], from_holder[2];

__attribute__((noinline)) void *take(size_t bytes) {
    pthread_mutex_lock(&lock);
    void *memory = calloc(1, bytes);
    pthread_mutex_unlock(&lock);
    return memory;
}

static void *holder(void *nothing) {
    char what;
    while (read(to_holder[0], &what, 1) == 1) {
        if (what == 'h') pthread_mutex_lock(&lock);
        if (what == 'r') pthread_mutex_unlock(&lock);
        if (write(from_holder[1], &what, 1) != 1) break;
    }
    return nothing;
}

__attribute__((noinline)) static void tell(char what) {
    if (write(to_holder[1], &what, 1) != 1 || read(from_holder[0], &what, 1) != 1) _exit(1);
}

__attribute__((noinline)) struct client *enter(int slot, int fd, const char *name) {
    struct client *c = take(sizeof *c);
#if VERSION == 2
    c->opened = 2;
#endif
    c->fd = fd;
    strcpy(c->name, name);
    clients[slot] = c;
    return c;
}

__attribute__((noinline)) void serve(struct client *c, struct client *first) {
    char line[64] = "", answer[128];
    ssize_t got = read(c->fd, line, sizeof line - 1);
    if (got <= 0) _exit(0);
    if (line[0] == 'h' || line[0] == 'r') tell(line[0]);
    c->count++;
#if VERSION == 2
    if (c->opened != 1 && c->opened != 2) _exit(3);
#endif
    int length = snprintf(answer, sizeof answer, "%s %ld first %s %ld\n", c->name, c->count, first->name, first->count);
    if (write(1, answer, (size_t)length) != length) _exit(1);
}

int main(void) {
    pthread_t thread;
    if (pipe(to_holder) || pipe(from_holder) || pthread_create(&thread, NULL, holder, NULL)) return 1;
    int epfd = epoll_create1(0);
    struct client *first = enter(0, 0, "stdin");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = first};
    epoll_ctl(epfd, EPOLL_CTL_ADD, 0, &event);
    while (epoll_wait(epfd, &event, 1, -1) == 1) serve(event.data.ptr, first);
    return 0;
}

/* Descriptors of every kind, passed, duplicated, closed and used again, polled in every way. */
#include "victim.h"
#include <poll.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

#define BIG (10u << 20)

static char *big, *back;	/* BIG bytes each */
static int file;		/* an unlinked file of BIG bytes */

static void counters(void)
{
	int fd = eventfd(3, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	CHECK(fd >= 0);
	uint64_t value;
	for (int i = 0; i < 3; i++)
		CHECK(read(fd, &value, 8) == 8 && value == 1);
	CHECK(read(fd, &value, 8) == -1 && errno == EAGAIN);
	value = 7;
	CHECK(write(fd, &value, 8) == 8);
	CHECK(close(fd) == 0);

	fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	CHECK(fd >= 0);
	struct itimerspec soon = { { 0, 0 }, { 0, 200 * 1000 } }, left;
	CHECK(timerfd_settime(fd, 0, &soon, NULL) == 0);
	CHECK(timerfd_gettime(fd, &left) == 0 && left.it_value.tv_sec == 0);
	CHECK(read(fd, &value, 8) == 8 && value == 1);
	CHECK(close(fd) == 0);
}

/* The same number comes back after a close, for another kind of file each time. */
static void reuse(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC), number = fd, pair[2];
	CHECK(fd >= 0);
	CHECK(write(fd, "gone", 4) == 4);
	CHECK(close(fd) == 0);
	fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	CHECK(fd == number);
	char byte = 1;
	CHECK(read(fd, &byte, 1) == 1 && byte == 0);
	CHECK(close(fd) == 0);
	CHECK(pipe2(pair, O_CLOEXEC) == 0 && pair[0] == number);
	CHECK(write(pair[1], "p", 1) == 1 && read(pair[0], &byte, 1) == 1 && byte == 'p');
	CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
	CHECK(read(number, &byte, 1) == -1 && errno == EBADF);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd == number && close(fd) == 0);
}

static void duplicates(void)
{
	int pair[2];
	char byte;
	CHECK(pipe(pair) == 0);
	int copy = dup(pair[1]);
	CHECK(copy > pair[1]);
	CHECK(close(pair[1]) == 0);
	CHECK(write(copy, "d", 1) == 1);
	CHECK(dup2(copy, 200) == 200 && write(200, "e", 1) == 1);
	CHECK(dup3(copy, 201, O_CLOEXEC) == 201 && write(201, "f", 1) == 1);
	int high = fcntl(copy, F_DUPFD, 300), higher = fcntl(copy, F_DUPFD_CLOEXEC, 300);
	CHECK(high >= 300 && higher > high);
	CHECK(fcntl(high, F_GETFD) == 0 && fcntl(higher, F_GETFD) == FD_CLOEXEC);
	CHECK(fcntl(high, F_SETFD, FD_CLOEXEC) == 0 && fcntl(high, F_GETFD) == FD_CLOEXEC);
	for (int i = 0; i < 3; i++)
		CHECK(read(pair[0], &byte, 1) == 1 && byte == 'd' + i);
	CHECK(fcntl(pair[0], F_SETFL, O_NONBLOCK) == 0);
	CHECK((fcntl(pair[0], F_GETFL) & O_NONBLOCK) != 0);
	CHECK(read(pair[0], &byte, 1) == -1 && errno == EAGAIN);
	CHECK(close_range(200, 1000, 0) == 0);
	CHECK(write(201, "f", 1) == -1 && errno == EBADF);
	CHECK(close(copy) == 0);
	CHECK(read(pair[0], &byte, 1) == 0);
	CHECK(close(pair[0]) == 0);
}

/* A pipe's reading end goes through a socket and is used under its new number. */
static void pass(void)
{
	int sockets[2], pair[2], got;
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
	CHECK(pipe2(pair, O_CLOEXEC) == 0);
	CHECK(write(pair[1], "through", 7) == 7);
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, text[8] = "take it";
	struct iovec vector = { text, 7 };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &pair[0], sizeof(int));
	CHECK(sendmsg(sockets[0], &message, 0) == 7);
	CHECK(close(pair[0]) == 0);

	memset(control, 0, sizeof control);
	memset(text, 0, sizeof text);
	CHECK(recvmsg(sockets[1], &message, MSG_CMSG_CLOEXEC) == 7);
	CHECK(memcmp(text, "take it", 7) == 0);
	head = CMSG_FIRSTHDR(&message);
	CHECK(head && head->cmsg_type == SCM_RIGHTS);
	memcpy(&got, CMSG_DATA(head), sizeof(int));
	CHECK(read(got, text, 8) == 7 && memcmp(text, "through", 7) == 0);
	CHECK(close(got) == 0 && close(pair[1]) == 0 && close(sockets[0]) == 0 && close(sockets[1]) == 0);
}

static void many_messages(void)
{
	int sockets[2];
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets) == 0);
	char out[3][16], in[4][16];
	struct iovec vectors[4], into[4];
	struct mmsghdr send[3] = { 0 }, receive[4] = { 0 };
	for (int i = 0; i < 3; i++) {
		int length = snprintf(out[i], 16, "m%d-%lu", i, victim_rounds % 1000);
		vectors[i] = (struct iovec){ out[i], length };
		send[i].msg_hdr.msg_iov = &vectors[i];
		send[i].msg_hdr.msg_iovlen = 1;
	}
	for (int i = 0; i < 4; i++) {
		into[i] = (struct iovec){ in[i], 16 };
		receive[i].msg_hdr.msg_iov = &into[i];
		receive[i].msg_hdr.msg_iovlen = 1;
	}
	CHECK(sendmmsg(sockets[0], send, 3, 0) == 3);
	struct timespec limit = { 5, 0 };
	CHECK(recvmmsg(sockets[1], receive, 4, MSG_DONTWAIT, &limit) == 3);
	for (int i = 0; i < 3; i++) {
		CHECK(send[i].msg_len == vectors[i].iov_len && receive[i].msg_len == send[i].msg_len);
		CHECK(memcmp(in[i], out[i], send[i].msg_len) == 0);
	}
	CHECK(close(sockets[0]) == 0 && close(sockets[1]) == 0);
}

static void vectors(void)
{
	char a[5] = "hello", b[1] = " ", c[6] = "world!", x[3], y[20];
	struct iovec out[3] = { { a, 5 }, { b, 1 }, { c, 6 } }, in[2] = { { x, 3 }, { y, 20 } };
	int pair[2];
	CHECK(pipe2(pair, O_CLOEXEC) == 0);
	CHECK(writev(pair[1], out, 3) == 12);
	CHECK(readv(pair[0], in, 2) == 12);
	CHECK(memcmp(x, "hel", 3) == 0 && memcmp(y, "lo world!", 9) == 0);
	CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
	int fd = memfd_create("vectors", MFD_CLOEXEC);
	CHECK(fd >= 0);
	CHECK(pwritev(fd, out, 3, 100) == 12 && pwritev2(fd, out, 3, 200, 0) == 12);
	CHECK(preadv(fd, in, 2, 100) == 23 && memcmp(y, "lo world!\0", 10) == 0);
	CHECK(preadv2(fd, in, 2, 200, 0) == 12 && memcmp(x, "hel", 3) == 0);
	CHECK(close(fd) == 0);
}

/* One readable and one silent pipe, seen alike by all. */
static void wait_for(void)
{
	int ready[2], silent[2];
	CHECK(pipe2(ready, O_CLOEXEC) == 0 && pipe2(silent, O_CLOEXEC) == 0);
	CHECK(write(ready[1], "r", 1) == 1);
	struct pollfd fds[3] = { { ready[0], POLLIN, 0 }, { silent[0], POLLIN, 0 }, { -1, POLLIN, 0 } };
	CHECK(poll(fds, 3, 1000) == 1 && fds[0].revents == POLLIN && fds[1].revents == 0 && fds[2].revents == 0);
	struct timespec second = { 1, 0 }, none = { 0, 0 };
	sigset_t mask;
	CHECK(sigprocmask(SIG_BLOCK, NULL, &mask) == 0);
	fds[0].revents = 0;
	CHECK(ppoll(fds, 2, &second, &mask) == 1 && fds[0].revents == POLLIN);
	CHECK(ppoll(fds + 1, 1, &none, NULL) == 0);
	fd_set set;
	int top = (ready[1] > silent[1] ? ready[1] : silent[1]) + 1;
	FD_ZERO(&set);
	FD_SET(ready[0], &set);
	FD_SET(silent[0], &set);
	struct timeval limit = { 1, 0 };
	CHECK(select(top, &set, NULL, NULL, &limit) == 1);
	CHECK(FD_ISSET(ready[0], &set) && !FD_ISSET(silent[0], &set));
	CHECK(limit.tv_sec == 1 || limit.tv_usec > 0);
	FD_SET(silent[0], &set);
	CHECK(pselect(top, &set, NULL, NULL, &second, &mask) == 1);
	CHECK(FD_ISSET(ready[0], &set) && !FD_ISSET(silent[0], &set));
	CHECK(close(ready[0]) == 0 && close(ready[1]) == 0 && close(silent[0]) == 0 && close(silent[1]) == 0);
}

struct connection {
	int fd, peer;
	unsigned long events;
};

/* Edge-triggered, with pointers into the heap as data: the two sides' pointers are their own. */
static void edges(int lasting, struct connection *permanent)
{
	int instance = epoll_create1(EPOLL_CLOEXEC);
	CHECK(instance >= 0);
	struct connection *all[4];
	struct epoll_event event, got[8];
	for (int i = 0; i < 4; i++) {
		int pair[2];
		CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
		all[i] = malloc(sizeof *all[i]);
		CHECK(all[i]);
		*all[i] = (struct connection){ pair[0], pair[1], 0 };
		event = (struct epoll_event){ .events = EPOLLIN | EPOLLET, .data.ptr = all[i] };
		CHECK(epoll_ctl(instance, EPOLL_CTL_ADD, pair[0], &event) == 0);
	}
	CHECK(write(all[1]->peer, "1", 1) == 1 && write(all[3]->peer, "3", 1) == 1);
	int count = epoll_wait(instance, got, 8, 1000);
	CHECK(count == 2);
	for (int i = 0; i < count; i++) {
		struct connection *c = got[i].data.ptr;
		CHECK(c == all[1] || c == all[3]);
		CHECK(got[i].events == EPOLLIN);
		c->events++;
	}
	CHECK(all[1]->events == 1 && all[3]->events == 1);
	/* No new edge although nothing was read; one after a new byte. */
	CHECK(epoll_wait(instance, got, 8, 0) == 0);
	CHECK(write(all[3]->peer, "4", 1) == 1);
	CHECK(epoll_pwait(instance, got, 8, 1000, NULL) == 1 && got[0].data.ptr == all[3]);
	struct timespec none = { 0, 0 };
	CHECK(epoll_pwait2(instance, got, 8, &none, NULL) == 0);
	/* Changed to level-triggered with other data, then removed. */
	event = (struct epoll_event){ .events = EPOLLIN, .data.ptr = all[0] };
	CHECK(epoll_ctl(instance, EPOLL_CTL_MOD, all[1]->fd, &event) == 0);
	CHECK(epoll_wait(instance, got, 8, 1000) == 1 && got[0].data.ptr == all[0]);
	CHECK(epoll_ctl(instance, EPOLL_CTL_DEL, all[1]->fd, NULL) == 0);
	CHECK(epoll_wait(instance, got, 8, 0) == 0);
	for (int i = 0; i < 4; i++) {
		CHECK(close(all[i]->fd) == 0 && close(all[i]->peer) == 0);
		free(all[i]);
	}
	CHECK(close(instance) == 0);

	/* The instance that lives as long as the program. */
	char byte = (char)victim_rounds;
	CHECK(write(permanent->peer, &byte, 1) == 1);
	CHECK(epoll_wait(lasting, got, 8, 1000) == 1);
	struct connection *c = got[0].data.ptr;
	CHECK(c == permanent && ++c->events == victim_rounds + 1);
	byte++;
	CHECK(read(c->fd, &byte, 1) == 1 && byte == (char)victim_rounds);
}

static void files(void)
{
	int pair[2], sockets[2];
	CHECK(pipe2(pair, O_CLOEXEC) == 0);
	off_t offset = 4096;
	CHECK(sendfile(pair[1], file, &offset, 1000) == 1000 && offset == 5096);
	CHECK(read(pair[0], back, 4096) == 1000 && memcmp(back, big + 4096, 1000) == 0);
	loff_t from = 8192;
	CHECK(splice(file, &from, pair[1], NULL, 2000, 0) == 2000 && from == 10192);
	int second[2];
	CHECK(pipe2(second, O_CLOEXEC) == 0);
	CHECK(tee(pair[0], second[1], 2000, 0) == 2000);
	CHECK(read(pair[0], back, 4096) == 2000 && memcmp(back, big + 8192, 2000) == 0);
	CHECK(read(second[0], back, 4096) == 2000 && memcmp(back, big + 8192, 2000) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
	offset = 0;
	CHECK(sendfile(sockets[0], file, &offset, 5000) == 5000);
	CHECK(recv(sockets[1], back, 5000, MSG_WAITALL) == 5000 && memcmp(back, big, 5000) == 0);
	CHECK(close(pair[0]) == 0 && close(pair[1]) == 0 && close(second[0]) == 0 && close(second[1]) == 0);
	CHECK(close(sockets[0]) == 0 && close(sockets[1]) == 0);

	/* A private mapping shows the file and keeps its own changes. */
	char *map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 65536);
	CHECK(map != MAP_FAILED);
	CHECK(memcmp(map, big + 65536, 65536) == 0);
	map[100] ^= 1;
	CHECK(pread(file, back, 65536, 65536) == 65536);
	CHECK(back[100] != map[100] && memcmp(back, big + 65536, 65536) == 0);
	CHECK(munmap(map, 65536) == 0);
}

/* Ten megabytes in one call each way. */
static void big_ones(void)
{
	CHECK(pwrite(file, big, BIG, 0) == BIG);
	memset(back, 0, BIG);
	CHECK(lseek(file, 0, SEEK_SET) == 0);
	CHECK(read(file, back, BIG) == BIG);
	CHECK(memcmp(big, back, BIG) == 0);
	/* Into a full pipe: a part is written, and the rest is told. */
	int pair[2];
	CHECK(pipe2(pair, O_CLOEXEC | O_NONBLOCK) == 0);
	ssize_t written = write(pair[1], big, BIG);
	CHECK(written > 0 && written < BIG);
	CHECK(write(pair[1], big, BIG) == -1 && errno == EAGAIN);
	ssize_t total = 0, got;
	while ((got = read(pair[0], back + total, BIG)) > 0)
		total += got;
	CHECK(got == -1 && errno == EAGAIN && total == written);
	CHECK(memcmp(big, back, written) == 0);
	CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	big = malloc(BIG);
	back = malloc(BIG);
	CHECK(big && back);
	for (unsigned i = 0; i < BIG; i++)
		big[i] = (char)(i * 2654435761u >> 24);
	char name[4096];
	CHECK(snprintf(name, sizeof name, "%s.data", argv[1]) < (int)sizeof name);
	file = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(file >= 0);
	CHECK(unlink(name) == 0);
	CHECK(write(file, big, BIG) == BIG);
	int lasting = epoll_create1(EPOLL_CLOEXEC), pair[2];
	CHECK(lasting >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	struct connection *permanent = malloc(sizeof *permanent);
	CHECK(permanent);
	*permanent = (struct connection){ pair[0], pair[1], 0 };
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.ptr = permanent };
	CHECK(epoll_ctl(lasting, EPOLL_CTL_ADD, pair[0], &event) == 0);
	do {
		counters();
		reuse();
		duplicates();
		pass();
		many_messages();
		vectors();
		wait_for();
		edges(lasting, permanent);
		files();
		if (victim_rounds % 64 == 0)
			big_ones();
	} while (victim_next(8000));
	return 0;
}

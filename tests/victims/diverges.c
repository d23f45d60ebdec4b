/* A server that does one thing differently when it is told to: a test finds the address of `fault` in
 * PROGRESS-FILE.switch and pokes a number into the follower's memory.
 */
#include "victim.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* The same numbers are in tests/tests/divergences.rs. */
enum fault {
	NONE, OTHER_CALL, OTHER_FD, OTHER_FLAGS, OTHER_SIZE, OTHER_PATH, OTHER_PEER, OTHER_BYTES, EXTRA_CALL,
	MISSING_CALL, CRASH, HANG, EXIT, OTHER_VECTOR, OTHER_MESSAGE, OTHER_SECOND_MESSAGE, OTHER_COMMAND,
	OTHER_EVENTS, OTHER_POLL, OTHER_OFFSET, MISSING_THREAD, EXTRA_THREAD, THREAD_CALLS, NO_BUFFER,
	BAD_BUFFER, BAD_ROOM, ABORT, OTHER_OPTION, FORKS, MORE_CLOCKS, FEWER_CLOCKS,
	OTHER_CLOCK
};
static volatile int fault;

static int null, zero, sockets[2], wire, epoll;
static struct sockaddr_in peer;
static char text[8] = "abcdefg";
static char *volatile nowhere = (char *)16;

static void *brief(void *extra)
{
	CHECK(getppid() >= 0);
	if (extra)
		CHECK(getuid() + 1 > 0);
	return NULL;
}

static void run_thread(int extra)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, brief, extra ? text : NULL) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
}

static __attribute__((noinline)) void crash(void)
{
	*(volatile int *)8 = 1;
}

/* These are no divergences: a reading more or less has no effect on the world. */
static void clocks(int f)
{
	struct timespec first, next;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &first) == 0);
	if (f == MORE_CLOCKS)
		for (int i = 0; i < 3; i++) {
			CHECK(clock_gettime(CLOCK_MONOTONIC, &next) == 0);
			CHECK(clock_gettime(CLOCK_BOOTTIME, &next) == 0);
		}
	if (f != FEWER_CLOCKS)
		CHECK(clock_gettime(f == OTHER_CLOCK ? CLOCK_MONOTONIC_RAW : CLOCK_REALTIME, &next) == 0);
	getppid();
	CHECK(clock_gettime(CLOCK_MONOTONIC, &next) == 0);
	CHECK(next.tv_sec > first.tv_sec || (next.tv_sec == first.tv_sec && next.tv_nsec >= first.tv_nsec));
}

static void work(int f)
{
	char in[8];
	if (f == CRASH)
		crash();
	while (f == HANG)
		;
	if (f == EXIT)
		exit(3);
	if (f == ABORT)
		abort();
	syscall(f == OTHER_CALL ? SYS_getegid : SYS_getgid);
	/* The kernel's answers to what a diverging copy asks for are never seen. */
	CHECK(write(f == OTHER_FD ? zero : null, text, 8) == 8);
	CHECK(close(open("/dev/null", f == OTHER_FLAGS ? O_RDONLY | O_NOFOLLOW : O_RDONLY)) == 0);
	CHECK(write(null, text, f == OTHER_SIZE ? 7 : 8) == 8);
	CHECK(access(f == OTHER_PATH ? "/dev/zero" : "/dev/null", R_OK) == 0);
	struct sockaddr_in to = peer;
	if (f == OTHER_PEER)
		to.sin_port ^= htons(1);
	CHECK(sendto(wire, text, 8, 0, (struct sockaddr *)&to, sizeof to) == 8);
	text[3] = f == OTHER_BYTES ? 'D' : 'd';
	CHECK(write(null, text, 8) == 8);
	text[3] = 'd';
	if (f == EXTRA_CALL)
		getuid();
	geteuid();
	if (f != MISSING_CALL)
		getpgrp();
	getegid();
	char last[4] = "xyz";
	if (f == OTHER_VECTOR)
		last[2] = 'Z';
	struct iovec vectors[2] = { { text, 8 }, { last, 4 } };
	CHECK(writev(null, vectors, 2) == 12);
	if (f == OTHER_MESSAGE)
		last[0] = 'X';
	struct msghdr message = { .msg_iov = vectors, .msg_iovlen = 2 };
	CHECK(sendmsg(sockets[0], &message, 0) == 12);
	CHECK(recv(sockets[1], in, 8, 0) == 8);
	struct iovec one = { text, 8 }, two = { last, 4 };
	struct mmsghdr messages[2] = { { .msg_hdr = { .msg_iov = &one, .msg_iovlen = 1 } },
		{ .msg_hdr = { .msg_iov = &two, .msg_iovlen = 1 } } };
	last[1] = f == OTHER_SECOND_MESSAGE ? 'Y' : 'y';
	CHECK(sendmmsg(sockets[0], messages, 2, 0) == 2);
	CHECK(recv(sockets[1], in, 8, 0) == 8 && recv(sockets[1], in, 8, 0) == 4);
	int number = 0;
	CHECK(ioctl(sockets[0], f == OTHER_COMMAND ? FIONBIO : FIONREAD, &number) == 0);
	struct epoll_event event = { .events = f == OTHER_EVENTS ? EPOLLOUT : EPOLLIN, .data.fd = sockets[0] };
	CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, sockets[0], &event) == 0);
	struct pollfd waits = { sockets[0], f == OTHER_POLL ? POLLPRI : POLLIN, 0 };
	CHECK(poll(&waits, 1, 0) == 0);
	CHECK(pread(zero, in, 8, f == OTHER_OFFSET ? 16 : 0) == 8);
	int on = 1;
	CHECK(setsockopt(wire, SOL_SOCKET, f == OTHER_OPTION ? SO_BROADCAST : SO_REUSEADDR, &on, sizeof on) == 0);
	if (f == FORKS && fork() == 0)
		_exit(0);
	getppid();
	if (f != MISSING_THREAD)
		run_thread(f == THREAD_CALLS);
	if (f == EXTRA_THREAD)
		run_thread(0);
	CHECK(read(zero, f == BAD_ROOM ? nowhere : in, 8) == 8);
	struct timespec now;
	CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, f == NO_BUFFER ? NULL : &now) == 0);
	clocks(f);
	CHECK(write(null, f == BAD_BUFFER ? nowhere : text, 8) == 8);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	null = open("/dev/null", O_WRONLY);
	zero = open("/dev/zero", O_RDWR);
	CHECK(null >= 0 && zero >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
	wire = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(wire >= 0);
	peer = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	CHECK(bind(wire, (struct sockaddr *)&peer, sizeof peer) == 0);
	socklen_t length = sizeof peer;
	CHECK(getsockname(wire, (struct sockaddr *)&peer, &length) == 0);
	epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	CHECK(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, sockets[0], &event) == 0);
	char name[4096];
	CHECK(snprintf(name, sizeof name, "%s.switch", argv[1]) < (int)sizeof name);
	FILE *file = fopen(name, "w");
	CHECK(file && fprintf(file, "%lu\n", (unsigned long)&fault) > 0 && fclose(file) == 0);
	do {
		char in[16];
		work(fault);
		while (recv(wire, in, sizeof in, MSG_DONTWAIT) > 0)
			;
	} while (victim_next(1000));
	return 0;
}

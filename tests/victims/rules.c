/* A server of which two versions differ in one thing at a time, for the tests of rules.
 *
 * Its version is a number in its memory: a test finds the address in PROGRESS-FILE.switch and pokes
 * another version into the follower. What is done in a round is a number in PROGRESS-FILE.case, which
 * is read by a system call, so that both sides do the same thing in the same round; with 0 the versions
 * do not differ.
 */
#include "victim.h"
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* The same numbers are in tests/tests/rules.rs. */
enum what {
	NOTHING, TOLERATED, REWRITTEN, CARRIED, DROPPED, INSERTED, REORDERED, MERGED, SPLIT, NOISE, ANY_NUMBER,
	FAILED, MESSAGES, TIMED_OUT, VECTORS, MESSAGE, LONG, STATE, HELD_SIGNAL, LOGGED, READ_VECTORS,
	AGAIN, OPTIONAL, RETRY, TERMINATE, FUEL, TOO_LONG, SEVERAL_SENT, SEVERAL_READ, SEVERAL_NONE, UNCLEAR,
	DUPLICATED, REPLACED, LOOKED_AT
};

/* Poked: 0 is the old version, anything else the new one. */
static volatile int version;
static volatile sig_atomic_t signals;
static int null, wanted, server, client, datagrams[2];
static char big[300 * 1024];

static void on_signal(int signal)
{
	(void)signal;
	signals++;
}

static void put(const char *text)
{
	size_t length = strlen(text);
	CHECK(write(null, text, length) == (ssize_t)length);
}

static void send_request(const char *text)
{
	size_t length = strlen(text);
	CHECK(write(client, text, length) == (ssize_t)length);
}

static void reply(const char *text)
{
	char got[8];
	size_t length = strlen(text);
	CHECK(write(server, text, length) == (ssize_t)length);
	CHECK(read(client, got, length) == (ssize_t)length);
}

/* Reads a line with a buffer of `size` bytes at a time. */
static void read_line(char *line, size_t room, size_t size)
{
	size_t used = 0;
	do {
		CHECK(used + size < room);
		ssize_t n = read(server, line + used, size);
		CHECK(n > 0);
		used += (size_t)n;
	} while (line[used - 1] != '\n');
	line[used] = '\0';
}

/* Both versions know one spelling of PUT each. */
static int knows(const char *line, int new)
{
	return strncmp(line, new ? "PUT-string " : "PUT ", new ? 11 : 4) == 0;
}

/* Reads up to three datagrams at once: how many came, and their lengths and texts. */
static int read_several(char texts[3][24], unsigned lengths[3])
{
	struct iovec vectors[3];
	struct mmsghdr messages[3];
	memset(messages, 0, sizeof messages);
	for (int i = 0; i < 3; i++) {
		vectors[i] = (struct iovec){ texts[i], sizeof texts[i] };
		messages[i].msg_hdr = (struct msghdr){ .msg_iov = &vectors[i], .msg_iovlen = 1 };
	}
	int count = recvmmsg(datagrams[1], messages, 3, MSG_DONTWAIT, NULL);
	for (int i = 0; i < count; i++)
		lengths[i] = messages[i].msg_len;
	return count;
}

static void send_datagram(const char *text)
{
	CHECK(send(datagrams[0], text, strlen(text), 0) == (ssize_t)strlen(text));
}

static void several(int what, int new)
{
	char texts[3][24];
	unsigned lengths[3];
	const char *first = new ? "PUT-string a" : "PUT a";
	const char *second = new ? "twenty" : "two";
	struct iovec vectors[2] = { { "one.", 4 }, { (char *)second, strlen(second) } };
	struct mmsghdr messages[2];
	switch (what) {
	case SEVERAL_SENT:
		memset(messages, 0, sizeof messages);
		for (int i = 0; i < 2; i++)
			messages[i].msg_hdr = (struct msghdr){ .msg_iov = &vectors[i], .msg_iovlen = 1 };
		CHECK(sendmmsg(datagrams[0], messages, 2, 0) == 2);
		CHECK(messages[0].msg_len == 4 && messages[1].msg_len == strlen(second));
		CHECK(recv(datagrams[1], texts[0], 24, 0) == 4 && recv(datagrams[1], texts[0], 24, 0) == 3);
		break;
	case SEVERAL_READ:
		send_datagram("PUT a");
		send_datagram("GET b");
		CHECK(read_several(texts, lengths) == 2);
		CHECK(lengths[0] == strlen(first) && memcmp(texts[0], first, lengths[0]) == 0);
		CHECK(lengths[1] == 5 && memcmp(texts[1], "GET b", 5) == 0);
		break;
	case SEVERAL_NONE:
		if (new)
			CHECK(read_several(texts, lengths) == 1 && lengths[0] == 5 && memcmp(texts[0], "hello", 5) == 0);
		else
			CHECK(read_several(texts, lengths) == -1 && errno == EAGAIN);
		break;
	case UNCLEAR:
		send_datagram("ab");
		send_datagram("cd");
		CHECK(read_several(texts, lengths) == 2);
		break;
	}
}

/* What the new version gets does not fit its buffer. The rest belongs to the connection, not to a number. */
static void descriptors(int what, int new)
{
	char text[32];
	int pair[2], other[2], copy;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	switch (what) {
	case DUPLICATED:
		CHECK(write(pair[1], "DUP a\n", 6) == 6);
		CHECK(read(pair[0], text, 6) == 6);
		copy = dup(pair[0]);
		CHECK(copy >= 0 && close(pair[0]) == 0);
		if (new)
			CHECK(read(copy, text, 20) == 7 && memcmp(text, "ring a\n", 7) == 0);
		CHECK(close(copy) == 0);
		break;
	case REPLACED:
		CHECK(write(pair[1], "REP a\n", 6) == 6);
		CHECK(read(pair[0], text, 6) == 6 && memcmp(text, new ? "REP-st" : "REP a\n", 6) == 0);
		CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, other) == 0);
		CHECK(write(other[1], "hello\n", 6) == 6);
		CHECK(dup2(other[0], pair[0]) == pair[0]);
		CHECK(read(pair[0], text, 20) == 6 && memcmp(text, "hello\n", 6) == 0);
		CHECK(close(other[0]) == 0 && close(other[1]) == 0 && close(pair[0]) == 0);
		break;
	case LOOKED_AT:
		CHECK(write(pair[1], "SEE a\n", 6) == 6);
		CHECK(recv(pair[0], text, 8, MSG_PEEK) == (new ? 8 : 6));
		CHECK(memcmp(text, new ? "SEE-stri" : "SEE a\n", new ? 8 : 6) == 0);
		CHECK(recv(pair[0], text, 20, 0) == (new ? 13 : 6));
		CHECK(memcmp(text, new ? "SEE-string a\n" : "SEE a\n", new ? 13 : 6) == 0);
		CHECK(close(pair[0]) == 0);
		break;
	}
	CHECK(close(pair[1]) == 0);
}

static void work(int what, int new)
{
	char line[128], *at;
	struct iovec vectors[2] = { { "ab", 2 }, { "cd", 2 } };
	struct msghdr message = { .msg_iov = vectors, .msg_iovlen = 2 };
	switch ((enum what)what) {
	case NOTHING:
		break;
	case TOLERATED:
		put(new ? "tolerated 2\n" : "tolerated 1\n");
		break;
	case REWRITTEN:
		put(new ? "HELLO 1.1\r\n" : "HELLO 1.0\r\n");
		break;
	case CARRIED:
		/* What the new version gets does not fit its buffer: it reads twice. */
		send_request("PUT k v\r\n");
		read_line(line, sizeof line, 10);
		reply(knows(line, new) ? "OK\r\n" : "ERR\r\n");
		break;
	case DROPPED:
		if (!new)
			getpgrp();
		break;
	case INSERTED:
		if (new)
			CHECK(getuid() == 42);
		geteuid();
		break;
	case REORDERED:
		if (new)
			CHECK(getpgid(0) >= 0 && getsid(0) >= 0);
		else
			CHECK(getsid(0) >= 0 && getpgid(0) >= 0);
		break;
	case MERGED:
		if (new) {
			put("hello world");
		} else {
			put("hello ");
			put("world");
		}
		break;
	case SPLIT:
		if (new) {
			put("0123");
			put("456");
			put("789\n");
		} else {
			put("0123456789\n");
		}
		break;
	case NOISE:
		put(new ? "pid 12345 is ready\n" : "pid 1 is ready\n");
		break;
	case ANY_NUMBER:
		for (int i = 0; new && i < 3; i++)
			CHECK(getppid() == 7);
		getegid();
		break;
	case FAILED:
		CHECK(access("/nonexistent", R_OK) == (new ? 0 : -1));
		break;
	case MESSAGES:
		send_request("GET a\r\nPUT k v\r\n");
		read_line(line, sizeof line, 64);
		at = strchr(line, '\n');
		reply(at && knows(at + 1, new) ? "OK\r\n" : "ERR\r\n");
		break;
	case TIMED_OUT:
		/* The rule waits for a second write that comes too late for it. */
		put("first\n");
		CHECK(nanosleep(&(struct timespec){ .tv_nsec = 300 * 1000 * 1000 }, NULL) == 0);
		put("second\n");
		break;
	case VECTORS:
		if (new)
			vectors[0] = (struct iovec){ "abX", 3 };
		CHECK(writev(null, vectors, 2) == (new ? 5 : 4));
		break;
	case MESSAGE:
		CHECK(sendmsg(client, &message, 0) == 4);
		vectors[0] = (struct iovec){ line, 1 };
		vectors[1] = (struct iovec){ line + 1, 50 };
		CHECK(recvmsg(server, &message, 0) == (new ? 6 : 4));
		CHECK(memcmp(line, new ? "ab--cd" : "abcd", new ? 6 : 4) == 0);
		break;
	case LONG:
		big[0] = new ? 'M' : 'L';
		CHECK(write(null, big, 100000) == 100000);
		break;
	case STATE:
		put("FEAT\n");
		put(new ? "NOOP\n" : "OPTS\n");
		break;
	case HELD_SIGNAL:
		signals = 0;
		if (new)
			put("hold\nheld\n");
		else
			put("hold\n");
		CHECK(raise(SIGUSR1) == 0 && signals == 1);
		if (!new)
			put("held\n");
		break;
	case LOGGED:
		put("log me\n");
		break;
	case READ_VECTORS:
		send_request("short\n");
		vectors[0] = (struct iovec){ line, 3 };
		vectors[1] = (struct iovec){ line + 3, 20 };
		CHECK(readv(server, vectors, 2) == (new ? 15 : 6));
		CHECK(memcmp(line, new ? "rather shorter\n" : "short\n", new ? 15 : 6) == 0);
		break;
	case AGAIN:
		/* The old version finds nothing, the new one a request of its own. */
		if (new)
			CHECK(recv(server, line, 20, MSG_DONTWAIT) == 5 && memcmp(line, "hello", 5) == 0);
		else
			CHECK(recv(server, line, 20, MSG_DONTWAIT) == -1 && errno == EAGAIN);
		break;
	case OPTIONAL:
		if (new && victim_rounds % 2 == 0)
			CHECK(getppid() == 8);
		getgid();
		put("optional\n");
		break;
	case RETRY:
		put("busy\n");
		break;
	case TERMINATE:
		put("unknown\n");
		break;
	case FUEL:
		big[0] = 'F';
		CHECK(write(null, big, sizeof big) == sizeof big);
		break;
	case TOO_LONG:
		big[0] = 'T';
		CHECK(write(null, big, sizeof big) == sizeof big);
		break;
	case SEVERAL_SENT:
	case SEVERAL_READ:
	case SEVERAL_NONE:
	case UNCLEAR:
		several(what, new);
		break;
	case DUPLICATED:
	case REPLACED:
	case LOOKED_AT:
		descriptors(what, new);
		break;
	}
}

/* Another thread has calls of its own while a rule holds one of the first. */
static void *ticks(void *unused)
{
	(void)unused;
	while (!victim_stop) {
		CHECK(write(null, "tick\n", 5) == 5);
		nanosleep(&(struct timespec){ .tv_nsec = 2 * 1000 * 1000 }, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	null = open("/dev/null", O_WRONLY);
	int pair[2];
	CHECK(null >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	server = pair[0];
	client = pair[1];
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams) == 0);
	memset(big, 'x', sizeof big);
	char name[4096];
	CHECK(snprintf(name, sizeof name, "%s.case", argv[1]) < (int)sizeof name);
	wanted = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	int none = NOTHING;
	CHECK(wanted >= 0 && pwrite(wanted, &none, sizeof none, 0) == sizeof none);
	CHECK(snprintf(name, sizeof name, "%s.switch", argv[1]) < (int)sizeof name);
	FILE *file = fopen(name, "w");
	CHECK(file && fprintf(file, "%lu\n", (unsigned long)&version) > 0 && fclose(file) == 0);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, ticks, NULL) == 0);
	do {
		int what = 0;
		CHECK(pread(wanted, &what, sizeof what, 0) == sizeof what);
		work(what, version != 0);
	} while (victim_next(1000));
	CHECK(pthread_join(thread, NULL) == 0);
	return 0;
}

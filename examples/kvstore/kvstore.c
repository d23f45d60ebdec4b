/*
 * A key-value store over TCP, after Figure 1 of the MVEDSUA paper; own code.
 *
 *   PUT key value          versions 1 and 2: store a text
 *   PUT-string key value   versions 2 and 3: the same
 *   PUT-number key value   versions 2 and 3: store a number; anything else is refused
 *   PUT-date key value     versions 2 and 3: store a date, YYYY-MM-DD
 *   TYPE key               versions 2 and 3: string, number or date
 *   GET key                all: the value, or NONE
 *   COUNT                  all: how many keys
 *
 * One command a line, one reply a line. One thread, one epoll loop, blocking writes of short
 * replies. Version 2 adds a field to the entry: that is what its state transformer fills in.
 *
 *   kvstore-vN PORT        listens on 127.0.0.1
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 1
#endif

enum { BUCKETS = 1 << 20, LINE = 512, CLIENTS = 1024, EVENTS = 64 };

#if VERSION >= 2
enum type { STRING, NUMBER, DATE };
static const char *const type_names[] = { "string", "number", "date" };
#endif

struct entry {
	struct entry *next;
	char *key;
	char *value;
#if VERSION >= 2
	enum type type;
#endif
};

/* What a client has sent of a line that has not ended yet. */
struct client {
	size_t used;
	char line[LINE];
};

static struct entry *table[BUCKETS];
static unsigned long entries;
static struct client *clients[CLIENTS];

static unsigned hash(const char *key)
{
	unsigned h = 2166136261u;

	while (*key)
		h = (h ^ (unsigned char)*key++) * 16777619u;
	return h % BUCKETS;
}

static struct entry *find(const char *key)
{
	struct entry *e = table[hash(key)];

	while (e && strcmp(e->key, key) != 0)
		e = e->next;
	return e;
}

static struct entry *put(const char *key, const char *value)
{
	struct entry *e = find(key);
	char *copy = strdup(value);

	if (!copy)
		return NULL;
	if (e) {
		free(e->value);
		e->value = copy;
		return e;
	}
	e = calloc(1, sizeof(*e));
	if (!e || !(e->key = strdup(key))) {
		free(e);
		free(copy);
		return NULL;
	}
	e->value = copy;
	e->next = table[hash(key)];
	table[hash(key)] = e;
	entries++;
	return e;
}

static void reply(int fd, const char *text)
{
	char line[LINE + 2];
	int n = snprintf(line, sizeof(line), "%s\r\n", text);

	/* A client that is gone is noticed by the next read. */
	if (write(fd, line, (size_t)n) < 0)
		return;
}

#if VERSION >= 2
static int is_number(const char *s)
{
	char *end;

	strtol(s, &end, 10);
	return *s && !*end;
}

static int is_date(const char *s)
{
	static const char form[] = "dddd-dd-dd";
	size_t i;

	for (i = 0; form[i]; i++)
		if (form[i] == 'd' ? !isdigit((unsigned char)s[i]) : s[i] != form[i])
			return 0;
	return !s[i];
}

static void put_typed(int fd, const char *type, const char *key, const char *value)
{
	struct entry *e;
	int t;

	for (t = STRING; t <= DATE; t++)
		if (strcmp(type, type_names[t]) == 0)
			break;
	if (t > DATE) {
		reply(fd, "ERR unknown command");
	} else if (t == NUMBER && !is_number(value)) {
		reply(fd, "ERR not a number");
	} else if (t == DATE && !is_date(value)) {
		reply(fd, "ERR not a date");
	} else if (!(e = put(key, value))) {
		reply(fd, "ERR out of memory");
	} else {
		e->type = (enum type)t;
		reply(fd, "OK");
	}
}
#endif

static void command(int fd, char *line)
{
	char *rest = line;
	char *cmd = strsep(&rest, " ");
	char *key = strsep(&rest, " ");
	char *value = rest;
	struct entry *e;

	if (strcmp(cmd, "COUNT") == 0 && !key) {
		char count[24];

		snprintf(count, sizeof(count), "%lu", entries);
		reply(fd, count);
		return;
	}
	if (strcmp(cmd, "GET") == 0 && key && !value) {
		e = find(key);
		reply(fd, e ? e->value : "NONE");
		return;
	}
#if VERSION <= 2
	if (strcmp(cmd, "PUT") == 0 && key && value) {
		e = put(key, value);
#if VERSION == 2
		if (e)
			e->type = STRING;
#endif
		reply(fd, e ? "OK" : "ERR out of memory");
		return;
	}
#endif
#if VERSION >= 2
	if (strncmp(cmd, "PUT-", 4) == 0 && key && value) {
		put_typed(fd, cmd + 4, key, value);
		return;
	}
	if (strcmp(cmd, "TYPE") == 0 && key && !value) {
		e = find(key);
		reply(fd, e ? type_names[e->type] : "NONE");
		return;
	}
#endif
	reply(fd, "ERR unknown command");
}

static void hang_up(int fd)
{
	free(clients[fd]);
	clients[fd] = NULL;
	close(fd);
}

/* Reads what there is and runs each whole line. The paper's Rule 1 gives a follower the seven bytes
 * "bad-cmd", without a line end: its server takes each read for a command. Here only these are. */
static void serve(int fd)
{
	struct client *c = clients[fd];
	ssize_t n = read(fd, c->line + c->used, LINE - 1 - c->used);
	char *start = c->line;
	char *end;

	if (n <= 0) {
		if (n == 0 || (errno != EINTR && errno != EAGAIN))
			hang_up(fd);
		return;
	}
	c->used += (size_t)n;
	c->line[c->used] = '\0';
	if (strcmp(c->line, "bad-cmd") == 0) {
		c->used = 0;
		command(fd, c->line);
		return;
	}
	while ((end = strchr(start, '\n'))) {
		*end = '\0';
		if (end > start && end[-1] == '\r')
			end[-1] = '\0';
		command(fd, start);
		start = end + 1;
	}
	c->used -= (size_t)(start - c->line);
	memmove(c->line, start, c->used);
	if (c->used == LINE - 1) {
		reply(fd, "ERR line too long");
		hang_up(fd);
	}
}

static void welcome(int epoll, int listener)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), one = 1;

	if (fd < 0)
		return;
	/* Many short replies in a row do not wait for the client's acknowledgements. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (fd >= CLIENTS || !(clients[fd] = calloc(1, sizeof(struct client)))) {
		close(fd);
		return;
	}
	event.data.fd = fd;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		hang_up(fd);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	struct epoll_event events[EVENTS], event = { .events = EPOLLIN };
	int listener, epoll, one = 1;

	if (argc != 2) {
		fprintf(stderr, "usage: %s PORT\n", argv[0]);
		return 2;
	}
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t)atoi(argv[1]));
	signal(SIGPIPE, SIG_IGN);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	event.data.fd = listener;
	if (listener < 0 || epoll < 0 ||
	    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 128) < 0 ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0) {
		perror("kvstore");
		return 1;
	}
	for (;;) {
		int n = epoll_wait(epoll, events, EVENTS, -1);

		if (n < 0 && errno != EINTR) {
			perror("epoll_wait");
			return 1;
		}
		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == listener)
				welcome(epoll, listener);
			else
				serve(events[i].data.fd);
		}
	}
}

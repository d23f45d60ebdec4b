/* A server with children, of which two versions differ, for the tests of rules in process trees: every process
 * has another connection under the same descriptor, and only the process itself knows what was said on it.
 *
 * The version is a number in its memory, as in rules.c: a test pokes another one into each process of the
 * follower; children have it from their makers. What is done in a round is a number in PROGRESS-FILE.case, with 0
 * the versions do not differ.
 */
#include "victim.h"
#include <sys/socket.h>
#include <sys/wait.h>

/* The same numbers are in tests/tests/tree_rules.rs. */
enum what { NOTHING, STATE, CARRIED, CUT_OFF };

/* Descriptors of every process. */
enum { SERVER = 50, CLIENT = 51 };

static volatile int version;
static int null, wanted, to_elder, from_elder;

static void put(int fd, const char *text)
{
	size_t length = strlen(text);
	CHECK(write(fd, text, length) == (ssize_t)length);
}

/* Each process has a connection of its own. */
static void connect_anew(void)
{
	int pair[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK(dup2(pair[0], SERVER) == SERVER && dup2(pair[1], CLIENT) == CLIENT);
	CHECK(close(pair[0]) == 0 && close(pair[1]) == 0);
}

/* The next connection is another under the same descriptors: nothing was said there. */
static void disconnect(void)
{
	CHECK(close(SERVER) == 0 && close(CLIENT) == 0);
}

/* What is read of a request, ten bytes at a time: the new version gets a longer one, and reads twice. */
struct request {
	char line[64];
	size_t used;
};

static int read_more(struct request *request)
{
	ssize_t n = read(SERVER, request->line + request->used, 10);
	CHECK(n > 0);
	request->used += (size_t)n;
	return request->line[request->used - 1] != '\n';
}

static void answer(struct request *request)
{
	char got[8];
	while (request->line[request->used - 1] != '\n')
		read_more(request);
	size_t known = version ? 11 : 4;
	const char *text = strncmp(request->line, version ? "PUT-string " : "PUT ", known) == 0 ? "OK\n" : "ERR\n";
	put(SERVER, text);
	CHECK(read(CLIENT, got, sizeof got) == (ssize_t)strlen(text));
}

/* What a process does that is not the root; `greeted` and `asked`: it has this from its maker. */
static void work(int what, int inherits)
{
	struct request request = { .used = 0 };
	switch ((enum what)what) {
	case NOTHING:
		break;
	case STATE:
		put(null, version && inherits ? "ANSWER 2\n" : "ANSWER 1\n");
		put(CLIENT, version && inherits ? "BYE 2\n" : "BYE 1\n");
		break;
	case CARRIED:
		put(CLIENT, "PUT k v\n");
		read_more(&request);
		answer(&request);
		break;
	case CUT_OFF:
		/* The rule waits for a second write, and this process ends. */
		put(null, "first\n");
		break;
	}
}

/* A child that was there before any update, and works in every round. */
static __attribute__((noreturn)) void elder(int in, int out)
{
	connect_anew();
	int what;
	while (read(in, &what, sizeof what) == sizeof what) {
		work(what == CUT_OFF ? NOTHING : what, 0);
		if (what == STATE) {
			/* Nobody reads what was said. */
			disconnect();
			connect_anew();
		}
		CHECK(write(out, &what, sizeof what) == sizeof what);
	}
	_exit(0);
}

static void ask_elder(int what)
{
	int got;
	CHECK(write(to_elder, &what, sizeof what) == sizeof what);
	CHECK(read(from_elder, &got, sizeof got) == sizeof got && got == what);
}

/* A child for this round; with `again` it has a connection of its own, too. */
static void bear(int what, int again)
{
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		if (again) {
			disconnect();
			connect_anew();
		}
		work(what, 1);
		_exit(7);
	}
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

static void round_of(int what)
{
	struct request request = { .used = 0 };
	switch ((enum what)what) {
	case NOTHING:
	case CUT_OFF:
		ask_elder(what);
		bear(what, 0);
		break;
	case STATE:
		put(null, "ASK\n");
		put(CLIENT, "HELLO\n");
		/* It was not asked, and greeted nobody. */
		ask_elder(what);
		bear(what, 0);
		work(what, 1);
		put(null, "FORGET\n");
		disconnect();
		connect_anew();
		break;
	case CARRIED:
		/* In the middle of one request of ours the others have theirs. */
		put(CLIENT, "PUT k v\n");
		read_more(&request);
		ask_elder(what);
		bear(what, 1);
		answer(&request);
		break;
	}
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	null = open("/dev/null", O_WRONLY);
	char name[4096];
	CHECK(snprintf(name, sizeof name, "%s.case", argv[1]) < (int)sizeof name);
	wanted = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	int none = NOTHING;
	CHECK(null >= 0 && wanted >= 0 && pwrite(wanted, &none, sizeof none, 0) == sizeof none);
	CHECK(snprintf(name, sizeof name, "%s.switch", argv[1]) < (int)sizeof name);
	FILE *file = fopen(name, "w");
	CHECK(file && fprintf(file, "%lu\n", (unsigned long)&version) > 0 && fclose(file) == 0);
	int to[2], from[2];
	CHECK(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		close(to[1]);
		close(from[0]);
		elder(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	to_elder = to[1];
	from_elder = from[0];
	connect_anew();
	do {
		int what = 0;
		CHECK(pread(wanted, &what, sizeof what, 0) == sizeof what);
		round_of(what);
	} while (victim_next(1000));
	CHECK(close(to_elder) == 0 && waitpid(pid, NULL, 0) == pid);
	return 0;
}

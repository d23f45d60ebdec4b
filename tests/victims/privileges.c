/* Gives its privileges away when it gets SIGUSR1, and takes a record lock when it gets SIGUSR2. From then on each round
 * checks that it has nothing of what it gave away: whoever serves in its place must not have it either.
 */
#include "victim.h"
#include <grp.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define NOBODY 65534

static volatile sig_atomic_t give_away, take_lock;
static int to_other[2], from_other[2];

static void on_usr1(int signal)
{
	(void)signal;
	give_away = 1;
}

static void on_usr2(int signal)
{
	(void)signal;
	take_lock = 1;
}

static void capabilities(int call, struct __user_cap_data_struct *data)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	CHECK(syscall(call, &header, data) == 0);
}

static void before(void)
{
	CHECK(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
}

static void after(void)
{
	struct __user_cap_data_struct one[2] = { { .effective = 1 << CAP_NET_BIND_SERVICE,
						   .permitted = 1 << CAP_NET_BIND_SERVICE } };
	capabilities(SYS_capset, one);
	CHECK(prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0);
}

static char get(int from)
{
	char byte;
	while (read(from, &byte, 1) == -1)
		CHECK(errno == EINTR);
	return byte;
}

/* libc changes the users of all threads, capabilities are each thread's own. */
static void *other(void *unused)
{
	for (;;) {
		switch (get(to_other[0])) {
		case 'b': before(); break;
		case 'a': after(); break;
		default: return unused;
		}
		CHECK(write(from_other[1], "d", 1) == 1);
	}
}

static void both(const char *which, void (*what)(void))
{
	CHECK(write(to_other[1], which, 1) == 1 && get(from_other[0]) == 'd');
	what();
}

static void drop(const char *directory)
{
	gid_t groups[] = { 4711, NOBODY };
	CHECK(chroot(directory) == 0 && chdir("/") == 0);
	CHECK(setgroups(2, groups) == 0);
	both("b", before);
	CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0);
	CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
	both("a", after);
}

static void check_dropped(void)
{
	gid_t groups[8];
	uid_t real, effective, saved;
	struct __user_cap_data_struct has[2];
	CHECK(getresuid(&real, &effective, &saved) == 0);
	CHECK(real == NOBODY && effective == NOBODY && saved == NOBODY);
	CHECK(getgroups(8, groups) == 2);
	/* Without the signals to all threads by which libc does it: it looks its process id up for them, and a promotion
	 * between that and the signal is one too many for the old version, which follows with another id. */
	CHECK(syscall(SYS_setuid, 0) == -1 && errno == EPERM);
	CHECK(open("/etc/passwd", O_RDONLY) == -1 && errno == ENOENT);
	capabilities(SYS_capget, has);
	CHECK(has[0].permitted == 1 << CAP_NET_BIND_SERVICE && has[0].effective == has[0].permitted);
	CHECK(prctl(PR_CAPBSET_READ, CAP_SYS_MODULE, 0, 0, 0) == 0);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	char directory[PATH_MAX], lock[PATH_MAX + 8];
	CHECK(realpath(argv[1], directory));
	dirname(directory);
	snprintf(lock, sizeof lock, "%s/lock", directory);
	int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600), dropped = 0;
	CHECK(fd >= 0 && pipe2(to_other, O_CLOEXEC) == 0 && pipe2(from_other, O_CLOEXEC) == 0);
	struct sigaction one = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	struct sigaction two = { .sa_handler = on_usr2, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGUSR1, &one, NULL) == 0 && sigaction(SIGUSR2, &two, NULL) == 0);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, other, NULL) == 0);
	do {
		if (give_away) {
			give_away = 0;
			dropped = 1;
			drop(directory);
		}
		if (take_lock) {
			take_lock = 0;
			struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
			CHECK(fcntl(fd, F_SETLK, &all) == 0);
		}
		if (dropped)
			check_dropped();
	} while (victim_next(1000));
	CHECK(write(to_other[1], "e", 1) == 1 && pthread_join(thread, NULL) == 0);
	return 0;
}

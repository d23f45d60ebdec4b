/* Every replayed call of the table that can be made without harm, once a round, with its result checked.
 *
 * Raw system calls where the C library would choose a newer one. What fds.c, signals.c and forks.c do is
 * not repeated. The pid is not kept between rounds: a promoted follower has another.
 */
#include "victim.h"
#include <arpa/inet.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#include <utime.h>

#define CALL(name, ...) syscall(SYS_##name, ##__VA_ARGS__)
#define OK(...) CHECK((__VA_ARGS__) == 0)
/* The call fails with this error and no other. */
#define FAILS(error, ...) CHECK((__VA_ARGS__) == -1 && errno == (error))

static int dir;			/* the working directory of the test, by descriptor */
static char root[PATH_MAX];	/* the same by name */
static int is_root;

static void old_files(void)
{
	struct stat a, b;
	char buffer[256];
	int fd = CALL(open, "a", O_RDWR | O_CREAT | O_EXCL, 0640);
	CHECK(fd >= 0);
	CHECK(write(fd, "0123456789", 10) == 10);
	CHECK(lseek(fd, 2, SEEK_SET) == 2 && read(fd, buffer, 3) == 3 && memcmp(buffer, "234", 3) == 0);
	CHECK(pread(fd, buffer, 20, 5) == 5 && memcmp(buffer, "56789", 5) == 0);
	CHECK(pwrite(fd, "X", 1, 20) == 1);
	OK(CALL(fstat, fd, &a));
	CHECK(a.st_size == 21 && (a.st_mode & 0777) == 0640);
	OK(CALL(stat, "a", &b));
	CHECK(a.st_ino == b.st_ino);
	OK(CALL(ftruncate, fd, 8));
	OK(CALL(truncate, "a", 6));
	OK(CALL(fsync, fd));
	OK(CALL(fdatasync, fd));
	OK(CALL(fallocate, fd, 0, 0, 4096));
	OK(CALL(fadvise64, fd, 0, 0, POSIX_FADV_NORMAL));
	OK(CALL(readahead, fd, 0, 4096));
	OK(CALL(sync_file_range, fd, 0, 0, 0));
	OK(CALL(flock, fd, LOCK_EX | LOCK_NB));
	OK(CALL(flock, fd, LOCK_UN));
	OK(CALL(fchmod, fd, 0600));
	OK(CALL(fchown, fd, getuid(), getgid()));
	OK(CALL(chmod, "a", 0644));
	OK(CALL(chown, "a", getuid(), getgid()));
	OK(CALL(lchown, "a", getuid(), getgid()));
	OK(CALL(access, "a", R_OK | W_OK));
	OK(CALL(link, "a", "b"));
	OK(CALL(symlink, "a", "c"));
	OK(CALL(lstat, "c", &b));
	CHECK(S_ISLNK(b.st_mode));
	CHECK(CALL(readlink, "c", buffer, sizeof buffer) == 1 && buffer[0] == 'a');
	OK(CALL(rename, "b", "d"));
	FAILS(ENOENT, CALL(access, "b", F_OK));
	OK(CALL(mkdir, "e", 0700));
	FAILS(EEXIST, CALL(mkdir, "e", 0700));
	OK(CALL(chdir, "e"));
	CHECK(CALL(getcwd, buffer, sizeof buffer) > 2);
	OK(CALL(fchdir, dir));
	OK(CALL(rmdir, "e"));
	OK(CALL(mknod, "f", S_IFIFO | 0600, 0));
	OK(CALL(unlink, "f"));
	struct utimbuf when = { 1000, 2000 };
	OK(CALL(utime, "a", &when));
	OK(CALL(stat, "a", &b));
	CHECK(b.st_atime == 1000 && b.st_mtime == 2000);
	struct timeval times[2] = { { 3000, 0 }, { 4000, 0 } };
	OK(CALL(utimes, "a", times));
	OK(CALL(futimesat, dir, "a", times));
	OK(CALL(stat, "a", &b));
	CHECK(b.st_atime == 3000 && b.st_mtime == 4000);
	int mask = CALL(umask, 027);
	CHECK(CALL(umask, mask) == 027);
	int other = CALL(creat, "g", 0600);
	CHECK(other >= 0);
	loff_t from = 0, to = 0;
	CHECK(CALL(copy_file_range, fd, &from, other, &to, 6, 0) == 6 && from == 6 && to == 6);
	OK(close(other));
	OK(close(fd));
	OK(unlink("a"));
	OK(unlink("c"));
	OK(unlink("d"));
	OK(unlink("g"));
}

static void at_files(void)
{
	struct stat st;
	struct statx sx;
	struct statfs fs;
	char buffer[4096];
	struct { uint64_t flags, mode, resolve; } how = { O_RDWR | O_CREAT | O_CLOEXEC, 0600, 0 };
	int fd = CALL(openat2, dir, "a", &how, sizeof how);
	CHECK(fd >= 0);
	CHECK(write(fd, "abc", 3) == 3);
	OK(close(fd));
	fd = CALL(openat, dir, "a", O_RDONLY);
	CHECK(fd >= 0);
	OK(CALL(newfstatat, dir, "a", &st, 0));
	CHECK(st.st_size == 3);
	OK(CALL(statx, dir, "a", 0, STATX_BASIC_STATS, &sx));
	CHECK(sx.stx_size == 3 && sx.stx_ino == st.st_ino);
	OK(CALL(statfs, "a", &fs));
	long type = fs.f_type;
	OK(CALL(fstatfs, fd, &fs));
	CHECK(fs.f_type == type);
	OK(CALL(mkdirat, dir, "e", 0700));
	OK(CALL(mknodat, dir, "f", S_IFIFO | 0600, 0));
	OK(CALL(fchownat, dir, "a", getuid(), getgid(), 0));
	OK(CALL(fchmodat, dir, "a", 0644));
	OK(CALL(faccessat, dir, "a", R_OK));
	OK(CALL(faccessat2, dir, "a", R_OK, AT_EACCESS));
	struct timespec times[2] = { { 5000, 1 }, { 6000, 2 } };
	OK(CALL(utimensat, dir, "a", times, 0));
	OK(CALL(linkat, dir, "a", dir, "b", 0));
	OK(CALL(symlinkat, "a", dir, "c"));
	CHECK(CALL(readlinkat, dir, "c", buffer, sizeof buffer) == 1);
	OK(CALL(renameat, dir, "b", dir, "d"));
	OK(CALL(renameat2, dir, "d", dir, "b", RENAME_NOREPLACE));
	int list = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(list >= 0);
	/* . .. a b c e f */
	int entries = 0;
	long got;
	while ((got = CALL(getdents64, list, buffer, sizeof buffer)) > 0)
		for (long at = 0; at < got; at += *(uint16_t *)(buffer + at + 16))
			entries++;
	CHECK(got == 0 && entries == 7);
	CHECK(lseek(list, 0, SEEK_SET) == 0);
	CHECK(CALL(getdents, list, buffer, sizeof buffer) > 0);
	OK(close(list));
	OK(CALL(unlinkat, dir, "e", AT_REMOVEDIR));
	OK(CALL(unlinkat, dir, "f", 0));
	OK(CALL(unlinkat, dir, "b", 0));
	OK(CALL(unlinkat, dir, "c", 0));
	OK(close(fd));
	OK(CALL(unlinkat, dir, "a", 0));
	if (victim_rounds % 256 == 0)
		OK(CALL(syncfs, dir));
}

static void attributes(void)
{
	char value[64];
	int fd = open("x", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	OK(fsetxattr(fd, "user.one", "first", 5, 0));
	OK(setxattr("x", "user.two", "second", 6, XATTR_CREATE));
	OK(lsetxattr("x", "user.two", "2nd", 3, XATTR_REPLACE));
	CHECK(fgetxattr(fd, "user.two", value, sizeof value) == 3 && memcmp(value, "2nd", 3) == 0);
	CHECK(getxattr("x", "user.one", value, sizeof value) == 5 && memcmp(value, "first", 5) == 0);
	CHECK(lgetxattr("x", "user.one", NULL, 0) == 5);
	FAILS(ERANGE, getxattr("x", "user.one", value, 2));
	CHECK(flistxattr(fd, value, sizeof value) >= 18);
	CHECK(listxattr("x", value, sizeof value) >= 18);
	CHECK(llistxattr("x", NULL, 0) >= 18);
	OK(fremovexattr(fd, "user.one"));
	OK(removexattr("x", "user.two"));
	FAILS(ENODATA, lremovexattr("x", "user.two"));
	OK(close(fd));
	OK(unlink("x"));
}

static void commands(void)
{
	int pair[2], number;
	OK(pipe2(pair, O_CLOEXEC));
	CHECK(write(pair[1], "12345", 5) == 5);
	OK(ioctl(pair[0], FIONREAD, &number));
	CHECK(number == 5);
	number = 1;
	OK(ioctl(pair[0], FIONBIO, &number));
	CHECK(fcntl(pair[0], F_GETFL) & O_NONBLOCK);
	OK(ioctl(pair[0], FIONCLEX));
	CHECK(fcntl(pair[0], F_GETFD) == 0);
	OK(ioctl(pair[0], FIOCLEX));
	CHECK(fcntl(pair[0], F_GETFD) == FD_CLOEXEC);
	char termios[64];
	FAILS(ENOTTY, ioctl(pair[0], TCGETS, termios));
	CHECK(fcntl(pair[0], F_SETPIPE_SZ, 8192) == 8192 && fcntl(pair[0], F_GETPIPE_SZ) == 8192);
	OK(close(pair[0]));
	OK(close(pair[1]));

	int fd = open("l", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5 };
	OK(fcntl(fd, F_SETLK, &lock));
	OK(fcntl(fd, F_SETLKW, &lock));
	OK(fcntl(fd, F_GETLK, &lock));
	CHECK(lock.l_type == F_UNLCK);
	OK(fcntl(fd, F_SETLK, &lock));
	lock = (struct flock){ .l_type = F_RDLCK, .l_whence = SEEK_SET };
	OK(fcntl(fd, F_OFD_SETLK, &lock));
	lock.l_type = F_UNLCK;
	OK(fcntl(fd, F_OFD_SETLKW, &lock));
	OK(fcntl(fd, F_SETOWN, getpid()));
	CHECK(fcntl(fd, F_GETOWN) > 0);
	OK(close(fd));
	OK(unlink("l"));
	fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	CHECK(fd >= 0);
	OK(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
	CHECK(fcntl(fd, F_GET_SEALS) == F_SEAL_GROW);
	OK(close(fd));

	char name[16];
	OK(prctl(PR_SET_NAME, "victim-calls"));
	OK(prctl(PR_GET_NAME, name));
	CHECK(strcmp(name, "victim-calls") == 0);
	CHECK(prctl(PR_GET_DUMPABLE) == 1);
	OK(prctl(PR_SET_DUMPABLE, 1));
	OK(prctl(PR_GET_PDEATHSIG, &number));
	CHECK(number == 0);
	OK(prctl(PR_GET_KEEPCAPS));
	CHECK(prctl(PR_GET_TIMERSLACK) > 0);
	CHECK(prctl(PR_CAPBSET_READ, 0) >= 0);
}

static void identity(void)
{
	uid_t r, e, s;
	gid_t groups[256];
	CHECK(CALL(getpid) > 0 && CALL(gettid) == CALL(getpid) && CALL(getppid) >= 0);
	CHECK(CALL(getuid) == CALL(geteuid) && CALL(getgid) == CALL(getegid));
	OK(CALL(getresuid, &r, &e, &s));
	CHECK(r == getuid() && e == r && s == r);
	OK(CALL(setresuid, r, e, s));
	OK(CALL(setreuid, r, e));
	OK(CALL(setuid, r));
	CHECK((uid_t)CALL(setfsuid, r) == r);
	OK(CALL(getresgid, &r, &e, &s));
	OK(CALL(setresgid, r, e, s));
	OK(CALL(setregid, r, e));
	OK(CALL(setgid, r));
	CHECK((gid_t)CALL(setfsgid, r) == r);
	int count = CALL(getgroups, 0, NULL);
	CHECK(count >= 0 && count <= 256 && CALL(getgroups, 256, groups) == count);
	if (is_root) {
		OK(CALL(setgroups, count, groups));
		OK(CALL(chroot, "/"));
	}
	CHECK(CALL(getpgid, 0) == CALL(getpgrp) && CALL(getsid, 0) >= 0);
	FAILS(ESRCH, CALL(setpgid, INT_MAX, 0));
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	OK(CALL(capget, &head, data));
	OK(CALL(capset, &head, data));
	CHECK(CALL(personality, 0xffffffff) >= 0);
}

static void limits(void)
{
	struct rlimit a, b;
	struct rusage usage;
	struct tms tms;
	struct sysinfo info;
	struct utsname name;
	OK(CALL(getrlimit, RLIMIT_CORE, &a));
	OK(CALL(prlimit64, 0, RLIMIT_CORE, NULL, &b));
	CHECK(a.rlim_cur == b.rlim_cur && a.rlim_max == b.rlim_max);
	OK(CALL(setrlimit, RLIMIT_CORE, &a));
	OK(CALL(prlimit64, 0, RLIMIT_CORE, &a, &b));
	CHECK(a.rlim_cur == b.rlim_cur);
	OK(CALL(getrusage, RUSAGE_SELF, &usage));
	CHECK(usage.ru_maxrss > 0);
	CHECK(CALL(times, &tms) > 0);
	OK(CALL(sysinfo, &info));
	CHECK(info.totalram > 0 && info.procs > 0);
	OK(CALL(uname, &name));
	CHECK(strcmp(name.sysname, "Linux") == 0 && strcmp(name.machine, "x86_64") == 0);
	if (is_root)
		OK(CALL(sethostname, name.nodename, strlen(name.nodename)));
	CHECK(CALL(syslog, 10, NULL, 0) > 0 || errno == EPERM);
	int nice = CALL(getpriority, PRIO_PROCESS, 0);
	CHECK(nice >= 1 && nice <= 40);
	OK(CALL(setpriority, PRIO_PROCESS, 0, 20 - nice));
	struct sched_param param;
	int policy = CALL(sched_getscheduler, 0);
	CHECK(policy >= 0);
	OK(CALL(sched_getparam, 0, &param));
	OK(CALL(sched_setparam, 0, &param));
	OK(CALL(sched_setscheduler, 0, policy, &param));
	CHECK(CALL(sched_get_priority_max, SCHED_FIFO) == 99 && CALL(sched_get_priority_min, SCHED_FIFO) == 1);
	struct timespec slice;
	OK(CALL(sched_rr_get_interval, 0, &slice));
	struct { uint32_t size, policy; uint64_t flags; uint32_t nice, priority; uint64_t a, b, c; } attr = { 0 };
	OK(CALL(sched_getattr, 0, &attr, sizeof attr, 0));
	CHECK(attr.size == sizeof attr && (int)attr.policy == policy);
	OK(CALL(sched_setattr, 0, &attr, 0));
	cpu_set_t cpus;
	CHECK(CALL(sched_getaffinity, 0, sizeof cpus, &cpus) > 0);
	OK(CALL(sched_setaffinity, 0, sizeof cpus, &cpus));
	int io = CALL(ioprio_get, 1, 0);
	CHECK(io >= 0);
	OK(CALL(ioprio_set, 1, 0, io));
	CHECK(CALL(kcmp, getpid(), getpid(), 1, 0, 0) == 0);
}

static void clocks(void)
{
	struct timespec a, b;
	struct timeval tv;
	time_t seconds;
	OK(CALL(clock_gettime, CLOCK_MONOTONIC, &a));
	OK(clock_gettime(CLOCK_MONOTONIC, &b));
	CHECK(b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec >= a.tv_nsec));
	OK(CALL(clock_getres, CLOCK_MONOTONIC, &b));
	CHECK(b.tv_sec == 0 && b.tv_nsec > 0);
	OK(CALL(gettimeofday, &tv, NULL));
	/* time(2) reads a clock that lags by up to a tick. */
	CHECK(CALL(time, &seconds) == seconds && seconds >= tv.tv_sec - 1 && seconds <= tv.tv_sec + 60);
	unsigned cpu, node;
	OK(CALL(getcpu, &cpu, &node, NULL));
	CHECK(cpu < 4096);
	struct timespec brief = { 0, 1000 };
	OK(CALL(nanosleep, &brief, NULL));
	OK(CALL(clock_nanosleep, CLOCK_MONOTONIC, 0, &brief, NULL));
	struct timex timex = { .modes = 0 };
	CHECK(CALL(adjtimex, &timex) >= 0 && timex.tick > 0);
	CHECK(CALL(clock_adjtime, CLOCK_REALTIME, &timex) >= 0);
	CHECK(CALL(alarm, 1000) == 0);
	CHECK(CALL(alarm, 0) > 990);
}

static void sockets(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, seen, other;
	socklen_t length = sizeof seen;
	char buffer[64];
	int on = 1, number = 0, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(listener >= 0);
	OK(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
	/* Bound to port 0: the kernel chooses, and nothing is left in TIME_WAIT on a fixed one. */
	OK(bind(listener, (struct sockaddr *)&address, sizeof address));
	OK(listen(listener, 8));
	OK(getsockname(listener, (struct sockaddr *)&seen, &length));
	CHECK(length == sizeof seen && seen.sin_port != 0);
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(client >= 0);
	OK(connect(client, (struct sockaddr *)&seen, sizeof seen));
	length = sizeof other;
	int server = (victim_rounds & 1) ? (int)CALL(accept, listener, &other, &length)
					 : (int)CALL(accept4, listener, &other, &length, SOCK_CLOEXEC);
	CHECK(server >= 0 && length == sizeof other);
	length = sizeof address;
	OK(getsockname(client, (struct sockaddr *)&address, &length));
	CHECK(address.sin_port == other.sin_port);
	OK(getpeername(client, (struct sockaddr *)&address, &length));
	CHECK(address.sin_port == seen.sin_port);
	OK(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
	length = sizeof number;
	OK(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &number, &length));
	CHECK(number == 1 && length == sizeof number);
	struct tcp_info tcp;
	length = sizeof tcp;
	OK(getsockopt(client, IPPROTO_TCP, TCP_INFO, &tcp, &length));
	CHECK(tcp.tcpi_state == TCP_ESTABLISHED);
	CHECK(send(client, "request", 7, MSG_NOSIGNAL) == 7);
	CHECK(recv(server, buffer, 4, MSG_PEEK | MSG_WAITALL) == 4 && memcmp(buffer, "requ", 4) == 0);
	CHECK(recv(server, buffer, 7, MSG_WAITALL) == 7 && memcmp(buffer, "request", 7) == 0);
	FAILS(EAGAIN, recv(server, buffer, 1, MSG_DONTWAIT));
	OK(shutdown(client, SHUT_WR));
	CHECK(recv(server, buffer, 1, 0) == 0);
	/* A reset instead of TIME_WAIT: thousands of rounds must not use up the ports. */
	struct linger linger = { 1, 0 };
	OK(setsockopt(server, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
	OK(close(server));
	OK(close(client));
	OK(close(listener));

	int a = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), b = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(a >= 0 && b >= 0);
	address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	OK(bind(a, (struct sockaddr *)&address, sizeof address));
	length = sizeof seen;
	OK(getsockname(a, (struct sockaddr *)&seen, &length));
	CHECK(sendto(b, "datagram", 8, 0, (struct sockaddr *)&seen, sizeof seen) == 8);
	length = sizeof other;
	/* More came than there is room for: the result says how much. */
	CHECK(recvfrom(a, buffer, 4, MSG_TRUNC, (struct sockaddr *)&other, &length) == 8);
	CHECK(length == sizeof other && memcmp(buffer, "data", 4) == 0 && other.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	struct ifreq request;
	memset(&request, 0, sizeof request);
	strcpy(request.ifr_name, "lo");
	OK(ioctl(a, SIOCGIFINDEX, &request));
	CHECK(request.ifr_ifindex > 0);
	OK(ioctl(a, SIOCGIFFLAGS, &request));
	CHECK(request.ifr_flags & IFF_LOOPBACK);
	OK(close(a));
	OK(close(b));

	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "s" };
	int local = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(local >= 0);
	OK(bind(local, (struct sockaddr *)&name, sizeof name));
	struct sockaddr_un got;
	length = sizeof got;
	OK(getsockname(local, (struct sockaddr *)&got, &length));
	CHECK(strcmp(got.sun_path, "s") == 0);
	OK(close(local));
	OK(unlink("s"));
}

static void queues(void)
{
	char name[64], buffer[64];
	unsigned priority;
	CHECK(snprintf(name, sizeof name, "/mvedsua-victim-%d", getpid()) > 0);
	struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = 64 }, now;
	mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600, &attr);
	CHECK(queue >= 0);
	OK(mq_unlink(name));
	OK(mq_send(queue, "low", 3, 1));
	OK(mq_send(queue, "high!", 5, 9));
	OK(mq_getattr(queue, &now));
	struct sigevent none = { .sigev_notify = SIGEV_NONE };
	OK(mq_notify(queue, &none));
	OK(mq_notify(queue, NULL));
	CHECK(now.mq_curmsgs == 2 && now.mq_msgsize == 64);
	CHECK(mq_receive(queue, buffer, sizeof buffer, &priority) == 5 && priority == 9);
	struct timespec limit = { 1, 0 };
	CHECK(mq_timedreceive(queue, buffer, sizeof buffer, &priority, &limit) == 3 && priority == 1);
	FAILS(EAGAIN, mq_receive(queue, buffer, sizeof buffer, &priority));
	OK(mq_close(queue));

	int set = semget(IPC_PRIVATE, 2, 0600);
	CHECK(set >= 0);
	OK(semctl(set, 0, SETVAL, 3));
	struct sembuf take[2] = { { 0, -2, 0 }, { 1, 5, 0 } };
	OK(CALL(semop, set, take, 2));
	CHECK(semctl(set, 0, GETVAL) == 1 && semctl(set, 1, GETVAL) == 5);
	struct sembuf more = { 0, -2, IPC_NOWAIT };
	FAILS(EAGAIN, semtimedop(set, &more, 1, &limit));
	OK(semctl(set, 0, IPC_RMID));
}

/* Calls younger than the C library, by number; a kernel that has not got them says ENOSYS. */
static void young(void)
{
	int fd = open("y", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	CHECK(write(fd, "young", 5) == 5);
	uint64_t range[2] = { 0, 0 }, pages[5] = { 0 }, ids[32];
	if (syscall(451 /* cachestat */, fd, range, pages, 0) == 0)
		CHECK(pages[0] + pages[1] + pages[3] < 1 << 20);
	else
		CHECK(errno == ENOSYS || errno == EOPNOTSUPP);
	struct stat st;
	if (syscall(452 /* fchmodat2 */, dir, "y", 0640, 0) == 0)
		CHECK(fstat(fd, &st) == 0 && (st.st_mode & 0777) == 0640);
	else
		CHECK(errno == ENOSYS);
	/* The children of the root of this mount namespace. */
	struct { uint32_t size, reserved; uint64_t id, param; } request = { 24, 0, UINT64_MAX, 0 };
	char buffer[1024];
	long count = syscall(458 /* listmount */, &request, ids, 32, 0);
	CHECK(count > 0 || errno == ENOSYS);
	if (count > 0) {
		request.id = ids[0];
		request.param = 1; /* STATMOUNT_SB_BASIC */
		OK(syscall(457 /* statmount */, &request, buffer, sizeof buffer, 0));
		CHECK(*(uint32_t *)buffer >= 32);
	}
	uint32_t size = sizeof ids;
	CHECK(syscall(461 /* lsm_list_modules */, ids, &size, 0) >= 0 || errno == ENOSYS || errno == EOPNOTSUPP);
	size = sizeof buffer;
	CHECK(syscall(459 /* lsm_get_self_attr */, 100, buffer, &size, 0) >= 0 || errno == ENOSYS || errno == EOPNOTSUPP);
	OK(fsetxattr(fd, "user.young", "1", 1, 0));
	CHECK(syscall(465 /* listxattrat */, dir, "y", 0, buffer, sizeof buffer) >= 11 || errno == ENOSYS);
	CHECK(syscall(466 /* removexattrat */, dir, "y", 0, "user.young") == 0 || errno == ENOSYS);
	uint64_t attributes[3] = { 0 };
	CHECK(syscall(468 /* file_getattr */, dir, "y", attributes, sizeof attributes, 0) == 0 || errno == ENOSYS || errno == EOPNOTSUPP);
	OK(close(fd));
	OK(unlink("y"));
}

static void others(void)
{
	unsigned char random[32] = { 0 };
	CHECK(CALL(getrandom, random, sizeof random, 0) == sizeof random);
	int sum = 0;
	for (size_t i = 0; i < sizeof random; i++)
		sum |= random[i];
	CHECK(sum != 0);
	int watch = (victim_rounds & 1) ? (int)CALL(inotify_init) : (int)CALL(inotify_init1, IN_CLOEXEC);
	CHECK(watch >= 0);
	int id = CALL(inotify_add_watch, watch, ".", IN_CREATE);
	CHECK(id > 0);
	int fd = open("seen", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	OK(close(fd));
	OK(unlink("seen"));
	char event[256];
	CHECK(read(watch, event, sizeof event) >= (ssize_t)sizeof(struct inotify_event));
	CHECK(strcmp(((struct inotify_event *)event)->name, "seen") == 0);
	OK(CALL(inotify_rm_watch, watch, id));
	OK(close(watch));
	int pid_fd = CALL(pidfd_open, getpid(), 0);
	CHECK(pid_fd >= 0);
	OK(CALL(pidfd_send_signal, pid_fd, 0, NULL, 0));
	int null = CALL(pidfd_getfd, pid_fd, dir, 0);
	CHECK(null >= 0);
	OK(close(null));
	OK(close(pid_fd));
	int old[4] = { CALL(epoll_create, 1), CALL(eventfd, 1), CALL(dup, dir), -1 };
	sigset_t usr2;
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	old[3] = CALL(signalfd, -1, &usr2, 8);
	for (int i = 0; i < 4; i++) {
		CHECK(old[i] >= 0);
		OK(close(old[i]));
	}
	int pair[2];
	OK(CALL(pipe, pair));
	fd_set set;
	FD_ZERO(&set);
	FD_SET(pair[1], &set);
	struct timeval second = { 1, 0 };
	CHECK(CALL(select, pair[1] + 1, NULL, &set, NULL, &second) == 1 && FD_ISSET(pair[1], &set));
	OK(close(pair[0]));
	OK(close(pair[1]));
	char ustat[32];
	FAILS(EINVAL, CALL(ustat, 0xffff, ustat));
	OK(CALL(kill, getpid(), 0));
	siginfo_t queued = { .si_code = SI_QUEUE };
	OK(CALL(rt_tgsigqueueinfo, getpid(), gettid(), 0, &queued));
	OK(CALL(tkill, gettid(), 0));
	OK(CALL(tgkill, getpid(), gettid(), 0));
	/* Numbers without a call behind them. */
	static const int gone[] = { SYS__sysctl, SYS_create_module, SYS_get_kernel_syms, SYS_query_module,
		SYS_nfsservctl, SYS_getpmsg, SYS_putpmsg, SYS_afs_syscall, SYS_tuxcall, SYS_security,
		SYS_set_thread_area, SYS_get_thread_area, SYS_lookup_dcookie, SYS_epoll_ctl_old,
		SYS_epoll_wait_old, SYS_vserver };
	for (size_t i = 0; i < sizeof gone / sizeof *gone; i++)
		FAILS(ENOSYS, syscall(gone[i], 0, 0, 0, 0, 0, 0));
	FAILS(EBADF, read(-1, event, 1));
	/* Local calls, which the follower makes itself. */
	char *memory = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	memory[65535] = 'm';
	OK(mprotect(memory, 4096, PROT_READ));
	OK(mprotect(memory, 4096, PROT_READ | PROT_WRITE));
	OK(madvise(memory, 65536, MADV_WILLNEED));
	OK(mlock(memory, 4096));
	OK(munlock(memory, 4096));
	memory = mremap(memory, 65536, 131072, MREMAP_MAYMOVE);
	CHECK(memory != MAP_FAILED && memory[65535] == 'm');
	OK(munmap(memory, 131072));
	OK(sched_yield());
	CHECK(CALL(membarrier, 0, 0, 0) >= 0);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	CHECK(snprintf(root, sizeof root, "%s.dir", argv[1]) < (int)sizeof root);
	CHECK(mkdir(root, 0700) == 0 || errno == EEXIST);
	dir = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir >= 0);
	OK(fchdir(dir));
	is_root = geteuid() == 0;
	signal(SIGALRM, SIG_IGN);
	do {
		old_files();
		at_files();
		attributes();
		commands();
		identity();
		OK(fchdir(dir));
		limits();
		clocks();
		sockets();
		queues();
		young();
		others();
	} while (victim_next(500));
	OK(chdir("/"));
	CHECK(rmdir(root) == 0);
	return 0;
}

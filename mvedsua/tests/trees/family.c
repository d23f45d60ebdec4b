/* A process with children, each of which has done something by which it differs from its parent:
 * `family KIND...`, one child per word. The parent obeys lines on its standard input and hands `to N LINE`
 * to child N; everybody answers on the standard output. What a process says of itself under `state` must
 * be the same when its copy says it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 16
#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            say("failed: %s (%s)", #what, strerror(errno));                                                            \
            _exit(9);                                                                                                  \
        }                                                                                                              \
    } while (0)

static int pipes[MOST][2];
static const char *kind = "parent";
static uint64_t noise = 88172645463325252u;
static struct {
    unsigned char *at;
    size_t len;
} memory[32];
static int memories;
static volatile sig_atomic_t usr1, usr2, chld;
static __thread uint64_t own;
static pthread_barrier_t born;
static int ends[2];

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
#include <stdarg.h>
static void say(const char *format, ...)
{
    char line[1024];
    va_list rest;
    va_start(rest, format);
    int len = vsnprintf(line, sizeof line - 1, format, rest);
    va_end(rest);
    line[len++] = '\n';
    if (write(1, line, len) != len)
        _exit(8);
}

static uint64_t next(void)
{
    noise ^= noise << 13;
    noise ^= noise >> 7;
    return noise ^= noise << 17;
}

/* Fills memory with noise and remembers to look at it. */
static void *fill(void *at, size_t len)
{
    unsigned char *bytes = at;
    for (size_t i = 0; i < len; i++)
        bytes[i] = (unsigned char)next();
    memory[memories].at = bytes;
    memory[memories++].len = len;
    return at;
}

static uint64_t sum(void)
{
    uint64_t all = 14695981039346656037u;
    for (int i = 0; i < memories; i++)
        for (size_t at = 0; at < memory[i].len; at++)
            all = (all ^ memory[i].at[at]) * 1099511628211u;
    return all;
}

static void on_usr1(int signal) { usr1 += signal == SIGUSR1; }
static void on_usr1_otherwise(int signal) { usr1 += 100 * (signal == SIGUSR1); }
static void on_usr2(int signal)
{
    stack_t stack;
    sigaltstack(NULL, &stack);
    usr2 += signal == SIGUSR2 && (stack.ss_flags & SS_ONSTACK);
}
static void on_chld(int signal) { chld += signal == SIGCHLD; }

static void *map(size_t len, int protection, int flags, int fd, off_t offset)
{
    void *at = mmap(NULL, len, protection, flags, fd, offset);
    CHECK(at != MAP_FAILED);
    return at;
}

static void *thread(void *number)
{
    own = 1000 + (uintptr_t)number;
    prctl(PR_SET_NAME, number == (void *)1 ? "first" : "second");
    pthread_barrier_wait(&born);
    char byte;
    /* Its end is a line's end: see `threads` below. */
    while (read(ends[0], &byte, 1) == 1)
        say("thread %d own %d", (int)syscall(SYS_gettid), (int)own);
    return NULL;
}

static void obey(int in, int number, int children);

static void differ(void)
{
    if (!strcmp(kind, "heap")) {
        for (int i = 0; i < 20; i++)
            fill(malloc(100000), 100000);
        CHECK(sbrk(12345) != (void *)-1);
        fill((char *)sbrk(0) - 12345, 12345);
    } else if (!strcmp(kind, "maps")) {
        char *whole = fill(map(40 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 10 * 4096);
        CHECK(!mprotect(whole + 4096, 8192, PROT_READ));
        CHECK(!mprotect(whole + 20 * 4096, 4096, PROT_NONE));
        CHECK(!munmap(whole + 30 * 4096, 4096));
        CHECK(!madvise(whole + 32 * 4096, 4 * 4096, MADV_WIPEONFORK));
        CHECK(!madvise(whole + 36 * 4096, 4 * 4096, MADV_DONTDUMP));
        fill(whole + 32 * 4096, 4096);
        int fd = open("/proc/self/exe", O_RDONLY);
        CHECK(fd >= 0);
        memory[memories].at = map(8192, PROT_READ, MAP_PRIVATE, fd, 0);
        memory[memories++].len = 8192;
        char *written = map(8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 4096);
        memcpy(written + 100, "changed", 7);
        memory[memories].at = (unsigned char *)written;
        memory[memories++].len = 8192;
        memory[memories].at = map(4096, PROT_READ, MAP_SHARED, fd, 0);
        memory[memories++].len = 4096;
        close(fd);
        /* What the parent has and the child has not; and what the parent wrote and the child never did. */
        char deep[300000];
        fill(deep, sizeof deep);
        memories--;
    } else if (!strcmp(kind, "dlopen")) {
        void *library = dlopen(getenv("LIBRARY"), RTLD_NOW);
        CHECK(library);
        int (*count)(void) = (int (*)(void))dlsym(library, "count");
        CHECK(count && count() == 1 && count() == 2);
    } else if (!strcmp(kind, "deleted")) {
        char name[] = "/tmp/mvedsua-family-XXXXXX";
        int fd = mkstemp(name);
        CHECK(fd >= 0);
        char page[4096];
        memset(page, 'd', sizeof page);
        CHECK(write(fd, page, sizeof page) == sizeof page && write(fd, page, sizeof page) == sizeof page);
        memory[memories].at = map(8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
        memory[memories++].len = 8192;
        memory[memories - 1].at[5000] = 'x';
        CHECK(!unlink(name));
        close(fd);
    } else if (!strcmp(kind, "chroot")) {
        CHECK(!chroot("/usr") && !chdir("/share"));
        umask(027);
    } else if (!strcmp(kind, "setuid")) {
        gid_t groups[] = {7, 9, 65534};
        CHECK(!setgroups(3, groups) && !setresgid(11, 12, 13) && !setresuid(21, 21, 22));
        CHECK(!prctl(PR_SET_PDEATHSIG, SIGHUP) && !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        struct rlimit none = {0, 0};
        CHECK(!setrlimit(RLIMIT_NPROC, &none) && !setrlimit(RLIMIT_CORE, &none));
    } else if (!strcmp(kind, "caps")) {
        CHECK(!prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT) && !prctl(PR_CAPBSET_DROP, CAP_CHOWN));
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct data[2] = {
            {1 << CAP_CHOWN | 1 << CAP_NET_BIND_SERVICE, 1 << CAP_CHOWN | 1 << CAP_NET_BIND_SERVICE | 1 << CAP_KILL,
             1 << CAP_NET_BIND_SERVICE},
            {0, 0, 0}};
        CHECK(!prctl(PR_SET_KEEPCAPS, 1) && !setresuid(33, 33, 33));
        CHECK(!syscall(SYS_capset, &header, data));
        CHECK(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
    } else if (!strcmp(kind, "threads")) {
        CHECK(!pthread_barrier_init(&born, NULL, 3));
        pthread_t id;
        for (uintptr_t i = 1; i <= 2; i++)
            CHECK(!pthread_create(&id, NULL, thread, (void *)i));
        pthread_barrier_wait(&born);
    } else if (!strcmp(kind, "altstack")) {
        stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
        struct sigaction action = {.sa_handler = on_usr2, .sa_flags = SA_ONSTACK | SA_RESTART};
        CHECK(!sigaltstack(&stack, NULL) && !sigaction(SIGUSR2, &action, NULL));
    } else if (!strcmp(kind, "handlers")) {
        struct sigaction action = {.sa_handler = on_usr1_otherwise, .sa_flags = SA_RESTART};
        sigaddset(&action.sa_mask, SIGHUP);
        CHECK(!sigaction(SIGUSR1, &action, NULL));
        signal(SIGUSR2, SIG_IGN);
        signal(SIGCHLD, SIG_DFL);
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGWINCH);
        sigprocmask(SIG_BLOCK, &blocked, NULL);
    } else if (!strcmp(kind, "setsid")) {
        CHECK(setsid() == getpid());
    } else if (!strcmp(kind, "group")) {
        CHECK(!setpgid(0, 0));
    } else if (!strcmp(kind, "grand")) {
        CHECK(setsid() == getpid());
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (!grandchild) {
            kind = "grandchild";
            fill(malloc(50000), 50000);
            say("ready %d", getpid());
            obey(pipes[MOST - 1][0], MOST - 1, 0);
        }
    } else if (!strcmp(kind, "locked")) {
        CHECK(!mlock(map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096));
    } else if (!strcmp(kind, "exec") && !getenv("EXECUTED")) {
        char in[10];
        sprintf(in, "%d", pipes[0][0]);
        setenv("EXECUTED", in, 1);
        execl("/proc/self/exe", "family", "exec", NULL);
        CHECK(0);
    }
}

/* The time, for the vDSO's sake. */
static int now_is_sane(void)
{
    struct timespec now;
    return !clock_gettime(CLOCK_MONOTONIC, &now) && now.tv_sec > 0;
}

static void state(void)
{
    say("%s pid %d ppid %d sid %d pgrp %d uid %d euid %d gid %d egid %d sum %016lx brk %lx signals %d %d %d clock %d", kind,
        getpid(), getppid(), getsid(0), getpgrp(), getuid(), geteuid(), getgid(), getegid(), sum(),
        (unsigned long)sbrk(0), usr1, usr2, chld, now_is_sane());
}

static void obey(int in, int number, int children)
{
    char line[256];
    for (;;) {
        size_t len = 0;
        while (len < sizeof line - 1) {
            ssize_t got = read(in, line + len, 1);
            if (got < 0 && errno == EINTR)
                continue;
            if (got != 1)
                _exit(0);
            if (line[len] == '\n')
                break;
            len++;
        }
        line[len] = 0;
        int to, at = 0;
        if (sscanf(line, "to %d %n", &to, &at) == 1 && at) {
            line[len++] = '\n';
            CHECK(write(pipes[to][1], line + at, len - at) == (ssize_t)len - at);
        } else if (!strcmp(line, "state")) {
            state();
        } else if (!strncmp(line, "exit ", 5)) {
            _exit(atoi(line + 5));
        } else if (!strcmp(line, "wait")) {
            int status;
            pid_t ended;
            do
                ended = wait4(-1, &status, 0, NULL);
            while (ended < 0 && errno == EINTR);
            say("waited %d status %d chld %d", ended, status, chld);
        } else if (!strcmp(line, "fork")) {
            pid_t made = fork();
            if (!made)
                _exit(3);
            say("forked %d", made);
        } else if (!strncmp(line, "raise ", 6)) {
            raise(atoi(line + 6));
            state();
        } else if (!strcmp(line, "thread")) {
            CHECK(write(ends[1], "x", 1) == 1);
        } else if (!strncmp(line, "group ", 6)) {
            say("group %d", kill(-atoi(line + 6), 0) ? errno : 0);
        } else {
            say("%s %d does not know %s (%d)", kind, number, line, children);
        }
    }
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = on_chld;
    sigaction(SIGCHLD, &action, NULL);
    if (getenv("EXECUTED")) {
        kind = "exec";
        say("ready %d", getpid());
        obey(atoi(getenv("EXECUTED")), 0, 0);
    }
    if (argc > 2 && !strcmp(argv[1], "nest")) {
        /* So many pid namespaces around it, or as many as there can be, and not the first one in the last. */
        for (int deep = atoi(argv[2]); deep >= 0; deep--) {
            pid_t inner = syscall(SYS_clone, (deep ? CLONE_NEWPID : 0) | SIGCHLD, 0, 0, 0, 0);
            if (inner < 0 && errno == ENOSPC) {
                deep = 1;
                continue;
            }
            CHECK(inner >= 0);
            if (inner)
                _exit(waitpid(inner, NULL, 0) < 0);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        }
        say("ready %d", getpid());
        obey(0, 0, 0);
    }
    /* The parent has written here before its children were born, and writes on afterwards. */
    fill(malloc(3000), 3000);
    char *later = map(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill(later, 2 * 4096);
    memory[memories].at = (unsigned char *)later + 8 * 4096;
    memory[memories++].len = 4096;
    /* Descriptors that a child makes for itself its copy would not have. */
    CHECK(!pipe(ends) && !pipe(pipes[MOST - 1]));
    for (int i = 1; i < argc; i++)
        CHECK(!pipe(pipes[i - 1]));
    for (int i = 1; i < argc; i++) {
        int flags = SIGCHLD;
        flags |= !strcmp(argv[i], "newnet") ? CLONE_NEWNET : 0;
        flags |= !strcmp(argv[i], "newipc") ? CLONE_NEWIPC : 0;
        flags |= !strcmp(argv[i], "newpid") ? CLONE_NEWPID : 0;
        fflush(NULL);
        pid_t child = flags == SIGCHLD ? fork() : syscall(SYS_clone, flags, 0, 0, 0, 0);
        CHECK(child >= 0);
        if (!child) {
            kind = argv[i];
            next();
            differ();
            say("ready %d", getpid());
            obey(pipes[i - 1][0], i - 1, 0);
        }
    }
    /* Pages that no child has written; one of them is all zeroes in the children. */
    memset(later + 8 * 4096, 'p', 4096);
    memset(later, 'q', 100);
    map(5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill(malloc(700000), 700000);
    say("ready %d", getpid());
    obey(0, -1, argc - 1);
}

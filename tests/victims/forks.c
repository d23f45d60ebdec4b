/* Trees of processes: pipes to and from the children, exit codes, death by signal, waitpid in all forms. */
#include "victim.h"
#include <sys/wait.h>

#define CHILDREN 3

/* A child of depth `depth` sends the sum of what its subtree found; it exits with the depth. */
static __attribute__((noreturn)) void child(int out, int depth, unsigned long seed)
{
	unsigned long sum = seed;
	if (depth > 0) {
		int in[2];
		CHECK(pipe2(in, O_CLOEXEC) == 0);
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			close(in[0]);
			child(in[1], depth - 1, seed * 2);
		}
		close(in[1]);
		unsigned long below;
		CHECK(read(in[0], &below, sizeof below) == sizeof below);
		CHECK(read(in[0], &below, 1) == 0);
		close(in[0]);
		int status;
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == depth - 1);
		CHECK(below == seed * 2 * (depth == 2 ? 3 : 1));
		sum += below;
	}
	CHECK(getppid() > 0);
	CHECK(write(out, &sum, sizeof sum) == sizeof sum);
	_exit(depth);
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	do {
		/* Several children at once, each two generations deep, collected in the order of their end. */
		pid_t pids[CHILDREN];
		int from[CHILDREN][2];
		for (int i = 0; i < CHILDREN; i++) {
			CHECK(pipe2(from[i], O_CLOEXEC) == 0);
			pids[i] = fork();
			CHECK(pids[i] >= 0);
			if (pids[i] == 0)
				child(from[i][1], 2, victim_rounds + i);
			CHECK(close(from[i][1]) == 0);
		}
		for (int i = 0; i < CHILDREN; i++) {
			unsigned long sum, seed = victim_rounds + i;
			CHECK(read(from[i][0], &sum, sizeof sum) == sizeof sum);
			CHECK(sum == seed + 6 * seed);
			CHECK(close(from[i][0]) == 0);
		}
		int seen = 0;
		for (int i = 0; i < CHILDREN; i++) {
			int status;
			pid_t pid = waitpid(-1, &status, 0);
			for (int j = 0; j < CHILDREN; j++)
				if (pids[j] == pid)
					seen |= 1 << j;
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 2);
		}
		CHECK(seen == (1 << CHILDREN) - 1);
		CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);

		/* One that waits for a byte, is asked for without waiting, and is then killed. */
		int to[2];
		CHECK(pipe2(to, O_CLOEXEC) == 0);
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid == 0) {
			char byte;
			close(to[1]);
			CHECK(read(to[0], &byte, 1) == 1);
			for (;;)
				pause();
		}
		int status;
		CHECK(waitpid(pid, &status, WNOHANG) == 0);
		CHECK(write(to[1], "x", 1) == 1);
		CHECK(kill(pid, SIGKILL) == 0);
		siginfo_t info = { 0 };
		CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
		CHECK(info.si_pid == pid && info.si_code == CLD_KILLED && info.si_status == SIGKILL);
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		CHECK(close(to[0]) == 0 && close(to[1]) == 0);

		/* vfork and a real program. */
		pid = vfork();
		CHECK(pid >= 0);
		if (pid == 0) {
			execl("/bin/true", "true", NULL);
			_exit(127);
		}
		CHECK(waitpid(pid, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	} while (victim_next(1000));
	return 0;
}

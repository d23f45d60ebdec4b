/* Asked by SIGUSR1 it makes a child with vfork(), which waits until it is let go on, through a FIFO beside the progress
 * file: until then this program stands in its call. */
#include <sys/wait.h>

#include "victim.h"

static int hold = -1;
static volatile sig_atomic_t asked;

static void on_usr1(int signal)
{
	(void)signal;
	asked = 1;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	hold = victim_hold(argv);
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	do {
		if (asked) {
			asked = 0;
			pid_t child = vfork();
			if (child == 0) {
				char byte;
				while (read(hold, &byte, 1) != 1)
					;
				_exit(7);
			}
			int status;
			CHECK(child > 0 && waitpid(child, &status, 0) == child);
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
		}
	} while (victim_next(1000));
	return 0;
}

/* One thread lends its memory to a child (vfork) that takes its time, as one does that reads its program from a slow disk:
 * until a byte comes through the FIFO beside the progress file. No request to stop wakes that thread. The others serve.
 */
#include "victim.h"
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static int hold;

static void *lend(void *unused)
{
	pid_t child = vfork();
	if (child == 0) {
		char byte;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(read(hold, &byte, 1) == 1 ? 0 : 1);
	}
	CHECK(child > 0);
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	return unused;
}

int main(int argc, char **argv)
{
	victim_start(argc, argv);
	hold = victim_hold(argv);
	pthread_t lender;
	CHECK(pthread_create(&lender, NULL, lend, NULL) == 0);
	while (victim_next(1000))
		;
	/* The lender may wait for its child still. */
	_exit(0);
}

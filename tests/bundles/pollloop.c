/* An event loop with parameters that never returns, changed before its loop; it waits in poll. */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct state {
    long handled;
};

__attribute__((noinline)) static int take(char *line, int size) {
    int got = 0;
    while (got < size - 1 && read(0, line + got, 1) == 1)
        if (line[got++] == '\n') break;
    line[got] = 0;
    return got;
}

__attribute__((noinline)) static int wait_for_input(void) {
    struct pollfd input = {0, POLLIN, 0};
    return poll(&input, 1, -1);
}

__attribute__((noipa)) static long serve(struct state *state, short step, const char *name) {
    char line[128], out[256];
#if VERSION == 2
    state->handled += 1000;
#endif
    while (wait_for_input() > 0 && take(line, sizeof line) > 0) {
        state->handled += step;
        int len = snprintf(out, sizeof out, "%s %d %ld %s", name, VERSION, state->handled, line);
        if (write(1, out, len) != len) break;
    }
    return state->handled;
}

int main(int argc, char **argv) {
    struct state state = {0};
    long served = serve(&state, argc + 1, "loop");
    printf("end %ld %ld %s\n", served, state.handled, argv[0] ? "ok" : "");
    return 0;
}

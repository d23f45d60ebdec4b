/* An event loop that never returns, changed before its loop, and what it calls, changed too. */
#include <stdio.h>

static long handled;

__attribute__((noinline)) static void handle(const char *line) {
    handled++;
#if VERSION == 2
    printf("new %ld %s", handled, line);
#else
    printf("old %ld %s", handled, line);
#endif
}

__attribute__((noinline)) static void serve(void) {
    char line[128];
#if VERSION == 2
    handled += 1000;
#endif
    while (fgets(line, sizeof line, stdin)) {
        handle(line);
        fflush(stdout);
    }
}

int main(void) {
    serve();
    puts("end");
    return 0;
}

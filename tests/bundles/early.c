/* A loop that begins with the function: compiled for size, it comes back to the function's first bytes. */
#include <stdio.h>
#include <stdlib.h>

void serve(void);
volatile int left = 3;

__attribute__((noinline)) static void step(void) {
    if (--left == 0) exit(0);
    printf("%d\n", VERSION);
}

__attribute__((noinline)) void serve(void) {
    for (;;) {
        step();
#if VERSION == 2
        fflush(stdout);
#endif
    }
}

void answer(const char *line) {
    (void)line;
    serve();
}

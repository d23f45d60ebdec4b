/* A loop of labels whose addresses are in a table. Compiled for size, the first of them is in the function's first bytes
   (FIRST), or behind them. */
#include <stdio.h>
#include <stdlib.h>

void serve(void);
int choose(void);
volatile int left = 9;

__attribute__((noinline)) int choose(void) { return left % 3; }

__attribute__((noinline)) static void step(const char *what) {
    if (--left == 0) exit(0);
    printf("%s %d\n", what, VERSION);
}

__attribute__((noinline)) void serve(void) {
    static const void *const table[] = {&&a, &&b, &&c};
#ifndef FIRST
    step("begin");
#endif
a:
    step("a");
    goto *table[choose()];
b:
    step("b");
    goto *table[choose()];
c:
    step("c");
#if VERSION == 2
    fflush(stdout);
#endif
    goto *table[choose()];
}

/* The same with offsets between labels: nothing tells where they lead. */
void offsets(void);
__attribute__((noinline)) void offsets(void) {
    static const int table[] = {&&a - &&a, &&b - &&a};
a:
    step("a");
    goto *(&&a + table[choose() & 1]);
b:
    step("b");
#if VERSION == 2
    fflush(stdout);
#endif
    goto *(&&a + table[choose() & 1]);
}

/* And a switch: its table has no name. */
void switched(void);
__attribute__((noinline)) void switched(void) {
    for (;;)
        switch (choose()) {
        case 0: step("0"); break;
        case 1: step("1"); break;
        case 2: step("2"); break;
        case 3: puts("3"); break;
        case 4: exit(4);
        case 5: step("5"); puts("5"); break;
#if VERSION == 2
        case 6: fflush(stdout); break;
#else
        case 6: break;
#endif
        }
}

void answer(const char *line) {
    if (*line == 's') serve();
    if (*line == 'o') offsets();
    switched();
}

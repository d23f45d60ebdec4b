/* A changed function, a new function, new strings, a new global; old globals keep their values. */
#include <stdio.h>
#include <stdlib.h>

int total = 0;
static int calls;

#if VERSION == 2
int largest;
static int history[4] = {-1, -1, -1, -1};

__attribute__((noinline)) static void remember(int value) {
    for (int i = 3; i > 0; i--) history[i] = history[i - 1];
    history[0] = value;
    if (value > largest) largest = value;
}
#endif

__attribute__((noinline)) int unchanged(int value) {
    return value * 3 + calls;
}

__attribute__((noinline)) void add(int value) {
    total += value;
    calls++;
#if VERSION == 2
    remember(value);
#endif
}

void answer(const char *line) {
    add(atoi(line));
#if VERSION == 2
    printf("new: total %d calls %d other %d largest %d before %d\n", total, calls, unchanged(1), largest, history[1]);
#else
    printf("old: total %d calls %d other %d\n", total, calls, unchanged(1));
#endif
}

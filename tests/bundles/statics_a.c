/* Two files with statics of the same names: only this one's changes. */
#include <stdio.h>
#include <stdlib.h>

int other(int value);

static int count;

__attribute__((noinline)) static int bump(int value) {
    static int state = 10;
    state += value;
    count++;
#if VERSION == 2
    return state * 1000 + count;
#else
    return state * 100 + count;
#endif
}

void answer(const char *line) {
    int a = bump(atoi(line));
    int b = other(atoi(line));
    printf("%d %d\n", a, b);
}

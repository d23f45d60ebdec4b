/* gcc splits `work` into `work` and `work.cold`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

__attribute__((noinline, cold)) static void complain(const char *what, int value) {
    failures++;
    printf("%s %d failures %d ", what, value, failures);
}

__attribute__((noinline)) int work(int value) {
    if (value < 0) {
        complain("negative", value);
        value = -value;
    }
#if VERSION == 2
    if (__builtin_expect(value > 1000, 0)) {
        complain("large", value);
        value = 1000;
    }
#endif
    return value * 2;
}

void answer(const char *line) { printf("= %d\n", work(atoi(line))); }

/* Only line numbers differ. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline, noreturn)) void my_panic(const char *file, int line, const char *text) {
    printf("%s:%d %s\n", file, line, text);
    abort();
}
#if VERSION == 2
#line 200
#endif
__attribute__((noinline)) static int half(int value) {
    assert(value % 2 == 0);
    if (value < 0) my_panic(__FILE__, __LINE__, "negative");
    return value / 2;
}

void answer(const char *line) { printf("%d\n", half(atoi(line))); }

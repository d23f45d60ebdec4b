/* gcc passes the members instead of the pointer to a function with one caller (`sum.isra.0`): an old frame of
 * the caller and the new callee need not agree. */
#include <stdio.h>
#include <stdlib.h>

struct two {
    int a, b;
};

__attribute__((noinline)) static int sum(const struct two *two) {
#if VERSION == 2
    return two->a * 3;
#else
    return two->a + two->b;
#endif
}

void answer(const char *line) {
    struct two two = {atoi(line), line[0]};
    printf("%d\n", sum(&two));
}

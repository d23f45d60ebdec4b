/* Function pointers, taken before and after the update, are equal and lead to the new code. */
#include <stdio.h>
#include <stdlib.h>

typedef int (*operation)(int);

__attribute__((noinline)) static int twice(int value) {
#if VERSION == 2
    return value * 20;
#else
    return value * 2;
#endif
}

__attribute__((noinline)) static int square(int value) { return value * value; }

static const struct { const char *name; operation run; } table[] = {{"twice", twice}, {"square", square}};
operation current = twice;

__attribute__((noinline)) static int is_twice(operation f) {
#if VERSION == 2
    return (f == twice) + (table[1].run == square);
#else
    return f == twice;
#endif
}

void answer(const char *line) {
    int value = atoi(line);
    printf("%d %d %s %d %d\n", current(value), table[0].run(value), table[1].name, table[1].run(value), is_twice(current));
}

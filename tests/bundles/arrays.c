/* Loops to the end of an array, local arrays with initial values, floating-point constants. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long ring[8];
static long sum_of_all;

__attribute__((noinline)) static void push(long value) {
    memmove(ring + 1, ring, sizeof ring - sizeof *ring);
    ring[0] = value;
    long sum = 0;
    for (long *p = ring; p != ring + 8; p++) {
        asm volatile("" : "+r"(p));
        sum += *p;
    }
#if VERSION == 2
    sum *= 2;
#endif
    sum_of_all = sum;
}

__attribute__((noinline)) static const char *day(int i) {
    const char *days[] = {"monday", "tuesday", "wednesday", "thursday", "friday",
#if VERSION == 2
                          "caturday", "sunday"};
#else
                          "saturday", "sunday"};
#endif
    const char *volatile *copy = (const char *volatile *)days;
    return copy[i % 7];
}

void answer(const char *line) {
    long value = atol(line);
    push(value);
    printf("%ld %s %.3f\n", sum_of_all, day((int)value), (double)value * 1.125);
}

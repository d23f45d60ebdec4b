/* Constants with names: one changes in place, one grows (with GROW), also behind a pointer (with HELD). */
#include <stdio.h>
#include <stdlib.h>

static int plus(int v) { return v + 1; }
static int minus(int v) { return v - 1; }

#if VERSION == 2
const int primes[4] = {2, 3, 5, 8};
int (*const steps[2])(int) = {minus, plus};
#else
const int primes[4] = {2, 3, 5, 7};
int (*const steps[2])(int) = {plus, minus};
#endif

#if VERSION == 2 && defined GROW
const char *const words[] = {"null", "eins", "zwei", "drei"};
#else
const char *const words[] = {"null", "eins", "zwei"};
#endif
#if VERSION == 2
const char *const names[2] = {"anna", "another"};
#else
const char *const names[2] = {"anna", "bert"};
#endif
#ifdef HELD
const char *const *volatile holder = words;
#endif

__attribute__((noinline)) int prime(int i) { return primes[i & 3]; }
__attribute__((noinline)) const char *word(unsigned i) {
    if (i >= sizeof words / sizeof *words) return "?";
    return words[i];
}
__attribute__((noinline)) const char *first(void) {
    unsigned none = 0;
    asm("" : "+r"(none));
    return words[none];
}

__attribute__((noinline)) const char *name(int i) { return names[i & 1]; }

void answer(const char *line) {
    int i = atoi(line);
    printf("%d %s %s %d %s\n", prime(i), word((unsigned)i), first(), steps[0](i), name(i));
}

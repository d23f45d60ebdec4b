/* A struct that grows, and thread-local variables that have to do with it: one is a pointer to an object that a
 * global leads to, too; with HELD one holds an object, with WIDER one gets another type of the same size.
 *
 *   add    counts in the object that the thread's own pointer leads to
 *   extra  what version 2 keeps beside
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct item {
    long number;
#if VERSION >= 2
    long extra;
#endif
};

static struct item *all;
static __thread struct item *mine;
#ifdef HELD
static __thread struct item held;
#endif
#if defined WIDER && VERSION >= 2
static __thread float rest = 0;
#else
static __thread int rest = 0;
#endif

__attribute__((noinline)) static void make(void) {
    if (mine) return;
    all = calloc(1, sizeof *all);
    mine = all;
}

void answer(const char *line) {
    make();
    if (strncmp(line, "add", 3) == 0) {
        mine->number++;
        rest += 1;
#ifdef HELD
        held.number++;
#endif
        printf("number %ld in %s object, %d\n", all->number, mine == all ? "the" : "another", (int)rest);
        return;
    }
#if VERSION >= 2
    printf("extra %ld\n", mine->extra);
#else
    printf("no extra\n");
#endif
}

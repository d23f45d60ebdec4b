/* Thread-local variables: used by a changed function; with NEW_TLS also a new one,
 * with OTHER_VALUE one starts differently. */
#include <stdio.h>
#include <stdlib.h>

#if VERSION == 2 && defined OTHER_VALUE
__thread int mine = 8;
#else
__thread int mine = 7;
#endif
static __thread long hidden;
#if VERSION == 2 && defined NEW_TLS
__thread int fresh = 3;
#endif

__attribute__((noinline)) static void use(int value) {
    mine += value;
#if VERSION == 2
    hidden += 10;
#else
    hidden++;
#endif
#if VERSION == 2 && defined NEW_TLS
    fresh++;
#endif
}

void answer(const char *line) {
    use(atoi(line));
    printf("%d %ld\n", mine, hidden);
}

/* Constants of all kinds, for builds that differ only in the order of linking. */
#include <stdio.h>

static const char *const levels[] = {"debug", "notice", "warning"};
const double weights[3] = {0.5, 1.25, 3.75};

double report(int level, int value) {
    const char *marks[] = {"-", "!", "!!"};
    const char *volatile *mark = (const char *volatile *)marks;
    printf("%s %s: %d\n", mark[level % 3], levels[level % 3], value);
    switch (value) {
    case 0: puts("nothing"); return 1.5;
    case 1: puts("one"); return weights[0];
    case 2: puts("two"); return weights[1] * 9.75;
    case 3: puts("three"); return weights[2];
    case 4: puts("four"); return 0.125 * level;
    default: puts("many"); return level;
    }
}

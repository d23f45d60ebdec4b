/* Two blocks of one function have a static variable of the same name each; with -DMORE version 2 has a third. */
#include <stdio.h>
#include <stdlib.h>

void answer(const char *line) {
    int value = atoi(line);
#if VERSION == 2
    const char *who = "new";
#ifdef MORE
    if (value > 1000) {
        static int kept = 300;
        kept += value;
        printf("large %d\n", kept);
        return;
    }
#endif
#else
    const char *who = "old";
#endif
    if (value % 2 == 0) {
        static int kept = 100;
        kept += value;
        printf("%s: even %d\n", who, kept);
    } else {
        static int kept = 200;
        kept += value;
        printf("%s: odd %d\n", who, kept);
    }
}

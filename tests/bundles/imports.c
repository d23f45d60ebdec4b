/* The new version calls a function of libc that the old one does not. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void answer(const char *line) {
#if VERSION == 2
    printf("%d page %d\n", atoi(line), getpagesize());
#else
    printf("%d\n", atoi(line));
#endif
}

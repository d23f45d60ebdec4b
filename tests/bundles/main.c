/* The part that all victims share: one line in, one line out, until end of input. */
#include <stdio.h>

void answer(const char *line);

int main(void) {
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        answer(line);
        fflush(stdout);
    }
    return 0;
}

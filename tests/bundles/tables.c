/* Jump tables: of a function that changes and of one that does not. */
#include <stdio.h>
#include <stdlib.h>

static int a, b, c;

__attribute__((noinline)) static void step(int which) {
    switch (which) {
    case 0: a++; break;
    case 1: b += 2; printf("b "); break;
    case 2: c += 3; break;
    case 3: a = b; printf("copy "); break;
    case 4: b = c; break;
    case 5: c = a + b; printf("sum "); break;
    case 6: a = 0; break;
    case 7: b = 0; printf("zero "); break;
#if VERSION == 2
    case 8: a = 1000; printf("eight "); break;
    case 9: b = 2000; break;
#endif
    default: printf("? ");
    }
}

__attribute__((noinline)) static const char *name(int which) {
    switch (which) {
    case 0: putchar('a'); return "zero";
    case 1: putchar('b'); return "one";
    case 2: putchar('c'); return "two";
    case 3: putchar('d'); return "three";
    case 4: putchar('e'); return "four";
    case 5: putchar('f'); return "five";
    default: putchar('x'); return "many";
    }
}

void answer(const char *line) {
    int which = atoi(line);
    step(which);
    printf(" %s %d %d %d\n", name(which), a, b, c);
}

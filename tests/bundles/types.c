/* CASE 1: a struct grows. 2: an enumerator moves. 3: an enumerator is added before the last, and
 * `int x[0]` becomes `int x[]`. 4: a global gets another type. 5: another initial value. */
#include <stdio.h>
#include <stdlib.h>

struct entry {
    int key;
#if VERSION == 2 && CASE == 1
    long stamp;
#endif
    struct entry *next;
};

enum colour {
    RED,
#if VERSION == 2 && CASE == 2
    ORANGE,
#endif
    GREEN,
#if VERSION == 2 && CASE == 3
    BLUE,
#endif
    COLOURS
};

struct text {
    int length;
#if VERSION == 2 && CASE == 3
    char bytes[];
#else
    char bytes[0];
#endif
};

struct entry *head;
enum colour colour = GREEN;
struct text *text;
#if VERSION == 2 && CASE == 4
long limit = 5;
#elif VERSION == 2 && CASE == 5
int limit = 6;
#else
int limit = 5;
#endif

void answer(const char *line) {
    struct entry *entry = malloc(sizeof *entry);
    entry->key = atoi(line);
    entry->next = head;
    head = entry;
    text = malloc(sizeof *text + 8);
    text->bytes[0] = 'a' + COLOURS;
    printf("%d %d %ld %c\n", head->key, colour, (long)limit, text->bytes[0]);
}

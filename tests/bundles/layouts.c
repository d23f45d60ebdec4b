/* Every kind of layout that a header has to declare. Version 2 changes one of each. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum colour { RED, GREEN = 5, BLUE };
enum __attribute__((packed)) tiny { SMALL, SMALLER };

struct bits {
    unsigned a : 3;
    unsigned b : 7;
    unsigned : 5;
    unsigned long c : 40;
    int d;
    uint8_t e : 4;
};

struct __attribute__((packed)) tight {
    char c;
    long l;
    short s;
    unsigned f : 3;
};

struct __attribute__((aligned(64))) line {
    char c;
};

typedef struct {
    int x, y;
} point;

union value {
    long number;
    char text[12];
    struct {
        point at;
        enum colour colour;
    } dot;
};

struct everything;
typedef int (*handler)(struct everything *, point, const char *restrict, ...);

struct everything {
#if VERSION == 2
    long first;
#endif
    struct bits bits;
    struct tight tight;
    struct line line;
    point points[3][2];
    union value value;
    union {
        int either;
        char *or;
    };
    struct {
        short inner;
        struct {
            char deep;
        };
    };
    handler handlers[4];
    int (*(*function)(int))[3];
    point (*matrix)[4];
    enum tiny tiny;
    long double wide;
    _Complex double number;
    __int128 huge;
    _Bool flag;
    volatile const char *const *names;
    struct unknown *unknown;
    char rest[];
};

struct everything *every;
static struct everything fixed;
struct tight tights[5];
int (*table[2])(int) = {abs, abs};

void answer(const char *line) {
    static int calls;
    every = &fixed;
    every->bits.b = atoi(line);
    every->value.dot.colour = BLUE;
    every->tiny = SMALLER;
    tights[1].l = ++calls;
    printf("%d %ld %d\n", every->bits.b, tights[1].l, table[0](-VERSION));
}

/* See statics_a.c. */
static int count = 50;

__attribute__((noinline)) static int bump(int value) {
    static int state = 20;
    state += value;
    count++;
    return state * 100 + count;
}

int other(int value) { return bump(value); }

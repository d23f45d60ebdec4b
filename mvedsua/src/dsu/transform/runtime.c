/* What runs beside a transformer, inside the follower. The agent starts mvedsua_start() with a stack
 * of its own and reads mvedsua_control; int3 gives it the thread back. */
#include "mvedsua_abi.h"

enum { RUNNING = 1, DONE = 2, FAILED = 3 };

/* Read by the agent: mvedsua/src/dsu/transform/control.rs. */
struct {
    unsigned long magic;
    unsigned long state;
    long result;
    unsigned long done, total;
    unsigned long table, capacity, count;
    char why[256];
} mvedsua_control = {.magic = 0x31415f415544564dul};

/* A slot of the table of moved objects. */
struct moved {
    unsigned long old, new, size;
};

extern void *malloc(unsigned long);
extern void free(void *);

static long call(long nr, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static __attribute__((noreturn)) void stop(unsigned long state) {
    __atomic_store_n(&mvedsua_control.state, state, __ATOMIC_SEQ_CST);
    for (;;) __asm__ volatile("int3");
}

void mvedsua_fail(const char *why) {
    unsigned long n = 0;
    while (n < sizeof mvedsua_control.why - 1 && why && why[n]) {
        mvedsua_control.why[n] = why[n];
        n++;
    }
    mvedsua_control.why[n] = 0;
    stop(FAILED);
}

void *mvedsua_alloc(unsigned long bytes) {
    void *memory = malloc(bytes);
    if (!memory) mvedsua_fail("out of memory");
    return memory;
}

void mvedsua_free(void *memory) {
    free(memory);
}

void mvedsua_progress(unsigned long done, unsigned long total) {
    __atomic_store_n(&mvedsua_control.total, total, __ATOMIC_RELAXED);
    __atomic_store_n(&mvedsua_control.done, done, __ATOMIC_RELAXED);
}

static struct moved *find(struct moved *table, unsigned long capacity, unsigned long old) {
    unsigned long at = (old * 0x9e3779b97f4a7c15ul) >> 17;
    for (;;) {
        struct moved *slot = table + (at & (capacity - 1));
        if (slot->old == old || slot->old == 0) return slot;
        at++;
    }
}

/* Memory of the kernel's own, all zero. Where it is much, huge pages save most of the page faults and of the
 * misses of the TLB: the table is looked up at random places. */
static void *map(unsigned long bytes) {
    enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22, HUGE_PAGE = 14 };
    long memory = call(9, 0, bytes, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    if (memory < 0 && memory > -4096) mvedsua_fail("out of memory for the table of moved objects");
    if (bytes >= 4ul << 20) call(28, memory, bytes, HUGE_PAGE, 0, 0, 0);
    return (void *)memory;
}

static void unmap(void *memory, unsigned long bytes) {
    call(11, (long)memory, bytes, 0, 0, 0, 0);
}

static void grow(void) {
    unsigned long was = mvedsua_control.capacity, capacity = was ? was * 4 : 4096;
    if (was >= 1ul << 18) capacity = was * 2;
    struct moved *table = map(capacity * sizeof(struct moved)), *before = (struct moved *)mvedsua_control.table;
    for (unsigned long i = 0; i < was; i++)
        if (before[i].old) *find(table, capacity, before[i].old) = before[i];
    if (before) unmap(before, was * sizeof(struct moved));
    mvedsua_control.table = (unsigned long)table;
    mvedsua_control.capacity = capacity;
}

/* The slot of the object at `old`, which is not NULL. A new one says so with `old` = 0 and must be filled
 * in before anything else is asked of the table. */
struct moved *mvedsua_slot(const void *old) {
    if (mvedsua_control.count * 2 >= mvedsua_control.capacity) grow();
    struct moved *slot = find((struct moved *)mvedsua_control.table, mvedsua_control.capacity, (unsigned long)old);
    if (!slot->old) mvedsua_control.count++;
    return slot;
}

void mvedsua_moved(const void *old, void *new_object, unsigned long bytes) {
    if (!old) mvedsua_fail("mvedsua_moved: the old object is NULL");
    *mvedsua_slot(old) = (struct moved){(unsigned long)old, (unsigned long)new_object, bytes};
}

void *mvedsua_find(const void *old, unsigned long *bytes) {
    if (!old || !mvedsua_control.capacity) return 0;
    struct moved *slot = find((struct moved *)mvedsua_control.table, mvedsua_control.capacity, (unsigned long)old);
    if (!slot->old) return 0;
    if (bytes) *bytes = slot->size;
    return (void *)slot->new;
}

void *mvedsua_follow(const void *old) {
    return mvedsua_find(old, 0);
}

/* Sorts by address, 16 bits at a time, and compares neighbours. */
int mvedsua_overlap(void) {
    struct range {
        unsigned long start, size;
    } *from, *to;
    unsigned long count = 0, capacity = mvedsua_control.count;
    if (capacity < 2) return 0;
    unsigned long bytes = capacity * sizeof *from, room = 2 * bytes + 65536 * sizeof(unsigned long);
    void *memory = map(room);
    from = memory;
    to = from + capacity;
    unsigned long *places = (unsigned long *)(to + capacity);
    struct moved *table = (struct moved *)mvedsua_control.table;
    for (unsigned long i = 0; i < mvedsua_control.capacity && count < capacity; i++)
        if (table[i].old && table[i].size) from[count++] = (struct range){table[i].old, table[i].size};
    for (int shift = 0; shift < 48; shift += 16) {
        memset(places, 0, 65536 * sizeof *places);
        for (unsigned long i = 0; i < count; i++) places[from[i].start >> shift & 65535]++;
        unsigned long at = 0;
        for (unsigned long i = 0; i < 65536; i++) {
            unsigned long here = places[i];
            places[i] = at;
            at += here;
        }
        for (unsigned long i = 0; i < count; i++) to[places[from[i].start >> shift & 65535]++] = from[i];
        struct range *other = from;
        from = to;
        to = other;
    }
    int found = 0;
    for (unsigned long i = 1; i < count; i++) found |= from[i - 1].start + from[i - 1].size > from[i].start;
    unmap(memory, room);
    return found;
}

/* Up to so many bytes a loop is faster than the instruction. */
enum { FEW = 256 };

void *memcpy(void *to, const void *from, unsigned long bytes) {
    unsigned char *at = to;
    const unsigned char *source = from;
    if (bytes > FEW) {
        __asm__ volatile("rep movsb" : "+D"(at), "+S"(source), "+c"(bytes) : : "memory");
        return to;
    }
    for (; bytes >= 8; bytes -= 8, at += 8, source += 8) __builtin_memcpy(at, source, 8);
    while (bytes--) *at++ = *source++;
    return to;
}

void *memmove(void *to, const void *from, unsigned long bytes) {
    unsigned char *end = (unsigned char *)to + bytes - 1;
    const unsigned char *last = (const unsigned char *)from + bytes - 1;
    if ((unsigned long)to - (unsigned long)from >= bytes) return memcpy(to, from, bytes);
    __asm__ volatile("std; rep movsb; cld" : "+D"(end), "+S"(last), "+c"(bytes) : : "memory");
    return to;
}

void *memset(void *to, int byte, unsigned long bytes) {
    unsigned char *at = to;
    unsigned long word = (unsigned char)byte * 0x0101010101010101ul;
    if (bytes > FEW) {
        __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
        return to;
    }
    for (; bytes >= 8; bytes -= 8, at += 8) __builtin_memcpy(at, &word, 8);
    while (bytes--) *at++ = (unsigned char)byte;
    return to;
}

int memcmp(const void *a, const void *b, unsigned long bytes) {
    const unsigned char *x = a, *y = b;
    for (unsigned long i = 0; i < bytes; i++) {
        if (x[i] != y[i]) return x[i] - y[i];
        __asm__ volatile(""); /* not to be made a call of itself */
    }
    return 0;
}

__attribute__((noreturn, used)) void mvedsua_start(void) {
    mvedsua_control.state = RUNNING;
    long result = mvedsua_transform();
    mvedsua_control.result = result;
    if (result) mvedsua_fail("mvedsua_transform did not return 0");
    stop(DONE);
}

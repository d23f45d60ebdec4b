/* Version 1 -> 2 of store.c. MISTAKE selects a mistake that a test looks for. */
#include <mvedsua.h>

MVEDSUA_HANDLES(struct entry);
#if MISTAKE != 8
MVEDSUA_HANDLES(struct table);
#endif

static struct new_entry *moved(struct old_entry *old) {
    return old ? mvedsua_follow(old) : 0;
}

int mvedsua_transform(void) {
    unsigned long done = 0;
    for (struct old_entry *e = OLD(all); e; e = e->next) {
#if MISTAKE == 1
        if (done == 10) mvedsua_fail("entry 10 is not good");
#elif MISTAKE == 2
        if (done == 10) *(volatile int *)8 = 1;
#elif MISTAKE == 3
        while (done == 10) __asm__ volatile("");
#elif MISTAKE == 4
        __asm__ volatile("syscall" : : "a"(39) : "rcx", "r11", "memory"); /* getpid */
#endif
        struct new_entry *n = new_take(sizeof *n);
#if MISTAKE == 7
        memset(n, 0x5a, sizeof *n); /* what memory may hold */
        n->key = e->key; /* and forgets the value */
#else
        mvedsua_copy_entry(n, e);
#endif
        n->type = 1;
#if MISTAKE == 9
        mvedsua_free(e->value);
#endif
        mvedsua_moved(e, n, sizeof *e);
        mvedsua_progress(++done, OLD(table).used);
    }
    for (struct old_entry *e = OLD(all); e; e = e->next) {
        struct new_entry *n = moved(e);
        n->chain = moved(e->chain);
        n->next = moved(e->next);
    }
#if MISTAKE != 6
    mvedsua_copy_table(&NEW(table), &OLD(table));
#endif
    NEW(table).buckets = (struct new_entry **)OLD(table).buckets;
    for (unsigned long i = 0; i < NEW(table).size; i++)
        NEW(table).buckets[i] = moved(OLD(table).buckets[i]);
    NEW(table).changes = 1000;
    struct old_entry *next;
    for (struct old_entry *e = OLD(all); e; e = next) {
        next = e->next;
        mvedsua_free(e);
    }
    NEW(latest) = moved(OLD(latest));
    NEW(all) = moved(OLD(all));
#if MISTAKE == 5
    return 3;
#endif
    return 0;
}

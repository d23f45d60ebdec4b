/* The key-value store of examples/ from version 1 to version 2, with one of these mistakes in MISTAKE (0: none):
 * 1 it forgets to copy the table, 2 it leaves a field unset, 3 it frees what is in use, 4 it never ends,
 * 5 it crashes. Or it makes none and takes its time (SLOW: so many steps). */
#include <mvedsua.h>

MVEDSUA_HANDLES(struct entry);

int mvedsua_transform(void) {
    unsigned long done = 0, total = OLD(entries);

    for (unsigned long i = 0; i < sizeof OLD(table) / sizeof OLD(table)[0]; i++) {
        struct old_entry *old = OLD(table)[i], *next;
        struct new_entry **place = &NEW(table)[i];

        *place = 0;
        for (; old; old = next) {
            struct new_entry *new = mvedsua_alloc(sizeof *new);

            next = old->next;
            mvedsua_copy_entry(new, old);
            new->type = new_STRING;
            new->next = 0;
#if MISTAKE == 2
            /* As memory is that nobody has filled in. */
            new->value = 0;
#elif MISTAKE == 3
            mvedsua_free(new->value);
#elif MISTAKE == 4
            while (done == 10) mvedsua_progress(done, total);
#elif MISTAKE == 5
            if (done == 10) *(volatile int *)8 = 0;
#endif
#ifdef SLOW
            for (unsigned long step = 0; done == 10 && step < SLOW; step++) mvedsua_progress(done, total);
#endif
#if MISTAKE != 1
            *place = new;
            place = &new->next;
#endif
            mvedsua_moved(old, new, sizeof *old);
            mvedsua_free(old);
            mvedsua_progress(++done, total);
        }
    }
    return 0;
}

/* Debian's Redis keeps its types between ~deb12u7 and ~deb12u10, so it needs no transformer. This one makes every
 * entry of database 0 anew all the same, with Redis's own allocator, which is jemalloc's. */
#include <mvedsua.h>

int mvedsua_transform(void) {
    struct same_dict *dict = OLD(server).db[0].dict;
    unsigned long done = 0, total = dict->ht_used[0] + dict->ht_used[1];

    for (int t = 0; t < 2; t++) {
        if (!dict->ht_table[t]) continue;
        for (unsigned long i = 0; i < 1ul << dict->ht_size_exp[t]; i++) {
            struct same_dictEntry **place = &dict->ht_table[t][i];

            while (*place) {
                struct same_dictEntry *old = *place;
                struct same_dictEntry *new = new_zmalloc(sizeof *new);

                *new = *old;
                *place = new;
                place = &new->next;
                mvedsua_moved(old, new, sizeof *old);
                new_zfree(old);
                mvedsua_progress(++done, total);
            }
        }
    }
    return done == total ? 0 : 1;
}

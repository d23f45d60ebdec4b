/* From version 2 to version 3: an entry gets a count of its reads. The entries lie in the nodes of a BTreeMap of the
 * standard library (rustc 1.95; the header would not compile against another layout), so the nodes are made anew.
 *
 *   mvedsua bundle build --old board-v2 --new board-v3 --transform v2-v3.c -o v3.mvu
 */
#include <mvedsua.h>

/* The entry, and every type of the library that holds one. */
MVEDSUA_HANDLES_LIKE("*commands::Entry*");

#define LEAF(version) struct version##_alloc__collections__btree__node__LeafNode_alloc__string__String__commands__Entry_
#define INTERNAL(version) struct version##_alloc__collections__btree__node__InternalNode_alloc__string__String__commands__Entry_

/* Option<NodeRef>, which C cannot express: an enum. */
struct root {
    void *node;
    unsigned long height;
};

static unsigned long done, total;

/* A node of this height and all below it; the old ones are given back. */
static void *anew(LEAF(old) *old, unsigned long height) {
    unsigned long old_size = height ? sizeof(INTERNAL(old)) : sizeof *old;
    unsigned long new_size = height ? sizeof(INTERNAL(new)) : sizeof(LEAF(new));
    LEAF(new) *new = mvedsua_alloc(new_size);

    memset(new, 0, new_size);
    memcpy(&new->keys, &old->keys, sizeof new->keys);
    memcpy(&new->parent_idx, &old->parent_idx, sizeof new->parent_idx);
    new->len = old->len;
    for (unsigned i = 0; i < old->len; i++) {
        struct old_commands__Entry *from = (void *)&old->vals[i];
        struct new_commands__Entry *to = (void *)&new->vals[i];

        to->text = from->text;
        to->writes = from->writes;
        to->reads = 0;
        if (++done % 256 == 0) mvedsua_progress(done, total);
    }
    for (unsigned i = 0; height && i <= old->len; i++) {
        LEAF(old) *from;
        LEAF(new) *to;

        memcpy(&from, &((INTERNAL(old) *)old)->edges[i], sizeof from);
        to = anew(from, height - 1);
        memcpy(&to->parent, &new, sizeof new);
        memcpy(&((INTERNAL(new) *)new)->edges[i], &to, sizeof to);
    }
    mvedsua_moved(old, new, old_size);
    mvedsua_free(old);
    return new;
}

int mvedsua_transform(void) {
    struct root *root = (void *)&OLD(commands__BOARD).data.value.root;

    _Static_assert(sizeof OLD(commands__BOARD).data.value.root == sizeof *root, "the root of a map");
    total = OLD(commands__BOARD).data.value.length;
    /* An empty board has no nodes. */
    if (root->node) root->node = anew(root->node, root->height);
    mvedsua_progress(done, done);
    return 0;
}

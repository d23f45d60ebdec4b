/* The traversal: objects that were found and not yet brought into their new form lie on a stack, so that a
 * list of a million entries needs no recursion, and what was found last, and is in the cache, comes next. */
struct work {
    void *old, *now;
    unsigned long count;
    int kind;
    /* It is a piece of a long array. */
    int piece;
};

struct block {
    struct block *below;
    unsigned long used;
    struct work works[1000];
};

/* Objects that are given back in the end. */
struct list {
    struct list *below;
    unsigned long used;
    void *olds[4000];
};

/* Of runtime.c. */
struct moved {
    unsigned long old, new, size;
};
struct moved *mvedsua_slot(const void *old);

static struct block *to_do, *spare;
static struct list *to_free;
static unsigned long done, told, waiting;
/* Elements of long arrays, and those that were come to: they tell how much is left. */
static unsigned long elements, reached;

enum { LONG = 1024 };

static void push(struct work work) {
    if (!to_do || to_do->used == 1000) {
        struct block *block = spare;
        if (block) spare = block->below;
        else block = mvedsua_alloc(sizeof *block);
        block->below = to_do;
        block->used = 0;
        to_do = block;
    }
    to_do->works[to_do->used++] = work;
    waiting++;
}

static int pop(struct work *work) {
    while (to_do && !to_do->used) {
        struct block *below = to_do->below;
        to_do->below = spare;
        spare = to_do;
        to_do = below;
    }
    if (!to_do) return 0;
    *work = to_do->works[--to_do->used];
    waiting--;
    return 1;
}

/* Objects in a row. Many of them come in pieces, the last one at the bottom of the stack, so that all that a
 * piece leads to is done before the next. */
static void push_all(int kind, void *now, void *old, unsigned long count) {
    int pieces = count > LONG;
    if (pieces) elements += count;
    while (count) {
        unsigned long some = pieces ? (count - 1) % LONG + 1 : count;
        count -= some;
        push((struct work){(char *)old + count * kinds[kind].old_size, (char *)now + count * kinds[kind].new_size, some, kind, pieces});
    }
}

static void give_back(void *old) {
    if (!to_free || to_free->used == 4000) {
        struct list *list = mvedsua_alloc(sizeof *list);
        list->below = to_free;
        list->used = 0;
        to_free = list;
    }
    to_free->olds[to_free->used++] = old;
}

/* Where an object is in the new version; seen for the first time, it is queued. */
static void *visit(int kind, const void *old, unsigned long count) {
    if (!old) return 0;
    unsigned long size = kinds[kind].old_size;
    struct moved *slot = mvedsua_slot(old);
    if (slot->old) {
        if (slot->size != size && slot->size != size * count)
            mvedsua_fail("two pointers of different types lead to one place: write the transformer in C");
        return (void *)slot->new;
    }
    void *now = (void *)old;
    if (kinds[kind].anew) {
        now = ALLOC(kinds[kind].new_size * (count ? count : 1));
        if (!now) mvedsua_fail("out of memory");
        memset(now, 0, kinds[kind].new_size * count);
    }
    *slot = (struct moved){(unsigned long)old, (unsigned long)now, kinds[kind].anew ? size : size * count};
    /* Elements of an array may be pointed to one by one. */
    for (unsigned long i = 1; kinds[kind].anew && i < count; i++) {
        if (mvedsua_follow((const char *)old + i * size))
            mvedsua_fail("an element of an array was reached before the array: write the transformer in C");
        mvedsua_moved((const char *)old + i * size, (char *)now + i * kinds[kind].new_size, size);
    }
    if (kinds[kind].give_back) give_back((void *)old);
    push_all(kind, now, (void *)old, count);
    return now;
}

static void tell(void) {
    double all = reached ? (double)done * elements / reached : 0;
    unsigned long total = done + waiting;
    if (all > total && all < 1e18) total = all;
    mvedsua_progress(done, total);
    told = done;
}

static void walk(void) {
    struct work work;
    while (pop(&work)) {
        for (unsigned long i = 0; i < work.count; i++)
            copy(work.kind, (char *)work.now + i * kinds[work.kind].new_size, (char *)work.old + i * kinds[work.kind].old_size);
        if (work.piece) reached += work.count;
        if (kinds[work.kind].object) done += work.count;
        if (done - told >= 256) tell();
    }
    mvedsua_progress(done, done);
    if (mvedsua_overlap())
        mvedsua_fail("a pointer leads into the middle of another object: write the transformer in C");
    for (struct list *below; to_free; to_free = below) {
        for (unsigned long i = 0; i < to_free->used; i++) FREE(to_free->olds[i]);
        below = to_free->below;
        mvedsua_free(to_free);
    }
    for (struct block *below; spare; spare = below) {
        below = spare->below;
        mvedsua_free(spare);
    }
}

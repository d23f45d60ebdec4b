struct work {
    void *old, *now;
    unsigned long count;
    int kind;
};

/* A stack in blocks; each block knows the one below. */
struct block {
    struct block *below;
    unsigned long used;
    struct work works[1000];
};

static struct block *to_do, *to_free;
static unsigned long done, waiting;

static void push(struct block **stack, struct work work) {
    if (!*stack || (*stack)->used == 1000) {
        struct block *block = mvedsua_alloc(sizeof *block);
        block->below = *stack;
        block->used = 0;
        *stack = block;
    }
    (*stack)->works[(*stack)->used++] = work;
}

static int pop(struct block **stack, struct work *work) {
    while (*stack && !(*stack)->used) {
        struct block *below = (*stack)->below;
        mvedsua_free(*stack);
        *stack = below;
    }
    if (!*stack) return 0;
    *work = (*stack)->works[--(*stack)->used];
    return 1;
}

/* Where an object is in the new version; seen for the first time, it is queued. */
static void *visit(int kind, const void *old, unsigned long count) {
    if (!old) return 0;
    unsigned long size = kinds[kind].old_size, known_size;
    void *now = mvedsua_find(old, &known_size);
    if (now) {
        if (known_size != size && known_size != size * count)
            mvedsua_fail("two pointers of different types lead to one place: write the transformer in C");
        return now;
    }
    now = (void *)old;
    if (kinds[kind].anew) {
        now = ALLOC(kinds[kind].new_size * (count ? count : 1));
        if (!now) mvedsua_fail("out of memory");
        memset(now, 0, kinds[kind].new_size * count);
        /* Elements of an array may be pointed to one by one. */
        for (unsigned long i = 1; i < count; i++) {
            if (mvedsua_follow((const char *)old + i * size))
                mvedsua_fail("an element of an array was reached before the array: write the transformer in C");
            mvedsua_moved((const char *)old + i * size, (char *)now + i * kinds[kind].new_size, size);
        }
    }
    mvedsua_moved(old, now, kinds[kind].anew ? size : size * count);
    push(&to_do, (struct work){(void *)old, now, count, kind});
    waiting++;
    return now;
}

static void walk(void) {
    struct work work;
    while (pop(&to_do, &work)) {
        waiting--;
        for (unsigned long i = 0; i < work.count; i++)
            copy(work.kind, (char *)work.now + i * kinds[work.kind].new_size, (char *)work.old + i * kinds[work.kind].old_size);
        if (kinds[work.kind].give_back) push(&to_free, work);
        if ((++done & 255) == 0) mvedsua_progress(done, done + waiting);
    }
    mvedsua_progress(done, done);
    if (mvedsua_overlap())
        mvedsua_fail("a pointer leads into the middle of another object: write the transformer in C");
    while (pop(&to_free, &work)) FREE(work.old);
}

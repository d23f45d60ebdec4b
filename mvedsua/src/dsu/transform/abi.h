/* The ABI between mvedsua and a transformer, version 1.
 *
 * A transformer turns the state that the old version left into the state that the new version
 * expects. It runs once, in one thread of the updated copy, while all its threads stand still: no
 * system call but those for memory is allowed, no lock may be waited for, and there is a time limit.
 * It must not call the C library, except for malloc and its kin, mem* and str*.
 *
 * In C++ (a file named .cc, .cpp or .cxx) include <mvedsua_abi.h> and the server's own headers, and declare
 * variables by their symbols: extern std::map<int, T> state asm("mvedsua.old._ZN3app5stateE").
 *
 * From Rust: declare these in an `extern "C"` block, export `mvedsua_transform`, and give the object
 * file to --transform (rustc --crate-type lib --emit obj -C panic=abort -C relocation-model=pic). */
#ifndef MVEDSUA_ABI
#define MVEDSUA_ABI 1

#ifdef __cplusplus
extern "C" {
#endif

/* The transformer. Returns 0; anything else rolls the update back. */
int mvedsua_transform(void);

/* Memory from the server's own malloc; never NULL: without memory the update is rolled back. The
 * server's wrappers (zmalloc and the like) can be called by name: new_zmalloc(n). */
void *mvedsua_alloc(unsigned long bytes);
void mvedsua_free(void *memory);

/* The object at `old` is now at `new` (which may be the same). Registers and stacks of threads and
 * epoll data words that hold exactly `old` will hold `new` afterwards; mvedsua_follow knows it too. */
void mvedsua_moved(const void *old, void *new_object, unsigned long bytes);

/* Where the object at `old` was moved; NULL when it was not declared. */
void *mvedsua_follow(const void *old);

/* The same, with the number of bytes that was declared. */
void *mvedsua_find(const void *old, unsigned long *bytes);

/* Whether two of the objects declared with mvedsua_moved overlap. */
int mvedsua_overlap(void);

/* For `mvedsua status`: objects done, and how many there are (0: not known). */
void mvedsua_progress(unsigned long done, unsigned long total);

/* Gives up: the update is rolled back, and the report says why. */
__attribute__((noreturn)) void mvedsua_fail(const char *why);

void *memcpy(void *to, const void *from, unsigned long bytes);
void *memmove(void *to, const void *from, unsigned long bytes);
void *memset(void *to, int byte, unsigned long bytes);
int memcmp(const void *a, const void *b, unsigned long bytes);

#ifdef __cplusplus
}
#endif

/* Says that objects of this changed type are taken care of, as in MVEDSUA_HANDLES(struct entry):
 * without it the bundle is refused. */
#define MVEDSUA_JOIN2(a, b) a##b
#define MVEDSUA_JOIN(a, b) MVEDSUA_JOIN2(a, b)
#define MVEDSUA_HANDLES(type)                                              \
    __attribute__((used, section(".mvedsua.handles"))) static const char   \
        MVEDSUA_JOIN(mvedsua_handles_, __COUNTER__)[] = #type

/* The same for all types whose name fits a text in which * stands for anything, as templates and generic types
 * need it: MVEDSUA_HANDLES_LIKE("*commands::Entry*"). */
#define MVEDSUA_HANDLES_LIKE(pattern)                                      \
    __attribute__((used, section(".mvedsua.handles"))) static const char   \
        MVEDSUA_JOIN(mvedsua_handles_, __COUNTER__)[] = pattern

/* Variables: OLD(head) is the running one with its old type, NEW(head) the one that the new version
 * uses. Both are the same memory unless the variable's own layout has changed. */
#define OLD(name) (*mvedsua_old_##name())
#define NEW(name) (*mvedsua_new_##name())

#endif

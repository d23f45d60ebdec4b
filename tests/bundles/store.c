/* A store with a hash table in a global and a list through all entries. Version 2 gives each entry a
 * type and a count of reads, puts them before the rest, and gives the table a number of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef BUCKETS
#define BUCKETS 64
#endif

struct entry {
#if VERSION == 2
    int type;
    long reads;
#endif
    long key;
    char *value;
    struct entry *chain; /* in its bucket */
    struct entry *next;  /* in the list of all */
};

struct table {
    struct entry **buckets;
    unsigned long size;
    unsigned long used;
#if VERSION == 2
    long changes;
#endif
};

struct table table;
struct entry *all;
struct entry *latest;
static unsigned long allocated;

__attribute__((noinline)) void *take(unsigned long bytes) {
    allocated += bytes;
    void *memory = malloc(bytes);
    if (!memory) abort();
    return memory;
}

__attribute__((noinline)) static struct entry *find(long key) {
    if (!table.size) return NULL;
    for (struct entry *e = table.buckets[(unsigned long)key % table.size]; e; e = e->chain)
        if (e->key == key) return e;
    return NULL;
}

__attribute__((noinline)) static void set(long key, const char *value) {
    if (!table.size) {
        table.size = BUCKETS;
        table.buckets = calloc(table.size, sizeof *table.buckets);
    }
    struct entry *e = find(key);
    if (!e) {
        e = take(sizeof *e);
        memset(e, 0, sizeof *e);
        e->key = key;
        struct entry **bucket = &table.buckets[(unsigned long)key % table.size];
        e->chain = *bucket;
        *bucket = e;
        e->next = all;
        all = e;
        table.used++;
    } else {
        free(e->value);
    }
    e->value = strdup(value);
#if VERSION == 2
    e->type = 1;
    table.changes++;
#endif
    latest = e;
}

__attribute__((noinline)) void answer(const char *line) {
    long key = 0;
    char value[64] = "";
    if (sscanf(line, "set %ld %63s", &key, value) == 2) {
        set(key, value);
        printf("ok\n");
    } else if (sscanf(line, "fill %ld", &key) == 1) {
        for (long i = 0; i < key; i++) {
            snprintf(value, sizeof value, "v%ld", i * 7);
            set(i, value);
        }
        printf("ok\n");
    } else if (sscanf(line, "get %ld", &key) == 1) {
        struct entry *e = find(key);
#if VERSION == 2
        if (e) e->reads++;
        printf("%s type %d reads %ld\n", e ? e->value : "none", e ? e->type : -1, e ? e->reads : -1);
#else
        printf("%s\n", e ? e->value : "none");
#endif
    } else if (sscanf(line, "has %ld", &key) == 1) {
        struct entry *e = find(key);
        printf("%s\n", e ? e->value : "none");
    } else if (!strncmp(line, "walk", 4)) {
        long sum = 0, count = 0;
        for (struct entry *e = all; e; e = e->next) sum += e->key, count++;
        printf("%ld entries sum %ld latest %ld\n", count, sum, latest ? latest->key : -1);
    } else if (!strncmp(line, "sum", 3)) {
        long sum = 0, count = 0;
        for (struct entry *e = all; e; e = e->next) sum += e->key, count++;
#if VERSION == 2
        printf("%ld entries sum %ld used %lu latest %ld changes %ld\n", count, sum, table.used, latest ? latest->key : -1, table.changes);
#else
        printf("%ld entries sum %ld used %lu latest %ld\n", count, sum, table.used, latest ? latest->key : -1);
#endif
    } else if (!strncmp(line, "bytes", 5)) {
        printf("%lu\n", allocated);
    } else {
        printf("what?\n");
    }
}

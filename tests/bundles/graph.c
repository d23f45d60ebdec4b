/* A tree with parents, unions, untyped pointers, arrays of pointers and structs in structs. Version 2
 * changes the leaf and the node; the shelf that holds nodes stays as it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct leaf {
#if VERSION == 2
    long weight;
#endif
    int n;
};

enum kind { LEAF = 1, NUMBER, NODES };

struct node;

union payload {
    struct leaf *leaf;
    double number;
    struct node **nodes; /* three */
};

struct node {
    enum kind kind;
    union payload value;
    struct node *parent;
#if VERSION == 2
    long title; /* was name */
    unsigned flag : 1;
    unsigned level : 7;
#else
    short name;
    int gone;
    unsigned level : 5;
#endif
    struct leaf own; /* by value */
    void *data;      /* a leaf */
    void *cookie;    /* anything */
    union {
        int either;
        float or;
    };
    char text[8];
};

struct shelf {
    struct node *fixed[2];
    unsigned used;
    struct node **nodes;
    struct shelf *next;
};

struct node *root;
static struct shelf *shelves;
struct leaf leaves[3];
struct shelf spare;

static __attribute__((noinline)) struct node *node(int n, enum kind kind, struct node *parent) {
    struct node *x = calloc(1, sizeof *x);
    x->kind = kind;
    x->parent = parent;
#if VERSION == 2
    x->title = n;
    x->flag = 1;
#else
    x->name = (short)n;
    x->gone = 1;
#endif
    x->level = 9;
    x->own.n = n * 2;
    struct leaf *data = calloc(1, sizeof *data);
    data->n = n * 3;
    x->data = data;
    x->cookie = (void *)0x1234;
    x->either = n * 4;
    snprintf(x->text, sizeof x->text, "t%d", n);
    switch (kind) {
    case LEAF:
        x->value.leaf = &leaves[n % 3];
        break;
    case NUMBER:
        x->value.number = n / 2.0;
        break;
    case NODES:
        x->value.nodes = calloc(3, sizeof *x->value.nodes);
        break;
    }
    return x;
}

static __attribute__((noinline)) void show(const struct node *x, char *to, size_t room) {
    size_t used = strlen(to);
#if VERSION == 2
    long name = x->title;
    long weight = x->own.weight + ((struct leaf *)x->data)->weight;
    int flag = x->flag;
#else
    long name = x->name;
    long weight = 22;
    int flag = 1;
#endif
    snprintf(to + used, room - used, "(%ld %d %d %d %s %d %ld %d%s", name, x->own.n, ((struct leaf *)x->data)->n, x->either, x->text, x->level, weight, flag,
             x->cookie == (void *)0x1234 ? "" : " lost");
    for (int i = 0; x->kind == NODES && i < 3; i++)
        if (x->value.nodes[i]) {
            if (x->value.nodes[i]->parent != x) strcat(to, " orphan");
            show(x->value.nodes[i], to, room);
        }
    used = strlen(to);
    if (x->kind == LEAF) snprintf(to + used, room - used, " leaf %d", x->value.leaf->n);
    if (x->kind == NUMBER) snprintf(to + used, room - used, " number %g", x->value.number);
    strcat(to, ")");
}

__attribute__((noinline)) void answer(const char *line) {
    static char text[2000];
    if (*line == 'm') {
        for (int i = 0; i < 3; i++) leaves[i].n = 100 + i;
        root = node(1, NODES, NULL);
        root->value.nodes[0] = node(2, LEAF, root);
        root->value.nodes[2] = node(3, NODES, root);
        root->value.nodes[2]->value.nodes[1] = node(4, NUMBER, root->value.nodes[2]);
        shelves = calloc(1, sizeof *shelves);
        shelves->next = &spare;
        shelves->fixed[1] = root->value.nodes[2];
        shelves->used = 2;
        shelves->nodes = calloc(2, sizeof *shelves->nodes);
        shelves->nodes[0] = root;
        shelves->nodes[1] = node(5, LEAF, NULL);
        spare.fixed[0] = shelves->nodes[1];
    }
    if (*line == 'i') root->data = &root->value.nodes[2]->own; /* into the middle of another */
    if (*line == 'l') leaves[2].n = 777;
    *text = 0;
    show(root, text, sizeof text);
    show(shelves->nodes[1], text, sizeof text);
    printf("%s %s %s %s\n", text, shelves->nodes[0] == root ? "same" : "other",
           shelves->fixed[1] == root->value.nodes[2] ? "same" : "other", shelves->next->fixed[0] == shelves->nodes[1] ? "same" : "other");
}

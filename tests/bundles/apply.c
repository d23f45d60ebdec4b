/* Preloaded into a victim: on SIGUSR1 it carries out the plan in the file $PLAN, from the inside.
 * The agent does the same with ptrace; here only the plan is under test.
 * Records: kind (1 byte), address (8), length (8), then for 'w' (write) that many bytes, for 'e' (expect)
 * that many bytes and that many mask bytes. 't' run the transformer whose control block is at the address that follows. 'r' reserve, 'm' map, 'x' 'c' 'v' protect (code, constant,
 * variable), 'p' copy from the address that follows,
 * 'u' register unwind table. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void fail(const char *what, uint64_t addr) {
    dprintf(1, "PLAN FAILED %s %lx\n", what, (unsigned long)addr);
    _exit(9);
}

static sigjmp_buf back;

static void ended(int signal) {
    (void)signal;
    siglongjmp(back, 1);
}

static void apply(int signal) {
    (void)signal;
    FILE *plan = fopen(getenv("PLAN"), "rb");
    int mem = open("/proc/self/mem", O_RDWR);
    if (!plan || mem < 0) fail("open", 0);
    struct { char kind; uint64_t addr, len; } __attribute__((packed)) record;
    while (fread(&record, sizeof record, 1, plan) == 1) {
        void *at = (void *)record.addr;
        unsigned char *bytes = NULL, *mask = NULL, *found = NULL;
        switch (record.kind) {
        case 'r':
            if (mmap(at, record.len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at) fail("reserve", record.addr);
            break;
        case 'm':
            if (mprotect(at, record.len, PROT_READ | PROT_WRITE)) fail("map", record.addr);
            break;
        case 'x':
            if (mprotect(at, record.len, PROT_READ | PROT_EXEC)) fail("protect", record.addr);
            break;
        case 'c':
            if (mprotect(at, record.len, PROT_READ)) fail("protect", record.addr);
            break;
        case 'v':
            break;
        case 'w':
            bytes = malloc(record.len);
            if (fread(bytes, 1, record.len, plan) != record.len) fail("short", record.addr);
            if (pwrite(mem, bytes, record.len, (off_t)record.addr) != (ssize_t)record.len) fail("write", record.addr);
            break;
        case 'p': {
            void *from;
            if (fread(&from, sizeof from, 1, plan) != 1) fail("short", record.addr);
            memcpy(at, from, record.len);
            break;
        }
        case 'e':
            bytes = malloc(record.len), mask = malloc(record.len), found = malloc(record.len);
            if (fread(bytes, 1, record.len, plan) != record.len || fread(mask, 1, record.len, plan) != record.len) fail("short", record.addr);
            if (pread(mem, found, record.len, (off_t)record.addr) != (ssize_t)record.len) fail("read", record.addr);
            for (uint64_t i = 0; i < record.len; i++)
                if ((bytes[i] ^ found[i]) & mask[i]) fail("expect", record.addr + i);
            break;
        case 'u': {
            void (*enter)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "__register_frame");
            if (!enter) fail("unwind", record.addr);
            enter(at);
            break;
        }
        case 't': {
            uint64_t *control;
            if (fread(&control, sizeof control, 1, plan) != 1) fail("short", record.addr);
            struct sigaction trap = {.sa_handler = ended, .sa_flags = SA_NODEFER}, before;
            sigaction(SIGTRAP, &trap, &before);
            if (!sigsetjmp(back, 1)) ((void (*)(void))at)();
            sigaction(SIGTRAP, &before, NULL);
            if (control[1] != 2) {
                dprintf(1, "TRANSFORM FAILED %s\n", (char *)(control + 8));
                _exit(9);
            }
            break;
        }
        default:
            fail("kind", record.addr);
        }
        free(bytes), free(mask), free(found);
    }
    fclose(plan);
    close(mem);
    dprintf(1, "APPLIED\n");
}

__attribute__((constructor)) static void start(void) {
    if (!getenv("PLAN")) return;
    struct sigaction action = {.sa_handler = apply, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
}

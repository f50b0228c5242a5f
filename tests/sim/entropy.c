// The one source of chance of a simulated process. Everything in it that is random asks getrandom(2) in the end: lease tokens,
// the keys of hash maps, and, through those, which ready branch of a select goes first. With BACKHAUL_SIM_SEED set, each thread
// gets the same numbers in every run (SplitMix64); without it, the system's.

#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static _Thread_local uint64_t state;
static _Thread_local int started;

static uint64_t next_number(void) {
    uint64_t mixed = (state += UINT64_C(0x9e3779b97f4a7c15));
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    const char *seed = getenv("BACKHAUL_SIM_SEED");
    if (seed == NULL) {
        return syscall(SYS_getrandom, buffer, length, flags);
    }
    if (!started) {
        started = 1;
        state = strtoull(seed, NULL, 10);
    }
    unsigned char *bytes = buffer;
    uint64_t number = 0;
    for (size_t i = 0; i < length; i++) {
        if (i % sizeof number == 0) {
            number = next_number();
        }
        bytes[i] = (unsigned char)(number >> (i % sizeof number * 8));
    }
    return (ssize_t)length;
}

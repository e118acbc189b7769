/* What the measuring programs share: a row runs a fixed number of operations per round, after one
 * warm-up round, and has START and STOP around the work.
 *
 * Output per row:  PB <name> <median ns per operation> <operations in all rounds>
 * A marker instruction (a long NOP with a magic displacement) brackets the timed part of each round
 * so that an emulator plugin can count instructions for it: 1 start, 2 stop, 5 row done, 6 forget
 * (warm-up).
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MARK(id) __asm__ volatile("nopl 0x50420000+" #id "(%%rax)" ::: "memory")

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}
#define CHK(x, what) ({ __auto_type v_ = (x); if ((long)v_ == -1) die(what); v_; })

static uint64_t t_acc;          /* time accumulated between START and STOP */
static uint64_t t_mark;
static void START(void) { MARK(1); t_mark = now(); }
static void STOP(void)  { t_acc += now() - t_mark; MARK(2); }

struct row {
    const char *name;
    void (*fn)(long);           /* does so many operations */
    long n;
    const char *base;           /* the row whose time is taken off */
};

static int cmpd(const void *a, const void *b)
{
    double x = *(double *)a, y = *(double *)b;
    return x < y ? -1 : x > y;
}

static int wanted(const char *name, int ac, char **av)
{
    for (int j = 0; j < ac; j++) if (!strncmp(name, av[j], strlen(av[j]))) return 1;
    return ac == 0;
}

/* all rows, or those whose names begin as one of av does */
static int run(const struct row *rows, size_t count, int rounds, int ac, char **av)
{
    static double med[64];
    static long did[64];
    if (count > 64) return 2;
    setvbuf(stdout, 0, _IOFBF, 1 << 16);
    for (size_t i = 0; i < count; i++) {
        int run = wanted(rows[i].name, ac, av);
        /* a row that subtracts a base needs the base */
        for (size_t k = 0; k < count; k++)
            if (rows[k].base && !strcmp(rows[k].base, rows[i].name)) run |= wanted(rows[k].name, ac, av);
        if (!run) continue;
        long n = rows[i].n;
        double v[64];
        for (int r = -1; r < rounds; r++) {
            t_acc = 0;
            rows[i].fn(n);
            if (r < 0) { MARK(6); continue; }
            v[r] = (double)t_acc / n;
        }
        qsort(v, rounds, sizeof *v, cmpd);
        med[i] = v[rounds / 2];
        did[i] = n * rounds;
        MARK(5);
    }
    for (size_t i = 0; i < count; i++) {
        if (!did[i]) continue;
        double sub = 0;
        if (rows[i].base)
            for (size_t k = 0; k < count; k++) if (!strcmp(rows[k].name, rows[i].base)) sub = med[k];
        printf("PB %s %.2f %ld\n", rows[i].name, med[i] - sub, did[i]);
    }
    return 0;
}

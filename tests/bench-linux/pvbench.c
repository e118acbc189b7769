/* pvbench: fixed-work OS microbenchmarks, in the manner of the lmbench rows used
 * to compare paravirtualised with native kernels. One static binary.
 *
 *   pvbench boot                          set the boot marker, print the time-stamp counter
 *   pvbench [-r rounds] [row-prefix ...]  run all rows, or those whose names begin so
 *
 * What a row is, and what is printed of it, is told in rows.h; marker 3: userspace reached.
 * Rows that move data count each 4 KiB as an operation.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/futex.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "rows.h"

static char self[256] = "/bin/pvbench";
static const char *tmpdir = "/tmp";

static volatile uint64_t sink;

static void r_cpu(long n)
{
    uint64_t x = 88172645463325252ull, s = 0;
    START();
    for (long i = 0; i < n; i++) {
        x ^= x << 13; x ^= x >> 7; x ^= x << 17;
        s += x * 0x9E3779B97F4A7C15ull;
    }
    STOP();
    sink = s;
}

#define CHASE_BYTES (16u << 20)
static void r_chase(long n)
{
    size_t lines = CHASE_BYTES / 64;
    void **ring = mmap(0, CHASE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED) die("mmap");
    /* a full-period LCG over the lines gives one cycle */
    for (size_t i = 0, at = 0; i < lines; i++) {
        size_t nx = (at * 1664525 + 1013904223) & (lines - 1);
        ring[at * 8] = &ring[nx * 8];
        at = nx;
    }
    void **p = ring;
    START();
    for (long i = 0; i < n; i++) p = *p;
    STOP();
    sink = (uintptr_t)p;
    munmap(ring, CHASE_BYTES);
}

#define CPY (4u << 20)
static void r_memcpy(long n)     /* per 4 KiB */
{
    char *a = mmap(0, 2 * CPY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *b = a + CPY;
    if (a == MAP_FAILED) die("mmap");
    memset(a, 1, CPY); memset(b, 2, CPY);
    START();
    for (long done = 0; done < n; done += CPY / 4096) {
        /* explicit 64-bit loads/stores so that no string instruction is used */
        uint64_t *s = (uint64_t *)a, *d = (uint64_t *)b;
        for (size_t j = 0; j < CPY / 8; j += 4) {
            uint64_t w = s[j], x = s[j + 1], y = s[j + 2], z = s[j + 3];
            __asm__ volatile("" ::: "memory");
            d[j] = w; d[j + 1] = x; d[j + 2] = y; d[j + 3] = z;
        }
    }
    STOP();
    munmap(a, 2 * CPY);
}

static void r_null(long n)
{
    START();
    for (long i = 0; i < n; i++) syscall(SYS_getppid);
    STOP();
}

static void r_gettime(long n)
{
    struct timespec t;
    START();
    for (long i = 0; i < n; i++) clock_gettime(CLOCK_MONOTONIC, &t);
    STOP();
}

static void r_io(long n)         /* mean of a 1-byte read and a 1-byte write */
{
    int z = CHK(open("/dev/zero", O_RDONLY), "zero"), w = CHK(open("/dev/null", O_WRONLY), "null");
    char c;
    START();
    for (long i = 0; i < n / 2; i++) { if (read(z, &c, 1) + write(w, &c, 1) != 2) die("io"); }
    STOP();
    close(z); close(w);
}

static char tpath[128];
static const char *tfile(void)
{
    snprintf(tpath, sizeof tpath, "%s/pvb.f", tmpdir);
    int fd = CHK(open(tpath, O_CREAT | O_RDWR, 0644), "tfile");
    close(fd);
    return tpath;
}

static void r_stat(long n)
{
    const char *f = tfile();
    struct stat st;
    START();
    for (long i = 0; i < n; i++) if (stat(f, &st)) die("stat");
    STOP();
}

static void r_open(long n)
{
    const char *f = tfile();
    START();
    for (long i = 0; i < n; i++) close(CHK(open(f, O_RDONLY), "open"));
    STOP();
}

static volatile long hits;
static void on_usr(int s) { hits++; }

static void r_siginst(long n)
{
    struct sigaction sa = { .sa_handler = on_usr };
    START();
    for (long i = 0; i < n; i++) sigaction(SIGUSR1, &sa, 0);
    STOP();
}

static void r_sighndl(long n)
{
    struct sigaction sa = { .sa_handler = on_usr };
    sigaction(SIGUSR1, &sa, 0);
    pid_t me = getpid();
    hits = 0;
    START();
    for (long i = 0; i < n; i++) kill(me, SIGUSR1);
    STOP();
    if (hits != n) die("lost signals");
}

static sigjmp_buf jb;
static long want;
static void on_segv(int s) { if (++hits >= want) siglongjmp(jb, 1); }

static void r_prot(long n)       /* write to a read-only page, faulting n times */
{
    struct sigaction sa = { .sa_handler = on_segv }, old;
    volatile char *p = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sink = p[0];
    sigaction(SIGSEGV, &sa, &old);
    hits = 0; want = n;
    START();
    if (!sigsetjmp(jb, 1)) p[0] = 1;
    STOP();
    sigaction(SIGSEGV, &old, 0);
    munmap((void *)p, 4096);
}

#define MFILE (8u << 20)
static int mapfile(void)
{
    static int fd = -1;
    if (fd < 0) {
        char p[128];
        snprintf(p, sizeof p, "%s/pvb.map", tmpdir);
        fd = CHK(open(p, O_CREAT | O_RDWR, 0644), "mapfile");
        char buf[65536];
        memset(buf, 'x', sizeof buf);
        for (unsigned i = 0; i < MFILE; i += sizeof buf)
            if (write(fd, buf, sizeof buf) != sizeof buf) die("fill");
    }
    return fd;
}

static void r_mmap(long n)       /* map 8 MiB of page cache, touch every 16th page, unmap */
{
    int fd = mapfile();
    START();
    for (long i = 0; i < n; i++) {
        volatile char *p = mmap(0, MFILE, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) die("mmap");
        for (unsigned o = 0; o < MFILE; o += 65536) sink = p[o];
        munmap((void *)p, MFILE);
    }
    STOP();
}

static void r_mmapnt(long n)     /* map and unmap without touching */
{
    int fd = mapfile();
    START();
    for (long i = 0; i < n; i++) {
        void *p = mmap(0, MFILE, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) die("mmap");
        munmap(p, MFILE);
    }
    STOP();
}

static void r_ffault(long n)     /* per page: read faults on a shared file map, in a scattered order */
{
    int fd = mapfile();
    unsigned pages = MFILE / 4096;
    for (long done = 0; done < n; done += pages) {
        volatile char *p = mmap(0, MFILE, PROT_READ, MAP_SHARED, fd, 0);
        START();
        for (unsigned i = 0, at = 7; i < pages; i++) {
            sink = p[(size_t)at * 4096];
            at = (at * 1664525 + 1013904223) & (pages - 1);
        }
        STOP();
        munmap((void *)p, MFILE);
    }
}

static void r_sfault(long n)     /* per page: write faults on a shared file map: no fault-around */
{
    int fd = mapfile();
    unsigned pages = MFILE / 4096;
    for (long done = 0; done < n; done += pages) {
        volatile char *p = mmap(0, MFILE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        START();
        for (unsigned i = 0, at = 7; i < pages; i++) {
            p[(size_t)at * 4096] = 'y';
            at = (at * 1664525 + 1013904223) & (pages - 1);
        }
        STOP();
        munmap((void *)p, MFILE);
    }
}

static void r_afault(long n)     /* per page: first write to anonymous memory (allocate, zero, map) */
{
    size_t len = (size_t)2048 * 4096;
    for (long done = 0; done < n; done += 2048) {
        volatile char *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise((void *)p, len, MADV_NOHUGEPAGE);
        START();
        for (unsigned i = 0; i < 2048; i++) p[(size_t)i * 4096] = 1;
        STOP();
        munmap((void *)p, len);
    }
}

static void r_munmap(long n)     /* per page: unmapping populated anonymous memory */
{
    size_t len = (size_t)2048 * 4096;
    for (long done = 0; done < n; done += 2048) {
        char *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(p, len, MADV_NOHUGEPAGE);
        for (unsigned i = 0; i < 2048; i++) p[(size_t)i * 4096] = 1;
        START();
        munmap(p, len);
        STOP();
    }
}

static void mprot(long n, size_t pages)
{
    size_t len = pages * 4096;
    char *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, len, MADV_NOHUGEPAGE);
    memset(p, 1, len);
    START();
    for (long i = 0; i < n; i++)
        if (mprotect(p, len, i & 1 ? PROT_READ | PROT_WRITE : PROT_READ)) die("mprotect");
    STOP();
    munmap(p, len);
}
static void r_mprot1(long n) { mprot(n, 1); }
static void r_mprot64(long n) { mprot(n, 64); }

static void reap(pid_t p)
{
    int st;
    if (waitpid(p, &st, 0) != p) die("wait");
    if (!WIFEXITED(st) || WEXITSTATUS(st)) { fprintf(stderr, "pvbench: child status %x\n", st); exit(1); }
}

static void r_fork(long n)
{
    START();
    for (long i = 0; i < n; i++) {
        pid_t p = CHK(fork(), "fork");
        if (!p) _exit(0);
        reap(p);
    }
    STOP();
}

static void r_exec(long n)
{
    char *av[] = { "pvbench", "true", 0 }, *ev[] = { 0 };
    START();
    for (long i = 0; i < n; i++) {
        pid_t p = CHK(fork(), "fork");
        if (!p) { execve(self, av, ev); _exit(9); }
        reap(p);
    }
    STOP();
}

static void r_sh(long n)
{
    char cmd[320];
    /* the trailing "; :" keeps the shell from exec-ing the command in place */
    snprintf(cmd, sizeof cmd, "%s true; :", self);
    char *av[] = { "sh", "-c", cmd, 0 }, *ev[] = { 0 };
    START();
    for (long i = 0; i < n; i++) {
        pid_t p = CHK(fork(), "fork");
        if (!p) { execve("/bin/sh", av, ev); _exit(9); }
        reap(p);
    }
    STOP();
}

/* Token ring through pipes, as lat_ctx: subtracts a one-process run of the same
 * pipe operations and array sums. */
static uint64_t sumk(int *a, int k) { uint64_t s = 0; for (int i = 0; i < k / 4; i++) s += a[i]; return s; }

static void ctx(long n, int procs, int kb)
{
    int k = kb * 1024;
    int fd[64][2];
    pid_t pid[64];
    for (int i = 0; i < procs; i++) CHK(pipe(fd[i]), "pipe");
    for (int i = 1; i < procs; i++) {
        pid[i] = CHK(fork(), "fork");
        if (!pid[i]) {
            int *a = malloc(k + 4096), t;
            memset(a, 1, k + 4096);
            for (;;) {
                if (read(fd[i][0], &t, 4) != 4) _exit(1);
                sink = sumk(a, k);
                if (write(fd[(i + 1) % procs][1], &t, 4) != 4) _exit(1);
                if (t < 0) _exit(0);
            }
        }
    }
    int *a = malloc(k + 4096), t = 1;
    memset(a, 1, k + 4096);
    for (int w = 0; w < 2; w++) {               /* settle */
        write(fd[1 % procs][1], &t, 4); read(fd[0][0], &t, 4); sink = sumk(a, k);
    }
    START();
    for (long i = 0; i < n / procs; i++) {
        if (write(fd[1 % procs][1], &t, 4) != 4 || read(fd[0][0], &t, 4) != 4) die("ring");
        sink = sumk(a, k);
    }
    STOP();
    t = -1;
    write(fd[1 % procs][1], &t, 4); read(fd[0][0], &t, 4);
    for (int i = 1; i < procs; i++) reap(pid[i]);
    free(a);
    for (int i = 0; i < procs; i++) { close(fd[i][0]); close(fd[i][1]); }
}
static void ctxbase(long n, int kb)             /* the same operations by one process */
{
    int fd[2], t = 1, k = kb * 1024;
    int *a = malloc(k + 4096);
    memset(a, 1, k + 4096);
    CHK(pipe(fd), "pipe");
    START();
    for (long i = 0; i < n; i++) {
        if (write(fd[1], &t, 4) != 4 || read(fd[0], &t, 4) != 4) die("ring");
        sink = sumk(a, k);
    }
    STOP();
    free(a);
    close(fd[0]); close(fd[1]);
}
static void r_ctxb0(long n) { ctxbase(n, 0); }
static void r_ctxb16(long n) { ctxbase(n, 16); }
static void r_ctx2_0(long n) { ctx(n, 2, 0); }
static void r_ctx2_16(long n) { ctx(n, 2, 16); }
static void r_ctx8_16(long n) { ctx(n, 8, 16); }
static void r_ctx16_0(long n) { ctx(n, 16, 0); }

/* ping-pong over two descriptors; the child echoes one byte */
static void pingpong(long n, int rfd, int wfd, int crfd, int cwfd)
{
    char c = 'a';
    pid_t p = CHK(fork(), "fork");
    if (!p) {
        while (read(crfd, &c, 1) == 1 && c != 'q') if (write(cwfd, &c, 1) != 1) _exit(1);
        _exit(0);
    }
    for (int i = 0; i < 4; i++) if (write(wfd, &c, 1) != 1 || read(rfd, &c, 1) != 1) die("pp");
    START();
    for (long i = 0; i < n; i++) if (write(wfd, &c, 1) != 1 || read(rfd, &c, 1) != 1) die("pp");
    STOP();
    c = 'q';
    if (write(wfd, &c, 1) != 1) die("pp");
    reap(p);
}
static void r_pipe(long n)
{
    int a[2], b[2];
    CHK(pipe(a), "pipe"); CHK(pipe(b), "pipe");
    pingpong(n, b[0], a[1], a[0], b[1]);
    close(a[0]); close(a[1]); close(b[0]); close(b[1]);
}
static void r_unix(long n)
{
    int s[2];
    CHK(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
    pingpong(n, s[0], s[0], s[1], s[1]);
    close(s[0]); close(s[1]);
}

static void lo_up(void)
{
    struct ifreq ifr = { 0 };
    int s = CHK(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    strcpy(ifr.ifr_name, "lo");
    CHK(ioctl(s, SIOCGIFFLAGS, &ifr), "lo");
    ifr.ifr_flags |= IFF_UP;
    CHK(ioctl(s, SIOCSIFFLAGS, &ifr), "lo up");
    close(s);
}
static void tcp_pair(int s[2])
{
    lo_up();
    int one = 1, l = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket");
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t al = sizeof a;
    CHK(bind(l, (void *)&a, sizeof a), "bind");
    CHK(listen(l, 1), "listen");
    CHK(getsockname(l, (void *)&a, &al), "name");
    s[0] = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket");
    CHK(connect(s[0], (void *)&a, sizeof a), "connect");
    s[1] = CHK(accept(l, 0, 0), "accept");
    setsockopt(s[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(s[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(l);
}
static void r_tcp(long n)
{
    int s[2];
    tcp_pair(s);
    pingpong(n, s[0], s[0], s[1], s[1]);
    close(s[0]); close(s[1]);
}
static void r_udp(long n)
{
    lo_up();
    int s[2];
    struct sockaddr_in a[2];
    for (int i = 0; i < 2; i++) {
        socklen_t al = sizeof a[i];
        memset(&a[i], 0, sizeof a[i]);
        a[i].sin_family = AF_INET; a[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        s[i] = CHK(socket(AF_INET, SOCK_DGRAM, 0), "socket");
        CHK(bind(s[i], (void *)&a[i], sizeof a[i]), "bind");
        CHK(getsockname(s[i], (void *)&a[i], &al), "name");
    }
    CHK(connect(s[0], (void *)&a[1], sizeof a[1]), "connect");
    CHK(connect(s[1], (void *)&a[0], sizeof a[0]), "connect");
    pingpong(n, s[0], s[0], s[1], s[1]);
    close(s[0]); close(s[1]);
}
static void r_tcpconn(long n)    /* connect + accept + close, one process */
{
    lo_up();
    int l = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket"), one = 1;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t al = sizeof a;
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CHK(bind(l, (void *)&a, sizeof a), "bind");
    CHK(listen(l, 16), "listen");
    CHK(getsockname(l, (void *)&a, &al), "name");
    struct linger lg = { 1, 0 };
    START();
    for (long i = 0; i < n; i++) {
        int c = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket");
        setsockopt(c, SOL_SOCKET, SO_LINGER, &lg, sizeof lg);
        CHK(connect(c, (void *)&a, sizeof a), "connect");
        int d = CHK(accept(l, 0, 0), "accept");
        close(c); close(d);
    }
    STOP();
    close(l);
}

/* n: pages of 4 KiB to move, 64 KiB a write */
static void stream(long pages, int rfd, int wfd)
{
    long n = pages * 4096;
    static char buf[65536];
    memset(buf, 'z', sizeof buf);
    int ack[2];
    CHK(pipe(ack), "pipe");
    pid_t p = CHK(fork(), "fork");
    if (!p) {
        long got = 0;
        while (got < n) { ssize_t r = read(rfd, buf, sizeof buf); if (r <= 0) _exit(1); got += r; }
        _exit(write(ack[1], "k", 1) != 1);
    }
    char c;
    START();
    for (long put = 0; put < n;) {
        size_t w = n - put < (long)sizeof buf ? (size_t)(n - put) : sizeof buf;
        ssize_t r = write(wfd, buf, w);
        if (r <= 0) die("stream");
        put += r;
    }
    if (read(ack[0], &c, 1) != 1) die("ack");
    STOP();
    reap(p);
    close(ack[0]); close(ack[1]);
}
static void r_bwpipe(long n) { int a[2]; CHK(pipe(a), "pipe"); stream(n, a[0], a[1]); close(a[0]); close(a[1]); }
static void r_bwunix(long n) { int s[2]; CHK(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "sp"); stream(n, s[1], s[0]); close(s[0]); close(s[1]); }
static void r_bwtcp(long n) { int s[2]; tcp_pair(s); stream(n, s[1], s[0]); close(s[0]); close(s[1]); }

static void r_futex(long n)      /* two processes hand over through a futex; per hand-over pair */
{
    volatile int *w = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    *w = 0;
    pid_t p = CHK(fork(), "fork");
    if (!p) {
        for (long i = 0; i < n + 4; i++) {
            while (*w == 0) syscall(SYS_futex, w, FUTEX_WAIT, 0, 0, 0, 0);
            *w = 0;
            syscall(SYS_futex, w, FUTEX_WAKE, 1, 0, 0, 0);
        }
        _exit(0);
    }
    for (long i = 0; i < n + 4; i++) {
        if (i == 4) START();
        *w = 1;
        syscall(SYS_futex, w, FUTEX_WAKE, 1, 0, 0, 0);
        while (*w == 1) syscall(SYS_futex, w, FUTEX_WAIT, 1, 0, 0, 0);
    }
    STOP();
    reap(p);
    munmap((void *)w, 4096);
}

static void r_yield(long n)
{
    START();
    for (long i = 0; i < n; i++) sched_yield();
    STOP();
}

static void nap(long n, long ns) /* excess over a sleep: timer set, idle, wake-up */
{
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    struct timespec t = { 0, ns };
    START();
    for (long i = 0; i < n; i++) nanosleep(&t, 0);
    STOP();
    t_acc -= (uint64_t)n * ns;
}
/* Linux's PV clock event has a floor of about 100 us: the short nap shows it, the long one is clear of it */
static void r_nap50(long n) { nap(n, 50000); }
static void r_nap200(long n) { nap(n, 200000); }

/* n files per round; rows come in create/delete pairs that share the work */
static void fmany(long n, size_t size, int want_create)
{
    char p[160], buf[10240];
    memset(buf, 'f', sizeof buf);
    if (want_create) START();
    for (long i = 0; i < n; i++) {
        snprintf(p, sizeof p, "%s/d/%ld", tmpdir, i);
        int fd = CHK(open(p, O_CREAT | O_EXCL | O_WRONLY, 0644), "creat");
        if (size && write(fd, buf, size) != (ssize_t)size) die("fwrite");
        close(fd);
    }
    if (want_create) STOP(); else START();
    for (long i = 0; i < n; i++) {
        snprintf(p, sizeof p, "%s/d/%ld", tmpdir, i);
        if (unlink(p)) die("unlink");
    }
    if (!want_create) STOP();
}
static void r_c0(long n) { fmany(n, 0, 1); }
static void r_d0(long n) { fmany(n, 0, 0); }
static void r_c10(long n) { fmany(n, 10240, 1); }
static void r_d10(long n) { fmany(n, 10240, 0); }

/* macro rows: n is a scale for a shell script */
static void script(const char *body, long n)
{
    char cmd[1024];
    snprintf(cmd, sizeof cmd, "N=%ld; cd %s; %s", n, tmpdir, body);
    char *av[] = { "sh", "-c", cmd, 0 }, *ev[] = { "PATH=/bin", 0 };
    START();
    pid_t p = CHK(fork(), "fork");
    if (!p) { execve("/bin/sh", av, ev); _exit(9); }
    reap(p);
    STOP();
}
static void r_forks(long n)      /* a configure-like script: many short processes and small files */
{
    script("mkdir -p m; i=0; while [ $i -lt $N ]; do i=$((i+1)); echo conftest $i > m/c.$i; "
           "cat m/c.$i | sed -e s/conftest/x/ > m/o.$i; grep -q x m/o.$i || exit 1; "
           "cp m/o.$i m/p.$i; rm -f m/c.$i m/o.$i; done; ls m | wc -l > m/count; rm -rf m", n);
}
static void r_gzip(long n)       /* dd | gzip | md5sum over a fixed tree: pipe and computation */
{
    mapfile();
    script("i=0; while [ $i -lt $N ]; do i=$((i+1)); dd if=pvb.map bs=64k count=8 2>/dev/null | "
           "gzip -1 | md5sum > t.sum; done", n);
}

static const struct row rows[] = {
    { "ctl.cpu", r_cpu, 2000000 },
    { "ctl.chase", r_chase, 2000000 },
    { "ctl.copy", r_memcpy, 4096 },
    { "sys.null", r_null, 20000 },
    { "sys.gettime", r_gettime, 20000 },
    { "sys.io", r_io, 20000 },
    { "sys.stat", r_stat, 10000 },
    { "sys.openclose", r_open, 10000 },
    { "sys.yield", r_yield, 10000 },
    { "sig.inst", r_siginst, 20000 },
    { "sig.hndl", r_sighndl, 10000 },
    { "sig.prot", r_prot, 5000 },
    { "proc.fork", r_fork, 200 },
    { "proc.exec", r_exec, 100 },
    { "proc.sh", r_sh, 50 },
    { "ctx.base0k", r_ctxb0, 4000 },
    { "ctx.base16k", r_ctxb16, 1000 },
    { "ctx.2p0k", r_ctx2_0, 4000, "ctx.base0k" },
    { "ctx.2p16k", r_ctx2_16, 2000, "ctx.base16k" },
    { "ctx.8p16k", r_ctx8_16, 2000, "ctx.base16k" },
    { "ctx.16p0k", r_ctx16_0, 4000, "ctx.base0k" },
    { "mm.mmap8m", r_mmap, 50 },
    { "mm.mmapnt", r_mmapnt, 2000 },
    { "mm.filefault", r_ffault, 8192 },
    { "mm.shwrfault", r_sfault, 4096 },
    { "mm.anonfault", r_afault, 4096 },
    { "mm.munmap", r_munmap, 8192 },
    { "mm.mprotect1", r_mprot1, 4000 },
    { "mm.mprotect64", r_mprot64, 1000 },
    { "ipc.pipe", r_pipe, 2000 },
    { "ipc.unix", r_unix, 2000 },
    { "ipc.udp", r_udp, 2000 },
    { "ipc.tcp", r_tcp, 2000 },
    { "ipc.tcpconn", r_tcpconn, 500 },
    { "ipc.futex", r_futex, 2000 },
    { "bw.pipe", r_bwpipe, 4096 },
    { "bw.unix", r_bwunix, 4096 },
    { "bw.tcp", r_bwtcp, 4096 },
    { "timer.nap50us", r_nap50, 500 },
    { "timer.nap200us", r_nap200, 500 },
    { "fs.create0k", r_c0, 1000 },
    { "fs.delete0k", r_d0, 1000 },
    { "fs.create10k", r_c10, 500 },
    { "fs.delete10k", r_d10, 500 },
    { "macro.forks", r_forks, 20 },
    { "macro.gzip", r_gzip, 2 },
};

int main(int ac, char **av)
{
    if (ac == 2 && !strcmp(av[1], "true")) return 0;
    if (ac == 2 && !strcmp(av[1], "boot")) {
        uint32_t lo, hi;
        __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
        MARK(3);
        printf("PI tsc %llu\n", (unsigned long long)hi << 32 | lo);
        return 0;
    }
    int rounds = 3, o;
    while ((o = getopt(ac, av, "r:")) != -1) {
        if (o != 'r') return 2;
        rounds = atoi(optarg);
    }
    if (rounds < 1 || rounds > 64) return 2;
    ac -= optind; av += optind;
    ssize_t sl = readlink("/proc/self/exe", self, sizeof self - 1);
    if (sl > 0) self[sl] = 0;
    char d[160];
    snprintf(d, sizeof d, "%s/d", tmpdir);
    mkdir(d, 0755);
    signal(SIGPIPE, SIG_IGN);
    return run(rows, sizeof rows / sizeof *rows, rounds, ac, av);
}

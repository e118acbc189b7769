/* pvio: what a guest's block device and network interface do, as fixed work.
 *
 *   pvio serve                            be the peer of the net rows
 *   pvio DEVICE PEER [row-prefix ...]     run all rows, or those whose names begin so
 *
 * PEER is the address of a machine that runs `pvio serve`. What a row is, is told in rows.h.
 * Rows that move much data count each 4 KiB as an operation.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "rows.h"

#define PORT 7
#define PAGE 4096
#define LARGE (1 << 20)
#define DEPTH 32
#define PIECE 65536             /* of a TCP stream */

static char buffer[LARGE > DEPTH * PAGE ? LARGE : DEPTH * PAGE] __attribute__((aligned(PAGE)));

/* ---- the block device, without the page cache ---- */

static int disk;
static uint64_t disk_size;

static void open_disk(const char *path)
{
    disk = CHK(open(path, O_RDWR | O_DIRECT), path);
    CHK(ioctl(disk, BLKGETSIZE64, &disk_size), "BLKGETSIZE64");
    disk_size -= disk_size % LARGE;
    if (!disk_size) die("a disk that is too small");
    /* a medium may keep what was never written in another way */
    memset(buffer, 'd', sizeof buffer);
    for (uint64_t at = 0; at < disk_size; at += LARGE)
        if (pwrite(disk, buffer, LARGE, at) != LARGE) die("fill");
}

/* one request after another, round and round */
static void in_turn(long n, size_t size, ssize_t (*move)(void *, size_t, off_t))
{
    START();
    for (long i = 0; i < n; i++)
        if (move(buffer, size, i * size % disk_size) != (ssize_t)size) die("disk");
    STOP();
}
static ssize_t get(void *to, size_t n, off_t at) { return pread(disk, to, n, at); }
static ssize_t put(void *from, size_t n, off_t at) { return pwrite(disk, from, n, at); }
static void r_read4k(long n) { in_turn(n, PAGE, get); }
static void r_write4k(long n) { in_turn(n, PAGE, put); }
static void r_read1m(long n) { in_turn(n / (LARGE / PAGE), LARGE, get); }
static void r_write1m(long n) { in_turn(n / (LARGE / PAGE), LARGE, put); }

static void r_rand32(long n)     /* 4 KiB reads, DEPTH of them on their way */
{
    aio_context_t context = 0;
    struct iocb all[DEPTH], *ready[DEPTH];
    struct io_event done[DEPTH];
    uint64_t chance = 88172645463325252ull;
    long begun = 0, ended = 0;
    CHK(syscall(SYS_io_setup, DEPTH, &context), "io_setup");
    memset(all, 0, sizeof all);
    for (int i = 0; i < DEPTH; i++) {
        all[i].aio_fildes = disk;
        all[i].aio_lio_opcode = IOCB_CMD_PREAD;
        all[i].aio_buf = (uintptr_t)(buffer + i * PAGE);
        all[i].aio_nbytes = PAGE;
        ready[i] = &all[i];
    }
    int count = DEPTH;
    START();
    while (ended < n) {
        if (count > n - begun) count = n - begun;
        for (int i = 0; i < count; i++) {
            chance ^= chance << 13; chance ^= chance >> 7; chance ^= chance << 17;
            ready[i]->aio_offset = chance % (disk_size / PAGE) * PAGE;
        }
        if (count && syscall(SYS_io_submit, context, count, ready) != count) die("io_submit");
        begun += count;
        count = CHK(syscall(SYS_io_getevents, context, 1, DEPTH, done, NULL), "io_getevents");
        for (int i = 0; i < count; i++) {
            if (done[i].res != PAGE) die("a read");
            ready[i] = (struct iocb *)(uintptr_t)done[i].obj;
        }
        ended += count;
    }
    STOP();
    syscall(SYS_io_destroy, context);
}

/* ---- the network interface ---- */

static struct sockaddr_in peer = { .sin_family = AF_INET };

/* what a connection begins with */
struct wish { uint64_t what, bytes; };
enum { ECHO, TAKE, GIVE };

static void all_of(int s, void *bytes, size_t n, ssize_t (*move)(int, void *, size_t))
{
    for (size_t did = 0; did < n;) {
        ssize_t r = move(s, (char *)bytes + did, n - did);
        if (r <= 0) die("the other end is gone");
        did += r;
    }
}
static ssize_t send_some(int s, void *bytes, size_t n) { return send(s, bytes, n, MSG_NOSIGNAL); }
static ssize_t recv_some(int s, void *bytes, size_t n) { return recv(s, bytes, n, 0); }
static void send_all(int s, void *bytes, size_t n) { all_of(s, bytes, n, send_some); }
static void recv_all(int s, void *bytes, size_t n) { all_of(s, bytes, n, recv_some); }

static void stream(int s, uint64_t n, void (*move)(int, void *, size_t))
{
    for (uint64_t did = 0; did < n; did += PIECE) move(s, buffer, n - did < PIECE ? n - did : PIECE);
}

static int connected(uint64_t what, uint64_t bytes)
{
    int s = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket"), one = 1;
    CHK(connect(s, (void *)&peer, sizeof peer), "connect");
    CHK(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "nodelay");
    struct wish wish = { what, bytes };
    send_all(s, &wish, sizeof wish);
    return s;
}

static void r_tcp(long n)        /* a byte there and back */
{
    int s = connected(ECHO, n + 4);
    char c = 'a';
    for (long i = -4; i < n; i++) {
        if (i == 0) START();
        send_all(s, &c, 1);
        recv_all(s, &c, 1);
    }
    STOP();
    close(s);
}

static void r_udp(long n)
{
    int s = CHK(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    CHK(connect(s, (void *)&peer, sizeof peer), "connect");
    char c = 'a';
    for (long i = -4; i < n; i++) {
        if (i == 0) START();
        if (send(s, &c, 1, 0) != 1 || recv(s, &c, 1, 0) != 1) die("udp");
    }
    STOP();
    close(s);
}

static void r_out(long n)
{
    int s = connected(TAKE, (uint64_t)n * PAGE);
    char c;
    START();
    stream(s, (uint64_t)n * PAGE, send_all);
    recv_all(s, &c, 1);
    STOP();
    close(s);
}

static void r_in(long n)
{
    int s = connected(GIVE, (uint64_t)n * PAGE);
    char c = 'g';
    START();
    send_all(s, &c, 1);
    stream(s, (uint64_t)n * PAGE, recv_all);
    STOP();
    close(s);
}

static void answer(int s)
{
    struct wish wish;
    char c = 'k';
    recv_all(s, &wish, sizeof wish);
    switch (wish.what) {
    case ECHO:
        for (uint64_t i = 0; i < wish.bytes; i++) { recv_all(s, &c, 1); send_all(s, &c, 1); }
        break;
    case TAKE:
        stream(s, wish.bytes, recv_all);
        send_all(s, &c, 1);
        break;
    case GIVE:
        recv_all(s, &c, 1);
        stream(s, wish.bytes, send_all);
        break;
    }
}

static int serve(void)
{
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(PORT) };
    int one = 1, l = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket"), u = CHK(socket(AF_INET, SOCK_DGRAM, 0), "socket");
    CHK(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one), "reuse");
    CHK(bind(l, (void *)&any, sizeof any), "bind");
    CHK(bind(u, (void *)&any, sizeof any), "bind");
    CHK(listen(l, 4), "listen");
    if (!CHK(fork(), "fork")) {
        for (;;) {
            struct sockaddr_in from;
            socklen_t size = sizeof from;
            ssize_t n = CHK(recvfrom(u, buffer, sizeof buffer, 0, (void *)&from, &size), "recvfrom");
            sendto(u, buffer, n, 0, (void *)&from, size);
        }
    }
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int s = CHK(accept(l, 0, 0), "accept");
        CHK(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), "nodelay");
        if (!CHK(fork(), "fork")) { answer(s); _exit(0); }
        close(s);
    }
}

static const struct row rows[] = {
    { "blk.read4k", r_read4k, 500 },
    { "blk.write4k", r_write4k, 500 },
    { "blk.rand32", r_rand32, 2048 },
    { "bw.read", r_read1m, 8192 },
    { "bw.write", r_write1m, 8192 },
    { "net.tcp", r_tcp, 500 },
    { "net.udp", r_udp, 500 },
    { "bw.in", r_in, 8192 },
    { "bw.out", r_out, 8192 },
};

int main(int ac, char **av)
{
    if (ac == 2 && !strcmp(av[1], "serve")) return serve();
    if (ac < 3) return 2;
    peer.sin_port = htons(PORT);
    if (!inet_aton(av[2], &peer.sin_addr)) return 2;
    /* the peer may still be on its way */
    for (int tries = 0;; tries++) {
        int s = CHK(socket(AF_INET, SOCK_STREAM, 0), "socket");
        int bad = connect(s, (void *)&peer, sizeof peer);
        struct wish nothing = { ECHO, 0 };
        if (!bad) send_all(s, &nothing, sizeof nothing);
        close(s);
        if (!bad) break;
        if (tries == 1000) die("no peer");
        usleep(100000);
    }
    open_disk(av[1]);
    return run(rows, sizeof rows / sizeof *rows, 3, ac - 3, av + 3);
}

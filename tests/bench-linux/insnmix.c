/* insnmix: a QEMU TCG plugin that counts executed guest instructions by address
 * class and by kind, between marker instructions.
 *
 * Classes (by the virtual address of the instruction):
 *   user  below 2^47 (also firmware, and a hypervisor's early low-memory code)
 *   hyp   0xffff800000000000..0xffff87ffffffffff: the range the 64-bit PV ABI reserves
 *   kern  above that
 * Markers: nopl 0x5042nnnn(%reg) with nnnn = 1 start, 2 stop, 5 row done, 6 forget, others a point.
 * Arguments: out=FILE (default stderr).
 * Lines: "ROW k ..." sums over the start..stop stretches of row k; "POINT id ..." totals so far;
 * "FIRST class address ..." totals when that class first ran; "EXIT ..." totals.
 *
 * The declarations below restate the part of the plugin API used here: version 4 (QEMU 9.2 and later), and version 1
 * (before 9.0), which has neither scoreboards nor a copy of an instruction's bytes. Which it is, is asked when the
 * plugin is loaded.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
typedef struct { struct qemu_plugin_scoreboard *score; size_t offset; } qemu_plugin_u64;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64, QEMU_PLUGIN_INLINE_STORE_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_CB_R_REGS, QEMU_PLUGIN_CB_RW_REGS };
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*udata_cb)(qemu_plugin_id_t, void *);
typedef void (*vcpu_udata_cb)(unsigned, void *);
#define WEAK __attribute__((weak))
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, udata_cb, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_insn_exec_cb(
    struct qemu_plugin_insn *, vcpu_udata_cb, enum qemu_plugin_cb_flags, void *);
/* version 1 returns the bytes, version 4 copies them and returns how many */
extern uintptr_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
/* version 1 only */
extern WEAK void qemu_plugin_register_vcpu_insn_exec_inline(
    struct qemu_plugin_insn *, enum qemu_plugin_op, void *, uint64_t);
/* version 4 only */
extern WEAK struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
extern WEAK uint64_t qemu_plugin_u64_sum(qemu_plugin_u64);
extern WEAK void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
    struct qemu_plugin_insn *, enum qemu_plugin_op, qemu_plugin_u64, uint64_t);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 4;

static __attribute__((constructor)) void which_version(void)
{
    if (!qemu_plugin_scoreboard_new) qemu_plugin_version = 1;
}

enum { USER, HYP, KERN, SYSCALL, SYSRET, IRET, CR3, CRX, INVLPG, MSR, PIO, HLT, CPUID, NK };
static const char *const kname[NK] = {
    "user", "hyp", "kern", "syscall", "sysret", "iret", "cr3", "crx", "invlpg", "msr", "pio", "hlt", "cpuid" };
static struct qemu_plugin_scoreboard *score;
static uint64_t plain[NK];      /* the counts where there are no scoreboards */
static uint64_t at[NK], acc[NK];
static unsigned row;
static bool seen[3];
static FILE *out;

static qemu_plugin_u64 place(int kind) { return (qemu_plugin_u64){ score, kind * sizeof(uint64_t) }; }
static uint64_t count(int kind) { return score ? qemu_plugin_u64_sum(place(kind)) : plain[kind]; }

static void add(struct qemu_plugin_insn *in, int kind)
{
    if (score) qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(in, QEMU_PLUGIN_INLINE_ADD_U64, place(kind), 1);
    else qemu_plugin_register_vcpu_insn_exec_inline(in, QEMU_PLUGIN_INLINE_ADD_U64, &plain[kind], 1);
}

static size_t bytes_of(const struct qemu_plugin_insn *in, uint8_t b[16])
{
    if (score) return qemu_plugin_insn_data(in, b, 16);
    size_t len = qemu_plugin_insn_size(in);
    memcpy(b, (const void *)qemu_plugin_insn_data(in, NULL, 0), len < 16 ? len : 16);
    return len;
}

static void line(const char *head, unsigned id, const uint64_t *v)
{
    fprintf(out, "%s %u", head, id);
    for (int i = 0; i < NK; i++) fprintf(out, " %s=%" PRIu64, kname[i], v ? v[i] : count(i));
    fputc('\n', out);
    fflush(out);
}

static void on_mark(unsigned cpu, void *u)
{
    switch ((uintptr_t)u) {
    case 1: for (int i = 0; i < NK; i++) at[i] = count(i); break;
    case 2: for (int i = 0; i < NK; i++) acc[i] += count(i) - at[i]; break;
    case 5: line("ROW", ++row, acc); /* fall through */
    case 6: memset(acc, 0, sizeof acc); break;
    default: line("POINT", (uintptr_t)u, NULL);
    }
}

static int kind(const uint8_t *b, size_t n)
{
    size_t i = 0;
    bool p66 = false;
    while (i < n && (b[i] == 0x66 || b[i] == 0xf2 || b[i] == 0xf3 || (b[i] & 0xf0) == 0x40)) p66 |= b[i++] == 0x66;
    if (i >= n) return -1;
    const uint8_t *c = b + i;
    size_t m = n - i;
    switch (c[0]) {
    case 0xcf: return IRET;
    case 0xf4: return HLT;
    case 0xe4: case 0xe5: case 0xe6: case 0xe7:
    case 0xec: case 0xed: case 0xee: case 0xef:
    case 0x6c: case 0x6d: case 0x6e: case 0x6f: return PIO;
    case 0x0f: break;
    default: return -1;
    }
    if (m < 2) return -1;
    switch (c[1]) {
    case 0x05: return SYSCALL;
    case 0x07: return SYSRET;
    case 0x06: return CRX;                                        /* clts */
    case 0x30: case 0x32: return MSR;
    case 0xa2: return CPUID;
    case 0x22: return m > 2 ? ((c[2] >> 3 & 7) == 3 ? CR3 : CRX) : -1;
    case 0x01: return m > 2 && c[2] < 0xc0 && (c[2] >> 3 & 7) == 7 ? INVLPG : -1;
    case 0x38: return p66 && m > 2 && c[2] == 0x82 ? INVLPG : -1; /* invpcid */
    }
    return -1;
}

static void on_tb(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *in = qemu_plugin_tb_get_insn(tb, i);
        uint64_t va = qemu_plugin_insn_vaddr(in);
        int cls = va < 0x800000000000ull ? USER : va < 0xffff880000000000ull ? HYP : KERN;
        uint8_t b[16];
        size_t len = bytes_of(in, b);
        if (!seen[cls]) {
            seen[cls] = true;
            fprintf(out, "FIRST %s %#" PRIx64, kname[cls], va);
            line("", 0, NULL);
        }
        add(in, cls);
        int k = kind(b, len);
        if (k >= 0) add(in, k);
        if (len == 7 && b[0] == 0x0f && b[1] == 0x1f && b[5] == 0x42 && b[6] == 0x50 && (b[2] & 0xf8) == 0x80)
            qemu_plugin_register_vcpu_insn_exec_cb(in, on_mark, QEMU_PLUGIN_CB_NO_REGS,
                                                   (void *)(uintptr_t)(b[3] | b[4] << 8));
    }
}

static void on_exit_(qemu_plugin_id_t id, void *u) { line("EXIT", 0, NULL); }

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    out = stderr;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4)) { out = fopen(argv[i] + 4, "w"); if (!out) return -1; }
    if (qemu_plugin_scoreboard_new) score = qemu_plugin_scoreboard_new(NK * sizeof(uint64_t));
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_tb);
    qemu_plugin_register_atexit_cb(id, on_exit_, NULL);
    return 0;
}

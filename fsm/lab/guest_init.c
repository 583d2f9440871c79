/*
 * The only program of the lab's guest: process 1 of its initramfs, linked statically.
 *
 * It writes numbered, checksummed blocks of 4 KiB to a ring of slots on every writable virtio disk and prints a
 * line on the serial port for each block that the disk has acknowledged:
 *
 *     boot DISK BOOT FIRST-SEQUENCE SLOTS ok      once per disk, when its writer starts
 *     ack DISK BOOT SEQUENCE GUEST-MS ok          one per acknowledged block
 *     fail DISK BOOT SEQUENCE ERRNO ok            a write was refused; it is tried again
 *     skip DISK REASON ok                         a disk without a writer
 *
 * DISK is the serial number libvirt gave the disk (the lab sets it to the disk target), or the kernel's name.
 * Numbering goes on where the newest valid block of the ring left it, so it never restarts while the ring is kept.
 *
 * Parameters on the kernel command line: fsm.interval_ms, fsm.offset_kib, fsm.slots, fsm.stride_kib,
 * fsm.poweroff_s (0: never), fsm.dirty_mib (of memory, written over and over; 0: none). The layout of a block is read by fsm/lab/proof.py; change both together.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define NAME 24

struct header {
    char magic[8];
    char disk[NAME];
    uint64_t boot;
    uint64_t sequence;
    uint64_t guest_ms;
};

struct ring {
    uint64_t offset, slots, stride;
    long interval_ms;
};

static const char magic[8] = "FSMRING1";
static char cmdline[4096];

static void say(const char *line)
{
    /* One write per line: the tty layer does not interleave the writers' lines then. */
    if (write(1, line, strlen(line)) < 0)
        _exit(1);
}

static long parameter(const char *name, long otherwise)
{
    const char *found = strstr(cmdline, name);
    return found ? strtol(found + strlen(name), NULL, 10) : otherwise;
}

static int read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    ssize_t got = read(fd, text, size - 1);
    close(fd);
    if (got < 0)
        return -1;
    text[got] = 0;
    text[strcspn(text, "\n")] = 0;
    return (int)strlen(text);
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void pause_ms(long ms)
{
    struct timespec wait = {ms / 1000, (ms % 1000) * 1000000L};
    nanosleep(&wait, NULL);
}

/* CRC-32 as zlib computes it. */
static uint32_t crc32(const unsigned char *data, size_t size)
{
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t n = 0; n < 256; n++) {
            uint32_t c = n;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            table[n] = c;
        }
    uint32_t crc = 0xFFFFFFFFu;
    while (size--)
        crc = table[(crc ^ *data++) & 0xFF] ^ (crc >> 8);
    return ~crc;
}

static void seal(unsigned char *block)
{
    /* The filling depends on the sequence, so that no two blocks look alike and none compresses to nothing. */
    struct header *header = (struct header *)block;
    uint64_t x = header->sequence * 0x9E3779B97F4A7C15u + header->boot + 1;
    for (size_t at = sizeof(*header); at + 8 <= BLOCK - 8; at += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(block + at, &x, 8);
    }
    uint32_t crc = crc32(block, BLOCK - 4);
    memcpy(block + BLOCK - 4, &crc, 4);
}

static int valid(const unsigned char *block, const char *disk)
{
    const struct header *header = (const struct header *)block;
    uint32_t crc;
    memcpy(&crc, block + BLOCK - 4, 4);
    return !memcmp(header->magic, magic, 8) && !strncmp(header->disk, disk, NAME) && crc == crc32(block, BLOCK - 4);
}

static void newest(int fd, const struct ring *ring, const char *disk, unsigned char *block, struct header *found)
{
    memset(found, 0, sizeof(*found));
    for (uint64_t slot = 0; slot < ring->slots; slot++) {
        if (pread(fd, block, BLOCK, (off_t)(ring->offset + slot * ring->stride)) != BLOCK)
            continue;
        const struct header *header = (const struct header *)block;
        if (!memcmp(header->magic, magic, 8) && header->sequence > found->sequence && valid(block, disk))
            *found = *header;
    }
}

static void write_for_ever(const char *device, const char *disk, const struct ring *ring)
{
    char line[160];
    int fd = open(device, O_RDWR | O_DIRECT | O_DSYNC);
    unsigned char *block = aligned_alloc(BLOCK, BLOCK);
    if (fd < 0 || !block) {
        snprintf(line, sizeof line, "skip %s open-%d ok\n", disk, errno);
        say(line);
        return;
    }
    struct header last;
    newest(fd, ring, disk, block, &last);
    uint64_t boot = last.boot + 1;
    snprintf(line, sizeof line, "boot %s %llu %llu %llu ok\n", disk, (unsigned long long)boot,
             (unsigned long long)last.sequence + 1, (unsigned long long)ring->slots);
    say(line);
    memset(block, 0, BLOCK);
    for (uint64_t sequence = last.sequence + 1;; sequence++) {
        struct header *header = (struct header *)block;
        memcpy(header->magic, magic, 8);
        memcpy(header->disk, disk, strlen(disk)); /* shorter than NAME, and the block began as zeros */
        header->boot = boot;
        header->sequence = sequence;
        header->guest_ms = now_ms();
        seal(block);
        off_t at = (off_t)(ring->offset + sequence % ring->slots * ring->stride);
        while (pwrite(fd, block, BLOCK, at) != BLOCK) {
            snprintf(line, sizeof line, "fail %s %llu %llu %d ok\n", disk, (unsigned long long)boot,
                     (unsigned long long)sequence, errno);
            say(line);
            pause_ms(100);
        }
        snprintf(line, sizeof line, "ack %s %llu %llu %llu ok\n", disk, (unsigned long long)boot,
                 (unsigned long long)sequence, (unsigned long long)now_ms());
        say(line);
        pause_ms(ring->interval_ms);
    }
}

static void start_writer(const char *kernel_name, const struct ring *ring)
{
    char path[300], text[64], disk[NAME] = "", device[300], line[160];
    snprintf(path, sizeof path, "/sys/block/%s/serial", kernel_name);
    if (read_text(path, disk, sizeof disk) <= 0)
        snprintf(disk, sizeof disk, "%.20s", kernel_name);
    snprintf(path, sizeof path, "/sys/block/%s/ro", kernel_name);
    if (read_text(path, text, sizeof text) > 0 && text[0] == '1') {
        snprintf(line, sizeof line, "skip %s read-only ok\n", disk);
        say(line);
        return;
    }
    snprintf(path, sizeof path, "/sys/block/%s/size", kernel_name);
    uint64_t size = read_text(path, text, sizeof text) > 0 ? strtoull(text, NULL, 10) * 512 : 0;
    if (size < ring->offset + ring->slots * ring->stride) {
        snprintf(line, sizeof line, "skip %s too-small ok\n", disk);
        say(line);
        return;
    }
    snprintf(device, sizeof device, "/dev/%s", kernel_name);
    if (fork() == 0) {
        write_for_ever(device, disk, ring);
        _exit(1);
    }
}

static void dirty_for_ever(size_t size)
{
    /* One word a page is enough to have the whole page sent again. */
    volatile uint64_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        say("skip memory no-memory ok\n");
        return;
    }
    for (uint64_t round = 1;; round++)
        for (size_t at = 0; at < size / sizeof(*memory); at += BLOCK / sizeof(*memory))
            memory[at] = round * 0x9E3779B97F4A7C15u + at;
}

static void load_modules(void)
{
    /* The numbers in front of the names give the order, which is that of the modules' dependencies. */
    struct dirent **entries;
    int count = scandir("/modules", &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char path[300];
        if (entries[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/modules/%s", entries[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST) {
            char line[400];
            snprintf(line, sizeof line, "skip module-%s errno-%d ok\n", entries[i]->d_name, errno);
            say(line);
        }
        close(fd);
    }
}

static void open_console(void)
{
    struct termios raw;
    int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    if (fd < 0)
        return;
    if (tcgetattr(fd, &raw) == 0) {
        cfmakeraw(&raw);
        tcsetattr(fd, TCSANOW, &raw);
    }
    dup2(fd, 0);
    dup2(fd, 1);
    dup2(fd, 2);
}

int main(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    open_console();
    read_text("/proc/cmdline", cmdline, sizeof cmdline);
    load_modules();

    struct ring ring = {
        (uint64_t)parameter("fsm.offset_kib=", 1024) * 1024,
        (uint64_t)parameter("fsm.slots=", 1024),
        (uint64_t)parameter("fsm.stride_kib=", 4) * 1024,
        parameter("fsm.interval_ms=", 5),
    };
    struct dirent **entries;
    int count = scandir("/sys/block", &entries, NULL, alphasort);
    for (int i = 0; i < count; i++)
        if (!strncmp(entries[i]->d_name, "vd", 2))
            start_writer(entries[i]->d_name, &ring);

    size_t dirty_mib = (size_t)parameter("fsm.dirty_mib=", 0);
    if (dirty_mib && fork() == 0) {
        dirty_for_ever(dirty_mib << 20);
        _exit(1);
    }

    long poweroff_s = parameter("fsm.poweroff_s=", 0);
    if (poweroff_s > 0) {
        pause_ms(poweroff_s * 1000);
        reboot(RB_POWER_OFF);
    }
    for (;;)
        if (wait(NULL) < 0)
            pause(); /* process 1 must not end: the kernel would panic */
}

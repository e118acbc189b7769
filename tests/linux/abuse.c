/*
 * abuse DOMAIN: what a program of this domain may do to the devices of /dev/xen, as much of it as they take. It grants
 * frames until there are no more, asks for grants that nobody gave it, and floods ports that lead to itself and nowhere
 * until it is told to terminate. What it has then is the kernel's to give back.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/types.h>
/* what the headers below want defined */
typedef __u16 domid_t;
typedef __u32 grant_ref_t;
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

enum { PORTS = 400, PAGES = 2000 };

static volatile sig_atomic_t over;

static void end(int signal)
{
	over = signal;
}

static int open_device(const char *name)
{
	int fd = open(name, O_RDWR);

	if (fd < 0) {
		perror(name);
		exit(1);
	}
	return fd;
}

/* Grants dom0 and this domain pages, and maps them and others' as grants. */
static void grants(unsigned self)
{
	int alloc = open_device("/dev/xen/gntalloc"), map = open_device("/dev/xen/gntdev");
	unsigned granted = 0, mapped = 0, forged = 0;

	for (unsigned n = 0; n < PAGES; n++) {
		struct ioctl_gntalloc_alloc_gref grant = {
			.domid = n % 2 ? self : 0,
			.flags = GNTALLOC_FLAG_WRITABLE,
			.count = 1,
		};

		if (ioctl(alloc, IOCTL_GNTALLOC_ALLOC_GREF, &grant) < 0)
			break;
		char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, alloc, grant.index);
		if (page != MAP_FAILED)
			*page = granted++;
		for (unsigned guess = 0; guess < 2; guess++) {
			struct ioctl_gntdev_map_grant_ref use = {
				.count = 1,
				.refs = { { .domid = guess ? 0 : grant.domid, .ref = guess ? n : grant.gref_ids[0] } },
			};

			if (ioctl(map, IOCTL_GNTDEV_MAP_GRANT_REF, &use) < 0)
				continue;
			page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, use.index);
			if (page == MAP_FAILED)
				continue;
			if (guess || !grant.domid)
				forged++;
			else
				mapped++;
		}
	}
	printf("granted %u, mapped %u, forged %u\n", granted, mapped, forged);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	unsigned self = argc > 1 ? atoi(argv[1]) : 1;
	int events = open_device("/dev/xen/evtchn");
	unsigned ports[PORTS], count = 0, taken = 0;
	unsigned long sent = 0, got = 0;

	signal(SIGTERM, end);
	fcntl(events, F_SETFL, O_NONBLOCK);
	while (count + 2 <= PORTS) {
		struct ioctl_evtchn_bind_unbound_port unbound = { .remote_domain = count % 4 ? self : 0 };
		int port = ioctl(events, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &unbound);

		if (port < 0)
			break;
		ports[count++] = port;
		if (!unbound.remote_domain)
			continue;
		struct ioctl_evtchn_bind_interdomain both = { .remote_domain = self, .remote_port = port };
		port = ioctl(events, IOCTL_EVTCHN_BIND_INTERDOMAIN, &both);
		if (port >= 0)
			ports[count++] = port;
	}
	for (unsigned port = 1; port < 2000; port++) {
		struct ioctl_evtchn_bind_interdomain dom0s = { .remote_domain = 0, .remote_port = port };

		if (ioctl(events, IOCTL_EVTCHN_BIND_INTERDOMAIN, &dom0s) >= 0)
			taken++;
	}
	grants(self);
	do {
		for (unsigned n = 0; n < count; n++) {
			struct ioctl_evtchn_notify notify = { .port = ports[n] };

			sent += ioctl(events, IOCTL_EVTCHN_NOTIFY, &notify) == 0;
		}
		unsigned fired;
		while (read(events, &fired, sizeof fired) == sizeof fired && write(events, &fired, sizeof fired) > 0)
			got++;
	} while (!over);
	printf("%u ports, %u of dom0's; sent %lu, got %lu\n", count, taken, sent, got);
	return !sent || !got;
}

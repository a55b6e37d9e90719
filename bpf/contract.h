/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the kernel programs and redirect/ (Go) agree on. bpf2go makes the Go types
 * from this header; redirect/hook/contract_test.go compares them with the object's BTF.
 *
 * Addresses are 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d. Padding is
 * written out: the structs are map keys and values, and every byte counts.
 */
#pragma once

#include "kernel.h"

/*
 * Of struct connection and struct endpoints, which bridges share when one takes over from
 * another: ../bpf/README.md says when it grows. hook.ContractVersion is the same number.
 */
#define CONTRACT_VERSION 1

/* The bits of SO_MARK that tell the bridge's own sockets: the others are for self-checks. */
#define MARK_BITS 0xffff

/* The length of a task's name with its NUL: TASK_COMM_LEN. */
#define COMM_LEN 16

/* struct config: set by user space before load, constant afterwards. */
struct config {
	__u64 heartbeat_limit; /* ns; a bridge silent for longer gets no calls */
	__u32 mark;            /* SO_MARK of the bridge's own sockets, in its MARK_BITS */
	__u32 check_mark;      /* SO_MARK of its self-check's socket; 0: there is none */
	__u32 netns;           /* inode number of the bridge's network namespace */
	__u32 listen_ip4;      /* network byte order */
	__u32 listen_ip6[4];   /* network byte order */
	__u16 listen_port4;    /* network byte order; 0: IPv4 is not redirected */
	__u16 listen_port6;    /* network byte order; 0: IPv6 is not redirected */
	__u8 own_netns_only;   /* 1: callers in other network namespaces are left alone */
	__u8 fail_closed;      /* 1: a call that cannot have the bridge is refused */
	__u16 padding;
};
_Static_assert(sizeof(struct config) == 48, "read by redirect/hook/attach.go");

/*
 * struct connection: who called connect(), and for where.
 */
struct connection {
	__u64 socket_cookie;
	__u64 netns_cookie;
	__u64 cgroup_id;
	__u64 started;   /* ns since boot (CLOCK_BOOTTIME): start of the process */
	__u64 exec_id;   /* changes with every execve of the process */
	__u64 connected; /* ns, CLOCK_MONOTONIC: when connect() was called */
	__u32 tgid;
	__u32 pid; /* the thread */
	__u32 ppid;
	__u32 uid;
	__u32 gid;
	__u32 netns;          /* inode number of the socket's network namespace */
	__u32 original_ip[4]; /* what the caller asked for */
	__u16 original_port;  /* network byte order */
	__u8 original_family; /* of the socket: AF_INET or AF_INET6 */
	__u8 ambiguous;       /* another namespace holds the same endpoints */
	__u8 comm[COMM_LEN];
	__u32 outcome; /* enum outcome: of the connect() */
};
_Static_assert(sizeof(struct connection) == 112, "read by redirect/hook/lookup.go");

/*
 * struct endpoints: both ends of a redirected connection, as its TCP segments carry them.
 *
 * The bridge's own namespace is told from all others, so that no container can take the
 * place of a host process by giving itself the host's address. Between other namespaces
 * an equal key is possible and is marked (struct connection.ambiguous).
 */
struct endpoints {
	__u32 client_ip[4];
	__u32 listener_ip[4];
	__u16 client_port;   /* host byte order */
	__u16 listener_port; /* host byte order */
	__u8 family;         /* on the wire: AF_INET or AF_INET6 */
	__u8 own_netns;      /* 1: the bridge's own network namespace */
	__u16 padding;
};
_Static_assert(sizeof(struct endpoints) == 40, "written by redirect/hook/lookup.go");

/*
 * enum outcome: what became of each connect() to IMDS; indexes of the map counters. With
 * fail_closed, some are OUTCOME_REFUSED instead: ../bpf/README.md.
 */
enum outcome {
	OUTCOME_REDIRECTED,   /* sent to the bridge */
	OUTCOME_EXEMPT,       /* the bridge's own socket: unchanged */
	OUTCOME_STALE,        /* the bridge is silent: unchanged */
	OUTCOME_NOT_TCP,      /* another protocol: unchanged */
	OUTCOME_NO_LISTENER,  /* no listener for the address family: unchanged */
	OUTCOME_OTHER_NETNS,  /* another namespace than the one served: unchanged */
	OUTCOME_BOUND_DEVICE, /* bound to a device that does not lead to the listener: unchanged */
	OUTCOME_NOT_RECORDED, /* the caller could not be recorded: unchanged */
	OUTCOME_WATCHED,      /* there is no listener at all: recorded, and unchanged */
	OUTCOME_REFUSED,      /* the bridge cannot have it, and nobody else may: EPERM */
	OUTCOME_JOINED,       /* established, and found by its endpoints */
	OUTCOME_NOT_JOINED,   /* established, but could not be recorded: the bridge refuses it */
	OUTCOME_AMBIGUOUS,    /* established with endpoints that another namespace holds too */
	OUTCOME_CLOSED,       /* the record was removed with its socket */
	OUTCOME_COUNT,
};

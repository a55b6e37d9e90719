//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Sees every packet between IMDS and the sockets of a cgroup, and touches none: whatever
 * happens here, the packet goes on.
 *
 * It runs for every packet of every socket below the cgroup. So what is not for IMDS leaves
 * after two comparisons.
 */
#include "record.h"

/* cgroup_skb: let the packet go on. */
#define PASS 1

#define SOCK_RAW 3
#define ETH_P_IPV6 0x86dd
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_MAP_TYPE_SK_STORAGE 24
#define BPF_F_NO_PREALLOC 1
#define BPF_SK_STORAGE_GET_F_CREATE 1

/* Offsets and sizes in the headers of IPv4 (RFC 791) and IPv6 (RFC 8200). */
#define IP4_SIZE 20
#define IP4_FRAGMENT 6
#define IP4_PROTOCOL 9
#define IP4_SOURCE 12
#define IP4_DESTINATION 16
#define IP6_SIZE 40
#define IP6_NEXT_HEADER 6
#define IP6_SOURCE 8
#define IP6_DESTINATION 24

#define FRAGMENT_OFFSET 0x1fff
#define FRAGMENT_OFFSET6 0xfff8
#define TCP_MIN_OFFSET 0x50 /* as in struct tcp_header: a header without options */

/* Extension headers that may come between IPv6 and TCP, and how many are read. */
#define IP6_HOP_BY_HOP 0
#define IP6_ROUTING 43
#define IP6_FRAGMENT 44
#define IP6_DESTINATION_OPTIONS 60
#define IP6_EXTENSIONS 4

enum { TCP_FIN = 1, TCP_SYN = 2, TCP_RST = 4, TCP_ACK = 16 };

/* Bytes of payload in one event: most requests fit the small one. */
#define SMALL 512
#define LARGE 4096
/* With these, all of the largest packet there is: 64 KiB, before the card segments it. */
#define CHUNKS 16
/* Of an answer, no more than says its status: what follows may be credentials. */
#define STATUS_LINE 16

/* struct exempt: whose packets are passed over. Set by user space before load, then constant. */
struct exempt {
	__u32 mark;  /* SO_MARK of the bridge's own sockets, in its MARK_BITS */
	__u32 netns; /* inode number of the bridge's network namespace */
};

const volatile struct exempt exempt;

/* Inode number of the one network namespace that is looked at; 0 for all. Constant like exempt. */
const volatile __u32 only_netns;

/* enum direction, of a packet as its socket sees it. */
enum direction { DIRECTION_SENT, DIRECTION_RECEIVED };

/*
 * struct packet: one TCP segment between a socket and IMDS, or a part of one. Read by
 * redirect/watch/packet.go, followed by the payload.
 */
struct packet {
	struct connection who; /* socket_cookie is 0 when nobody recorded it */
	__u64 time;            /* ns, CLOCK_MONOTONIC */
	__u64 socket_cookie;
	__u32 client_ip[4];
	__u32 imds_ip[4];
	__u32 netns; /* inode number of the socket's network namespace */
	__u32 mark;
	__u32 sequence;    /* of the segment */
	__u32 payload;     /* bytes in the segment */
	__u32 offset;      /* of what follows, in the payload */
	__u32 length;      /* of what follows */
	__u16 client_port; /* host byte order */
	__u8 flags;        /* of TCP: FIN, SYN, RST, ACK as in the header */
	__u8 direction;    /* enum direction */
	__u8 raw;          /* 1: not TCP's own socket, but a raw one */
	__u8 padding[3];
};
_Static_assert(sizeof(struct packet) == 192, "read by redirect/watch/packet.go");

struct small_packet {
	struct packet packet;
	__u8 data[SMALL];
};

struct large_packet {
	struct packet packet;
	__u8 data[LARGE];
};

/* Events for user space. When it is full they are lost, and counted: no packet waits for it. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* set at load */
} packets SEC(".maps");

/*
 * key: a socket that sent something to IMDS. Others have answers from its address too: those whose
 * packets iptables translates, after the bridge, which is who answers them. A socket with no room
 * left in its optmem gets no storage: its requests are told without their answers.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* as the kernel wants it */
	__type(key, int);
	__type(value, __u8);
} callers SEC(".maps");

/* enum sight: what was seen; indexes of the map counters. */
enum sight {
	SIGHT_SENT,       /* a packet to IMDS */
	SIGHT_RECEIVED,   /* a packet from IMDS to a socket that sent something */
	SIGHT_BYTES,      /* of payload in packets to IMDS */
	SIGHT_EXEMPT,     /* a packet of the bridge's own; not counted otherwise */
	SIGHT_UNREADABLE, /* a packet to IMDS without a TCP header that could be found */
	SIGHT_LOST,       /* an event for which the ring had no room */
	SIGHT_COUNT,
};

/* key: enum sight. value: how often, since load. Read by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SIGHT_COUNT);
	__type(key, enum sight);
	__type(value, __u64);
} counters SEC(".maps");

/* struct __sk_buff of include/uapi/linux/bpf.h, as far as the socket. */
struct skb {
	__u32 len;
	__u32 : 32;
	__u32 : 32;
	__u32 : 32;
	__u32 protocol; /* network byte order */
	__u32 : 32;
	__u32 : 32;
	__u32 : 32;
	__u64 unused1[5];
	__u32 : 32;
	__u32 data;
	__u32 data_end;
	__u32 : 32;
	__u64 unused2[10];
	struct bpf_sock *sk;
};
_Static_assert(__builtin_offsetof(struct skb, data) == 76, "as in struct __sk_buff");
_Static_assert(__builtin_offsetof(struct skb, sk) == 168, "as in struct __sk_buff");

struct tcp_header {
	__u16 source;
	__u16 destination;
	__u32 sequence;
	__u32 acknowledged;
	__u8 offset; /* in its upper half, of the payload in words */
	__u8 flags;
	__u16 window;
	__u16 checksum;
	__u16 urgent;
};

/* CO-RE views, as in kernel.h; the kernel's names end where "___" begins. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded"
typedef struct __core {
	__u32 val;
} kuid_t;

typedef struct __core {
	__u32 val;
} kgid_t;

struct cred {
	kuid_t uid;
	kgid_t gid;
} __core;

struct task_struct___sender {
	int pid;
	int tgid;
	const struct cred *cred;
	char comm[COMM_LEN];
	__u64 self_exec_id;
	__u64 start_boottime;
	struct task_struct *group_leader;
} __core;
#pragma clang diagnostic pop

static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)95;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) = (void *)107;
static __u64 (*bpf_skb_cgroup_id)(void *skb) = (void *)79;
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static void (*bpf_ringbuf_discard)(void *data, __u64 flags) = (void *)133;

static __always_inline void add(enum sight sight, __u64 n)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &sight);

	if (counter)
		/* Per CPU, but a packet that arrives may interrupt one that leaves. */
		__sync_fetch_and_add(counter, n);
}

static __always_inline __u32 netns_of_sock(struct bpf_sock *typed)
{
	struct sock *sk = 0;
	struct net *net = 0;
	__u32 inum = 0;

	bpf_probe_read_kernel(&sk, sizeof(sk), &typed); /* as netns_of does, and why */
	read_field(&net, sk, __sk_common.skc_net.net);
	read_field(&inum, net, ns.inum);
	return inum;
}

/*
 * A raw socket sends in the context of who called sendto(): unlike TCP, which may send on
 * behalf of anybody. By reads alone: Linux 5.10 has no helpers for it here.
 */
static __always_inline void record_sender(struct skb *ctx, struct packet *p)
{
	struct task_struct___sender *task = (void *)bpf_get_current_task(), *leader = 0;
	struct connection *c = &p->who;
	struct task_struct *parent = 0;
	const struct cred *cred = 0;

	c->socket_cookie = p->socket_cookie;
	c->netns = p->netns;
	c->connected = p->time;
	c->outcome = OUTCOME_NOT_TCP;
	c->cgroup_id = bpf_skb_cgroup_id(ctx);
	read_field(&c->tgid, task, tgid);
	read_field(&c->pid, task, pid);
	read_field(&c->comm, task, comm);
	read_field(&c->exec_id, task, self_exec_id);
	read_field(&cred, task, cred);
	read_field(&c->uid, cred, uid.val);
	read_field(&c->gid, cred, gid.val);
	read_field(&leader, task, group_leader);
	read_field(&c->started, leader, start_boottime);
	read_field(&parent, (struct task_struct *)leader, real_parent);
	read_field(&c->ppid, parent, tgid);
}

/* Fills in who made the socket. */
static __always_inline void identify(struct skb *ctx, struct packet *p)
{
	const struct connection *known = bpf_map_lookup_elem(&sockets, &p->socket_cookie);

	if (known)
		p->who = *known;
	else if (p->raw && p->direction == DIRECTION_SENT)
		record_sender(ctx, p);
}

/* Hands over a reserved event, if its payload could be read. Returns 0 when it did. */
static __always_inline long submit(void *event, long unread)
{
	if (unread) {
		bpf_ringbuf_discard(event, 0);
		add(SIGHT_UNREADABLE, 1);
	} else {
		bpf_ringbuf_submit(event, 0);
	}
	return unread;
}

/* Keeps the compiler from leaving out a bound that it knows to hold and the verifier does not. */
#define unknown(x) asm volatile("" : "+r"(x))

/* Hands over at most SMALL bytes from p->offset of the payload, which begins at an offset. */
static __always_inline void hand_over_small(struct skb *ctx, struct packet *p, __u32 at,
					    __u64 length)
{
	struct small_packet *e = bpf_ringbuf_reserve(&packets, sizeof(*e), 0);
	__u64 last = length - 1;
	long unread = 0;

	if (!e) {
		add(SIGHT_LOST, 1);
		return;
	}
	p->length = length;
	e->packet = *p;
	unknown(last);
	if (last < SMALL)
		unread = bpf_skb_load_bytes(ctx, at + p->offset, e->data, last + 1);
	submit(e, unread);
}

/* The same for LARGE bytes and less. Returns 0 when it did. */
static __always_inline long hand_over_large(struct skb *ctx, struct packet *p, __u32 at,
					    __u64 length)
{
	struct large_packet *e = bpf_ringbuf_reserve(&packets, sizeof(*e), 0);
	__u64 last = length - 1;

	if (!e) {
		add(SIGHT_LOST, 1);
		return -1;
	}
	p->length = length;
	e->packet = *p;
	unknown(last);
	if (last >= LARGE)
		last = LARGE - 1;
	return submit(e, bpf_skb_load_bytes(ctx, at + p->offset, e->data, last + 1));
}

/*
 * Hands over all payload. Whole chunks and the rest are apart, so that there is one way through
 * the loop for the verifier to follow: with two, there are 2^CHUNKS.
 */
static __always_inline void hand_over_payload(struct skb *ctx, struct packet *p, __u32 at)
{
	__u32 rest;

	for (__u32 i = 0; i < CHUNKS; i++) {
		p->offset = i * LARGE;
		if (p->payload - p->offset < LARGE)
			break;
		if (hand_over_large(ctx, p, at, LARGE))
			return;
	}
	rest = p->payload % LARGE;
	p->offset = p->payload - rest;
	if (rest > SMALL)
		hand_over_large(ctx, p, at, rest);
	else if (rest || !p->payload)
		hand_over_small(ctx, p, at, rest);
}

/* Tells whether a payload begins as the head of an answer does. */
static __always_inline int is_answer(struct skb *ctx, __u32 at)
{
	__u32 begin = 0;

	return !bpf_skb_load_bytes(ctx, at, &begin, sizeof(begin)) &&
	       begin == bpf_htonl(0x48545450); /* HTTP */
}

/* What user space needs of a packet: beginnings and ends, requests, status lines. */
static __always_inline void hand_over(struct skb *ctx, struct packet *p, __u32 at)
{
	__u32 length = 0;

	if (p->direction == DIRECTION_SENT) {
		if (p->payload || p->flags & (TCP_SYN | TCP_FIN | TCP_RST))
			hand_over_payload(ctx, p, at);
		return;
	}
	if (p->payload && is_answer(ctx, at))
		length = p->payload < STATUS_LINE ? p->payload : STATUS_LINE;
	else if (!(p->flags & (TCP_FIN | TCP_RST)))
		return;
	hand_over_small(ctx, p, at, length);
}

/* Sees a packet whose TCP header begins at an offset. Not inlined: there are four ways to it. */
static __attribute__((noinline)) void see_tcp(struct skb *ctx, struct packet *p, __u32 at)
{
	struct tcp_header tcp = {};
	struct bpf_sock *sk = ctx->sk;

	if (!sk)
		return;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return;
	p->mark = sk->mark;
	p->raw = sk->type == SOCK_RAW;
	p->netns = netns_of_sock(sk);
	if (only_netns && p->netns != only_netns)
		return;

	if (bpf_skb_load_bytes(ctx, at, &tcp, sizeof(tcp))) {
		add(SIGHT_UNREADABLE, 1);
		return;
	}
	if ((p->direction == DIRECTION_SENT ? tcp.destination : tcp.source) != IMDS_PORT)
		return;
	if (!((p->mark ^ exempt.mark) & MARK_BITS) && p->netns == exempt.netns) {
		add(SIGHT_EXEMPT, 1);
		return;
	}
	at += (tcp.offset >> 4) * 4U;
	if (tcp.offset < TCP_MIN_OFFSET || at > ctx->len) {
		add(SIGHT_UNREADABLE, 1);
		return;
	}
	if (!bpf_sk_storage_get(&callers, sk, 0,
				p->direction == DIRECTION_SENT ? BPF_SK_STORAGE_GET_F_CREATE : 0) &&
	    p->direction == DIRECTION_RECEIVED)
		return;
	p->payload = ctx->len - at;
	p->sequence = bpf_ntohl(tcp.sequence);
	p->flags = tcp.flags;
	p->client_port = bpf_htons(p->direction == DIRECTION_SENT ? tcp.source : tcp.destination);
	p->time = bpf_ktime_get_ns();
	p->socket_cookie = bpf_get_socket_cookie(ctx);
	add(p->direction == DIRECTION_SENT ? SIGHT_SENT : SIGHT_RECEIVED, 1);
	if (p->direction == DIRECTION_SENT)
		add(SIGHT_BYTES, p->payload);
	identify(ctx, p);
	hand_over(ctx, p, at);
}

/* Not inlined: most packets never come here. */
static __attribute__((noinline)) void see4(struct skb *ctx, enum direction direction)
{
	struct packet p = {.direction = direction};
	__u32 *source = p.client_ip, *destination = p.imds_ip;
	__u8 ip[IP4_SIZE] = {};
	__u16 fragment;

	if (bpf_skb_load_bytes(ctx, 0, ip, sizeof(ip)) || ip[IP4_PROTOCOL] != IPPROTO_TCP)
		return;
	__builtin_memcpy(&fragment, ip + IP4_FRAGMENT, sizeof(fragment));
	if (fragment & bpf_htons(FRAGMENT_OFFSET)) {
		add(SIGHT_UNREADABLE, 1);
		return;
	}
	if (direction == DIRECTION_RECEIVED) {
		source = p.imds_ip;
		destination = p.client_ip;
	}
	source[2] = destination[2] = MAPPED_2;
	__builtin_memcpy(&source[3], ip + IP4_SOURCE, 4);
	__builtin_memcpy(&destination[3], ip + IP4_DESTINATION, 4);
	see_tcp(ctx, &p, (ip[0] & 15) * 4U);
}

/* struct extension: what extension headers of IPv6 begin with. */
struct extension {
	__u8 next;    /* header */
	__u8 length;  /* in units of 8 bytes, the first not counted; reserved in a fragment's */
	__u16 offset; /* of a fragment */
};

/* Finds the offset of the TCP header behind extension headers, 0 where there is none. */
static __always_inline __u32 find_tcp6(struct skb *ctx, __u8 next)
{
	__u32 at = IP6_SIZE;

	for (int i = 0; i < IP6_EXTENSIONS; i++) {
		struct extension e = {};

		if (next == IPPROTO_TCP)
			return at;
		if (next != IP6_HOP_BY_HOP && next != IP6_ROUTING && next != IP6_FRAGMENT &&
		    next != IP6_DESTINATION_OPTIONS)
			return 0; /* another protocol */
		if (bpf_skb_load_bytes(ctx, at, &e, sizeof(e)))
			break;
		if (next == IP6_FRAGMENT && e.offset & bpf_htons(FRAGMENT_OFFSET6))
			break;
		at += next == IP6_FRAGMENT ? 8 : (e.length + 1) * 8U;
		next = e.next;
	}
	if (next == IPPROTO_TCP)
		return at;
	add(SIGHT_UNREADABLE, 1);
	return 0;
}

static __attribute__((noinline)) void see6(struct skb *ctx, enum direction direction)
{
	struct packet p = {.direction = direction};
	__u32 *source = p.client_ip, *destination = p.imds_ip, at;
	__u8 next = 0;

	if (direction == DIRECTION_RECEIVED) {
		source = p.imds_ip;
		destination = p.client_ip;
	}
	if (bpf_skb_load_bytes(ctx, IP6_SOURCE, source, 16) ||
	    bpf_skb_load_bytes(ctx, IP6_DESTINATION, destination, 16) ||
	    bpf_skb_load_bytes(ctx, IP6_NEXT_HEADER, &next, 1))
		return;
	at = find_tcp6(ctx, next);
	if (at)
		see_tcp(ctx, &p, at);
}

/* Tells whether the address at an offset of the IPv4 header is that of IMDS. */
static __always_inline int has_imds4(const struct skb *ctx, __u32 offset)
{
	const __u8 *ip = (void *)(long)ctx->data;

	return (void *)(ip + IP4_SIZE) <= (void *)(long)ctx->data_end &&
	       *(const __u32 *)(ip + offset) == IMDS_IP4;
}

static __always_inline int has_imds6(const struct skb *ctx, __u32 offset)
{
	const __u8 *ip = (void *)(long)ctx->data;
	const __u32 *address = (void *)(ip + offset);

	return (void *)(ip + IP6_SIZE) <= (void *)(long)ctx->data_end && address[0] == IMDS_IP6_0 &&
	       address[3] == IMDS_IP6_3 && address[1] == 0 && address[2] == 0;
}

SEC("cgroup_skb/egress")
int egress(struct skb *ctx)
{
	if (ctx->protocol == bpf_htons(ETH_P_IP) && has_imds4(ctx, IP4_DESTINATION))
		see4(ctx, DIRECTION_SENT);
	else if (ctx->protocol == bpf_htons(ETH_P_IPV6) && has_imds6(ctx, IP6_DESTINATION))
		see6(ctx, DIRECTION_SENT);
	return PASS;
}

SEC("cgroup_skb/ingress")
int ingress(struct skb *ctx)
{
	if (ctx->protocol == bpf_htons(ETH_P_IP) && has_imds4(ctx, IP4_SOURCE))
		see4(ctx, DIRECTION_RECEIVED);
	else if (ctx->protocol == bpf_htons(ETH_P_IPV6) && has_imds6(ctx, IP6_SOURCE))
		see6(ctx, DIRECTION_RECEIVED);
	return PASS;
}

/* The GPL side is what the kernel asks for to allow bpf_get_current_task and probe reads. */
char _license[] SEC("license") = "Dual BSD/GPL";

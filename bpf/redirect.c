//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Brings connections for the instance metadata service to the bridge, remembers who
 * made them, and keeps the callers unaware.
 *
 * Fail open: whatever is not certain leaves connect() as it was asked for. Fail closed, where
 * that is asked for: it is refused.
 */
#include "record.h"

#define LOOPBACK_IFINDEX 1

/* cgroup/connect*: let the system call go on; getpeername*: the only verdict there is. */
#define PROCEED 1
/* cgroup/connect*: let it fail, with EPERM. */
#define REFUSE 0

const volatile struct config settings;

/* CLOCK_MONOTONIC ns of the bridge's last sign of life, 0 for none. Written by user space. */
volatile __u64 heartbeat;

/*
 * key: both ends of an established connection. value: who made it.
 * Written by sockops, read by user space at accept, removed by sockops on close.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* set at load */
	__type(key, struct endpoints);
	__type(value, struct connection);
} connections SEC(".maps");

/* key: enum outcome. value: how often, since load. Read by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OUTCOME_COUNT);
	__type(key, enum outcome);
	__type(value, __u64);
} counters SEC(".maps");

/*
 * key: cookie of one of the bridge's own upstream sockets. value: the smallest IP TTL
 * (hop limit) of a segment with payload that it received.
 * Written by hop_limit, read and removed by user space.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} hop_limits SEC(".maps");

static __always_inline void count(enum outcome outcome)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &outcome);

	if (counter)
		/* Per CPU, but one connection's program may interrupt another's. */
		__sync_fetch_and_add(counter, 1);
}

static __always_inline int is_stale(void)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 beat = heartbeat;

	return !beat || (beat < now && now - beat > settings.heartbeat_limit);
}

/*
 * Says why a connect() to IMDS is left alone, or OUTCOME_REDIRECTED.
 *
 * The marks count only together with the bridge's namespace: a container with CAP_NET_ADMIN of
 * its own may set any mark.
 */
static __always_inline enum outcome verdict(struct bpf_sock_addr *ctx, __u32 netns,
					    int has_listener)
{
	int own = netns == settings.netns;
	__u32 mark = ctx->sk->mark;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return OUTCOME_NOT_TCP;
	/* Before the exemption: to the other bridges of this host, it is one of their own. */
	if (own && has_listener && settings.check_mark && mark == settings.check_mark)
		return OUTCOME_REDIRECTED;
	if (own && !((mark ^ settings.mark) & MARK_BITS))
		return OUTCOME_EXEMPT;
	if (settings.own_netns_only && !own)
		return OUTCOME_OTHER_NETNS;
	if (!settings.listen_port4 && !settings.listen_port6)
		return OUTCOME_WATCHED;
	if (!has_listener)
		return OUTCOME_NO_LISTENER;
	if (ctx->sk->bound_dev_if > LOOPBACK_IFINDEX)
		return OUTCOME_BOUND_DEVICE;
	if (is_stale())
		return OUTCOME_STALE;
	return OUTCOME_REDIRECTED;
}

/* Remembers the caller under its socket. Returns 0 when it did. */
static __always_inline long record(struct bpf_sock_addr *ctx, struct connection *c, __u32 netns,
				   enum outcome outcome)
{
	c->socket_cookie = bpf_get_socket_cookie(ctx);
	c->netns_cookie = bpf_get_netns_cookie(ctx);
	c->netns = netns;
	c->connected = bpf_ktime_get_ns();
	c->original_port = IMDS_PORT;
	c->outcome = outcome;
	record_process(c);
	return bpf_map_update_elem(&sockets, &c->socket_cookie, c, BPF_ANY);
}

/* Tells whether fail_closed covers a call that is left alone: not what was never served. */
static __always_inline int is_covered(enum outcome outcome)
{
	return outcome == OUTCOME_STALE || outcome == OUTCOME_NO_LISTENER ||
	       outcome == OUTCOME_BOUND_DEVICE || outcome == OUTCOME_NOT_RECORDED;
}

/*
 * Decides about a connect() to IMDS, and remembers who called it: of those left alone too, for
 * whoever watches the packets asks whose they are.
 */
static __always_inline enum outcome decide(struct bpf_sock_addr *ctx, struct connection *c,
					   int has_listener)
{
	__u32 netns = netns_of(ctx);
	enum outcome outcome = verdict(ctx, netns, has_listener);

	if (outcome != OUTCOME_EXEMPT && record(ctx, c, netns, outcome) &&
	    outcome == OUTCOME_REDIRECTED)
		outcome = OUTCOME_NOT_RECORDED;
	if (settings.fail_closed && is_covered(outcome))
		outcome = OUTCOME_REFUSED;
	count(outcome);
	return outcome;
}

static int redirect4(struct bpf_sock_addr *ctx)
{
	struct connection c = {.original_family = AF_INET};
	enum outcome outcome;

	c.original_ip[2] = MAPPED_2;
	c.original_ip[3] = IMDS_IP4;
	outcome = decide(ctx, &c, settings.listen_port4 != 0);
	if (outcome == OUTCOME_REFUSED)
		return REFUSE;
	if (outcome != OUTCOME_REDIRECTED)
		return PROCEED;

	ctx->user_ip4 = settings.listen_ip4;
	ctx->user_port = settings.listen_port4;
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip4 != IMDS_IP4 || ctx->user_port != IMDS_PORT)
		return PROCEED;
	return redirect4(ctx);
}

static __always_inline int is_mapped(const struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == 0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == MAPPED_2;
}

static __always_inline int is_imds6(const struct bpf_sock_addr *ctx)
{
	return ctx->user_ip6[0] == IMDS_IP6_0 && ctx->user_ip6[1] == 0 && ctx->user_ip6[2] == 0;
}

/* Word by word: the context of a program allows no other access. */
static __always_inline void copy_ip6(volatile __u32 *to, const volatile __u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

static int redirect6(struct bpf_sock_addr *ctx, int mapped)
{
	struct connection c = {.original_family = AF_INET6};
	int has_listener = mapped ? settings.listen_port4 != 0 : settings.listen_port6 != 0;
	enum outcome outcome;

	copy_ip6(c.original_ip, ctx->user_ip6);
	outcome = decide(ctx, &c, has_listener);
	if (outcome == OUTCOME_REFUSED)
		return REFUSE;
	if (outcome != OUTCOME_REDIRECTED)
		return PROCEED;

	if (mapped) {
		ctx->user_ip6[3] = settings.listen_ip4;
		ctx->user_port = settings.listen_port4;
	} else {
		copy_ip6(ctx->user_ip6, settings.listen_ip6);
		ctx->user_port = settings.listen_port6;
	}
	return PROCEED;
}

/*
 * Serves fd00:ec2::254 and ::ffff:169.254.169.254: an AF_INET6 socket that connects to a
 * mapped address runs this hook and not connect4 (tcp_v6_pre_connect, Linux 6.18).
 */
SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	__u32 last = ctx->user_ip6[3];

	if (ctx->user_port != IMDS_PORT)
		return PROCEED;
	if (last == IMDS_IP4 && is_mapped(ctx))
		return redirect6(ctx, 1);
	if (last == IMDS_IP6_3 && is_imds6(ctx))
		return redirect6(ctx, 0);
	return PROCEED;
}

/* Finds the record of a socket that was redirected: not of one that was left alone. */
static __always_inline struct connection *find_redirected(__u64 cookie)
{
	struct connection *c = bpf_map_lookup_elem(&sockets, &cookie);

	return c && c->outcome == OUTCOME_REDIRECTED ? c : 0;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	if (ctx->user_ip4 != settings.listen_ip4 || ctx->user_port != settings.listen_port4)
		return PROCEED;

	if (!find_redirected(bpf_get_socket_cookie(ctx)))
		return PROCEED; /* one that dialled the listener itself sees the listener */

	ctx->user_ip4 = IMDS_IP4;
	ctx->user_port = IMDS_PORT;
	return PROCEED;
}

static __always_inline int is_listener6(const struct bpf_sock_addr *ctx)
{
	if (is_mapped(ctx))
		return ctx->user_ip6[3] == settings.listen_ip4 &&
		       ctx->user_port == settings.listen_port4;
	return ctx->user_ip6[0] == settings.listen_ip6[0] &&
	       ctx->user_ip6[1] == settings.listen_ip6[1] &&
	       ctx->user_ip6[2] == settings.listen_ip6[2] &&
	       ctx->user_ip6[3] == settings.listen_ip6[3] &&
	       ctx->user_port == settings.listen_port6;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	struct connection *c;

	if (!is_listener6(ctx))
		return PROCEED;

	c = find_redirected(bpf_get_socket_cookie(ctx));
	if (!c)
		return PROCEED;

	copy_ip6(ctx->user_ip6, c->original_ip);
	ctx->user_port = IMDS_PORT;
	return PROCEED;
}

/* Fills in the ends of ctx's connection as they are on the wire. */
static __always_inline void endpoints_of(struct bpf_sock_ops *ctx, const struct connection *c,
					 struct endpoints *e)
{
	if (c->original_ip[2] == MAPPED_2) {
		e->family = AF_INET;
		e->client_ip[2] = MAPPED_2;
		e->client_ip[3] = ctx->local_ip4;
		e->listener_ip[2] = MAPPED_2;
		e->listener_ip[3] = ctx->remote_ip4;
	} else {
		e->family = AF_INET6;
		copy_ip6(e->client_ip, ctx->local_ip6);
		copy_ip6(e->listener_ip, ctx->remote_ip6);
	}
	e->client_port = ctx->local_port;
	e->listener_port = bpf_ntohl(ctx->remote_port);
	e->own_netns = c->netns == settings.netns;
}

/*
 * The source port is known and the peer has not accepted yet: makes the caller findable. Of two
 * bridges that share their records, one does it.
 */
static __always_inline void join(struct connection *c, const struct endpoints *e)
{
	const struct connection *other = bpf_map_lookup_elem(&connections, e);

	if (other && other->socket_cookie == c->socket_cookie && other->connected == c->connected)
		return;
	if (other && other->netns_cookie != c->netns_cookie) {
		c->ambiguous = 1;
		count(OUTCOME_AMBIGUOUS);
	}
	if (bpf_map_update_elem(&connections, e, c, BPF_ANY))
		count(OUTCOME_NOT_JOINED);
	else
		count(OUTCOME_JOINED);
}

/* Removes what is known of a closed socket, unless another has its endpoints by now. */
static __always_inline void forget(const struct connection *c, const struct endpoints *e)
{
	const struct connection *held = bpf_map_lookup_elem(&connections, e);
	__u64 cookie = c->socket_cookie;

	if (held && held->socket_cookie == cookie)
		bpf_map_delete_elem(&connections, e);
	bpf_map_delete_elem(&sockets, &cookie);
	count(OUTCOME_CLOSED);
}

/* The other end is the listener: not whatever else listens on a port of that number. */
static __always_inline int leads_to_listener(struct bpf_sock_ops *ctx, const struct connection *c)
{
	if (c->original_ip[2] == MAPPED_2)
		return ctx->remote_ip4 == settings.listen_ip4;
	return ctx->remote_ip6[0] == settings.listen_ip6[0] &&
	       ctx->remote_ip6[1] == settings.listen_ip6[1] &&
	       ctx->remote_ip6[2] == settings.listen_ip6[2] &&
	       ctx->remote_ip6[3] == settings.listen_ip6[3];
}

SEC("sockops")
int sock_ops(struct bpf_sock_ops *ctx)
{
	struct endpoints e = {};
	struct connection *c;
	__u32 op = ctx->op;
	__u64 cookie;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	if (ctx->remote_port != (__u32)settings.listen_port4 << 16 &&
	    ctx->remote_port != (__u32)settings.listen_port6 << 16)
		return 1;

	cookie = bpf_get_socket_cookie(ctx);
	c = find_redirected(cookie);
	if (!c)
		return 1;

	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB && !leads_to_listener(ctx, c)) {
		/* An attempt that failed at once left this record, and the socket went elsewhere.
		 */
		bpf_map_delete_elem(&sockets, &cookie);
		return 1;
	}
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		/* From here on, so that a connect() that never gets through is forgotten too. */
		bpf_sock_ops_cb_flags_set(ctx,
					  ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
		return 1;
	}

	endpoints_of(ctx, c, &e);
	if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		join(c, &e);
	else if (ctx->args[1] == TCP_CLOSE)
		forget(c, &e);
	return 1;
}

/*
 * A filter for the bridge's own upstream sockets: notes the hop limit with which IMDS
 * sends its answers. At a TCP socket's filter, skb data starts at the TCP header.
 */
SEC("socket")
int hop_limit(struct __sk_buff *skb)
{
	__u32 field = skb->protocol == bpf_htons(ETH_P_IP) ? 8 : 7; /* TTL : hop limit */
	__u64 cookie = bpf_get_socket_cookie(skb);
	__u8 offset = 0, ttl = 0;
	__u32 *known, value;

	if (bpf_skb_load_bytes_relative(skb, field, &ttl, 1, BPF_HDR_START_NET))
		return -1;
	if (bpf_skb_load_bytes(skb, 12, &offset, 1) || skb->len <= (offset >> 4) * 4U)
		return -1; /* no payload: not an answer */

	known = bpf_map_lookup_elem(&hop_limits, &cookie);
	value = known && *known < ttl ? *known : ttl;
	bpf_map_update_elem(&hop_limits, &cookie, &value, BPF_ANY);
	return -1; /* keep the whole segment */
}

/* The GPL side is what the kernel asks for to allow bpf_get_current_task and probe reads. */
char _license[] SEC("license") = "Dual BSD/GPL";

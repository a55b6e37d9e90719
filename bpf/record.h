/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Who calls IMDS: what every program that records callers shares.
 */
#pragma once

#include "contract.h"

#define IMDS_IP4 bpf_htonl(0xa9fea9fe)   /* 169.254.169.254 */
#define IMDS_IP6_0 bpf_htonl(0xfd000ec2) /* fd00:ec2::254 */
#define IMDS_IP6_3 bpf_htonl(0x00000254)
#define MAPPED_2 bpf_htonl(0x0000ffff) /* third word of ::ffff:0:0/96 */
#define IMDS_PORT bpf_htons(80)

/*
 * key: socket cookie. value: who connected the socket to IMDS, and what became of it.
 * Written by connect*, read by getpeername* and sockops. sockops removes those of redirected
 * connections on close; the others make room for younger ones.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); /* set at load */
	__type(key, __u64);
	__type(value, struct connection);
} sockets SEC(".maps");

static __always_inline __u32 netns_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *typed = ctx->sk;
	struct sock *sk = 0;
	struct net *net = 0;
	__u32 inum = 0;

	/*
	 * The pointer is that of a struct sock, but the verifier knows it as struct bpf_sock and
	 * allows no offsets: read from the stack it is a plain number.
	 */
	bpf_probe_read_kernel(&sk, sizeof(sk), &typed);
	read_field(&net, sk, __sk_common.skc_net.net);
	read_field(&inum, net, ns.inum);
	return inum;
}

static __always_inline void record_process(struct connection *c)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct task_struct *leader = 0, *parent = 0;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u64 uid_gid = bpf_get_current_uid_gid();

	c->tgid = pid_tgid >> 32;
	c->pid = pid_tgid;
	c->uid = uid_gid;
	c->gid = uid_gid >> 32;
	c->cgroup_id = bpf_get_current_cgroup_id();
	bpf_get_current_comm(c->comm, sizeof(c->comm));
	read_field(&c->exec_id, task, self_exec_id);
	/* A thread has a start time and, for a moment, a parent of its own: ask the leader. */
	read_field(&leader, task, group_leader);
	read_field(&c->started, leader, start_boottime);
	read_field(&parent, leader, real_parent);
	read_field(&c->ppid, parent, tgid);
}

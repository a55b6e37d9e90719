// Package watch sees the calls that go to IMDS past the bridge, without touching them.
//
// A kernel program at a cgroup2 directory sees every packet between IMDS and the sockets of the
// processes below it, in whatever network namespace, and hands over what requests are made of. It
// does not see packet sockets (AF_PACKET), XDP sockets and virtual machines: what these send never
// passes a socket that belongs to a cgroup and speaks IP.
package watch

// Package lab is a place to call IMDS safely: network namespaces and a scratch cgroup made for one run.
//
//	container --veth-- Host ("the instance") --veth-- IMDS ("the hypervisor")
//
// Nothing joins these namespaces to any other, and Host has no default route, so no packet for the
// metadata service can leave the machine. The host forwards for its containers and lowers the TTL as
// it does so: what IMDS sends with a TTL of 1 reaches the host and no container, as on EC2.
//
// The namespaces have no name in the file system and end with the process, whatever ends it. The
// scratch cgroup of a lab that was killed is swept by the next [New].
package lab

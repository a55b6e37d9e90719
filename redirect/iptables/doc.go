// Package iptables redirects calls to IMDS by rules of iptables, for hosts whose kernel cannot do it with a
// hook, and says whose they are.
//
// Rules outlive the process that made them, a kernel hook does not. So each set of rules has a lifeline: an
// entry of an ipset without which it matches nothing, and which the kernel takes away unless it is renewed.
// A guard, a small process of its own, renews it while the bridge beats, cuts it when the bridge falls
// silent, and removes the rules at the bridge's end.
package iptables

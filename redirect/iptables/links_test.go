package iptables

import (
	"net/netip"
	"slices"
	"testing"
)

// host has links of each sort.
var host = links{
	1: {name: "lo", kind: kindLoopback},
	2: {name: "eth0", kind: "device", everywhere: true},
	3: {name: "eth1", kind: "device"}, // for data
	4: {name: "wg0", kind: "wireguard"},
	5: {name: "tun0", kind: "tuntap"},
	6: {name: "eth1.7", kind: "vlan"},

	10: {name: "docker0", kind: kindBridge},
	11: {name: "veth1", kind: "veth", master: 10},
	12: {name: "empty", kind: kindBridge},
	13: {name: "virbr0", kind: kindBridge},
	14: {name: "vnet0", kind: "tuntap", master: 13},
	15: {name: "eni1", kind: "veth"},
	16: {name: "lxc1", kind: "netkit"},
	17: {name: "nested", kind: "veth", everywhere: true},
	18: {name: "ovs0", kind: "openvswitch"},
}

func TestLinksToOtherMachinesAreLeftAlone(t *testing.T) {
	t.Parallel()
	want := []string{"eth0", "eth1", "eth1.7", "nested", "tun0", "virbr0", "vnet0", "wg0"}
	if got := host.outside(); !slices.Equal(got, want) {
		t.Errorf("%q lead to other machines, want %q", got, want)
	}
}

func TestLinksToContainersAreKnown(t *testing.T) {
	t.Parallel()
	want := []string{"docker0", "eni1", "lxc1", "veth1"}
	var got []string
	for index, l := range host {
		if l.kind == kindBridge && index != 10 {
			continue // the kernel is asked who is behind which port
		}
		if ok, err := host.leadsToContainer(index, netip.Addr{}); err != nil {
			t.Error(err)
		} else if ok {
			got = append(got, l.name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("%q lead to containers, want %q", got, want)
	}
	if ok, err := host.leadsToContainer(99, netip.Addr{}); ok || err != nil {
		t.Errorf("a link that is not there leads to a container, %v", err)
	}
}

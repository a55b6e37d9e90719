package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forget has the kernel forget the connections to IMDS that rules of an earlier bridge brought to the listener. Those
// that other rules translate are not ours.
//
// On a host without other such rules it tracks connections only as long as ours are there. What it knows
// of those that it lost sight of stays as it is, for two minutes or for days. A call that is under way when
// it tracks again, on the port of one of those, would be taken for it, sent to the listener, and reset.
func forget(f family) error {
	var stale [][]byte
	list := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	list.AddData(f.message())
	if err := list.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		if attributes := message[nl.SizeofNfgenmsg:]; f.translated(attributes) {
			stale = append(stale, slices.Clone(attributes))
		}
		return true
	}); err != nil {
		return fmt.Errorf("list tracked connections: %w", err)
	}
	var errs []error
	for _, attributes := range stale {
		remove := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		remove.AddData(f.message())
		remove.AddRawData(attributes)
		if _, err := remove.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("forget a tracked connection: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (f family) message() *nl.Nfgenmsg {
	return &nl.Nfgenmsg{NfgenFamily: f.number, Version: nl.NFNETLINK_V0}
}

// translated tells whether a tracked connection was to IMDS, and the listener answered.
func (f family) translated(attributes []byte) bool {
	source, destination := uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if f.number == unix.AF_INET6 {
		source, destination = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	to, _ := netip.AddrFromSlice(attributeOf(attributes, nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_IP, destination))
	by, _ := netip.AddrFromSlice(attributeOf(attributes, nl.CTA_TUPLE_REPLY, nl.CTA_TUPLE_IP, source))
	protocol := attributeOf(attributes, nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_PROTO, nl.CTA_PROTO_NUM)
	port := attributeOf(attributes, nl.CTA_TUPLE_ORIG, nl.CTA_TUPLE_PROTO, nl.CTA_PROTO_DST_PORT)
	return to == f.imds.Addr() && by == f.listen.Addr() &&
		len(protocol) == 1 && protocol[0] == unix.IPPROTO_TCP &&
		len(port) == 2 && binary.BigEndian.Uint16(port) == f.imds.Port()
}

// attributeOf is the value of one that others hold, given from the outside in; nil where it is missing.
func attributeOf(b []byte, path ...uint16) []byte {
	for _, kind := range path {
		all, err := nl.ParseRouteAttr(b)
		if err != nil {
			return nil
		}
		at := slices.IndexFunc(all, func(a syscall.NetlinkRouteAttr) bool {
			return a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind
		})
		if at < 0 {
			return nil
		}
		b = all[at].Value
	}
	return b
}

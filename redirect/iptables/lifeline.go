package iptables

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// setPrefix begins the names of our ipsets: imds-bridge-<token>-4 and -6.
const setPrefix = "imds-bridge-"

// lifeline is a set that holds the address of IMDS for as long as it is renewed. Rules match it, and so
// they match nothing once nobody renews it: whoever dies, the kernel lets calls through.
//
// To cut it is one message to the kernel. To remove the rules takes several programs, each of which waits
// for a lock that somebody may hold.
type lifeline struct {
	name string
	imds netip.Addr
}

func newLifeline(f family, token string) (*lifeline, error) {
	l := &lifeline{name: setPrefix + token + "-" + map[uint8]string{unix.AF_INET: "4", unix.AF_INET6: "6"}[f.number], imds: f.imds.Addr()}
	timeout := uint32(1)
	err := netlink.IpsetCreate(l.name, "hash:ip", netlink.IpsetCreateOptions{Family: f.number, Timeout: &timeout})
	if err != nil {
		return nil, fmt.Errorf("make ipset %s (needs CAP_NET_ADMIN and the kernel modules ip_set_hash_ip and xt_set): %w", l.name, err)
	}
	return l, nil
}

// renew lets the rules match for a while. The kernel counts it in whole seconds.
func (l *lifeline) renew(d time.Duration) error {
	seconds := uint32(max((d+time.Second-1)/time.Second, 1))
	entry := l.entry()
	entry.Timeout, entry.Replace = &seconds, true
	if err := netlink.IpsetAdd(l.name, entry); err != nil {
		return fmt.Errorf("renew ipset %s: %w", l.name, err)
	}
	return nil
}

// cut lets the rules match nothing from now on.
func (l *lifeline) cut() error {
	entry := l.entry()
	entry.Replace = true                                                                    // no error where it has run out
	if err := netlink.IpsetDel(l.name, entry); err != nil && !errors.Is(err, unix.ENOENT) { // a set that is gone matches nothing
		return fmt.Errorf("cut ipset %s: %w", l.name, err)
	}
	return nil
}

func (l *lifeline) entry() *netlink.IPSetEntry {
	return &netlink.IPSetEntry{IP: net.IP(l.imds.AsSlice())}
}

// remove takes away the set. Its rules must be gone.
func (l *lifeline) remove() error { return removeSet(l.name) }

func removeSet(name string) error {
	err := netlink.IpsetDestroy(name)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, nl.IPSetError(nl.IPSET_ERR_EXIST)) {
		return nil
	}
	return fmt.Errorf("remove ipset %s: %w", name, err)
}

// removeSets takes away the sets of tokens that are not alive and have no rules any more.
func removeSets(alive func(token string) bool) error {
	sets, err := netlink.IpsetListAll()
	if err != nil {
		return nil // a kernel without ipsets has none of ours
	}
	var errs []error
	for _, s := range sets {
		rest, ok := strings.CutPrefix(s.SetName, setPrefix)
		token, _, ok2 := strings.Cut(rest, "-")
		if ok && ok2 && s.References == 0 && !alive(token) {
			errs = append(errs, removeSet(s.SetName))
		}
	}
	return errors.Join(errs...)
}

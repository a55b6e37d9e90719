package hook

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAddressesSurviveTheKernelsForm(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"fd00:ec2::254", "::1", "::ffff:169.254.169.254"} {
		if got := addr(words(netip.MustParseAddr(text))); got.String() != text {
			t.Errorf("%s became %s", text, got)
		}
	}
	if got := addr(words(netip.MustParseAddr("169.254.169.254"))); got.String() != "::ffff:169.254.169.254" {
		t.Errorf("IPv4 is kept as %s", got)
	}
}

func TestKeyIsTheSameForBothFormsOfAnIPv4Address(t *testing.T) {
	t.Parallel()
	listener := netip.MustParseAddrPort("169.254.20.254:8254")
	plain := newEndpoints(netip.MustParseAddrPort("10.1.2.3:40000"), listener)
	mapped := newEndpoints(netip.MustParseAddrPort("[::ffff:10.1.2.3]:40000"), listener)
	if plain != mapped || plain.Family != unix.AF_INET {
		t.Errorf("%+v is not %+v", plain, mapped)
	}
	if v6 := newEndpoints(netip.MustParseAddrPort("[fd00::1]:40000"), netip.MustParseAddrPort("[fd00::2]:8254")); v6.Family != unix.AF_INET6 {
		t.Errorf("family %d of an IPv6 connection", v6.Family)
	}
}

func TestOriginalOfADualStackSocketStaysMapped(t *testing.T) {
	t.Parallel()
	value := hookConnection{
		OriginalIp:   words(netip.MustParseAddr("169.254.169.254")),
		OriginalPort: networkOrder(80),
	}
	for family, want := range map[uint8]string{
		unix.AF_INET:  "169.254.169.254:80",
		unix.AF_INET6: "[::ffff:169.254.169.254]:80",
	} {
		value.OriginalFamily = family
		if got := newConnection(&value, true).Original.String(); got != want {
			t.Errorf("family %d: %s, want %s", family, got, want)
		}
	}
}

func TestBypassIsWhatReachedIMDSPastTheBridge(t *testing.T) {
	t.Parallel()
	want := map[Outcome]bool{"stale": true, "not_tcp": true, "no_listener": true, "other_netns": true, "bound_device": true, "not_recorded": true}
	for _, o := range outcomes {
		if o.Bypass() != want[o] {
			t.Errorf("%s: %t", o, o.Bypass())
		}
	}
}

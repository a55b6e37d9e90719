package iptables

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
)

// Report says what is in place.
type Report struct {
	Backend string // [NFT] or [Legacy]
	Program string // path of iptables
	// NoIPv6 is why calls to fd00:ec2::254 are not redirected; "" if they are, or were not meant to be.
	NoIPv6 string
}

// set is a set of rules in place: those of one token.
type set struct {
	rules  Rules
	token  string // "" for rules without a guard
	report Report
	parts  []*part
}

// part is what a set is in one family.
type part struct {
	family   family
	tool     *tool
	lifeline *lifeline // nil for rules without a guard
}

func (s *set) chain() string {
	if s.token == "" {
		return chainPrefix
	}
	return chainPrefix + "-" + s.token
}

// newSet puts the rules in place. They match nothing before the first renew, if they have a token.
// Nothing is left behind by an error.
func newSet(r Rules, token string) (_ *set, err error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	t4, err := choose(r.Tools)
	if err != nil {
		return nil, err
	}
	s := &set{rules: r, token: token, report: Report{Backend: t4.backend, Program: t4.path}}
	defer func() {
		if err != nil {
			if _, undone := s.remove(); undone != nil {
				err = fmt.Errorf("%w; and take away what was added: %w", err, undone)
			}
		}
	}()
	now, err := look()
	if err != nil {
		return nil, err
	}
	outside := now.outside()
	if err := s.add(family{"iptables", unix.AF_INET, imds4, r.Listen}, t4, outside); err != nil {
		return nil, err
	}
	if !r.Listen6.IsValid() {
		return s, nil
	}
	t6, err := sibling(t4, r.Tools)
	if err != nil {
		s.report.NoIPv6 = err.Error()
		return s, nil
	}
	return s, s.add(family{"ip6tables", unix.AF_INET6, imds6, r.Listen6}, t6, outside)
}

// add puts the part of one family in place.
func (s *set) add(f family, t *tool, outside []string) (err error) {
	// Where the kernel does not list connections, a call that is under way may be lost, and none that comes.
	_ = forget(f)
	p := &part{family: f, tool: t}
	s.parts = append(s.parts, p)
	name := ""
	if s.token != "" {
		if p.lifeline, err = newLifeline(f, s.token); err != nil {
			return err
		}
		name = p.lifeline.name
	}
	return t.add(s.rules.redirecting(f, s.chain(), name, outside))
}

// refuse puts rules in place that refuse calls which the others do not redirect.
func (s *set) refuse() error {
	var errs []error
	for _, p := range s.parts {
		errs = append(errs, p.tool.add(s.rules.refusing(p.family, s.chain())))
	}
	return errors.Join(errs...)
}

// sibling is the tool for IPv6 of the same backend, if the kernel has its tables.
func sibling(t4 *tool, t Tools) (*tool, error) {
	tools, err := installed("ip6tables", goiptables.ProtocolIPv6, t)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(tools, func(t6 *tool) bool { return t6.backend == t4.backend })
	if at < 0 {
		return nil, fmt.Errorf("%w: no ip6tables for %s is installed", ErrMissing, t4.backend)
	}
	_, err = tools[at].dump("nat")
	return tools[at], err
}

func (s *set) renew(d time.Duration) error {
	return s.each(func(l *lifeline) error { return l.renew(d) })
}

func (s *set) cut() error { return s.each((*lifeline).cut) }

func (s *set) each(f func(*lifeline) error) error {
	var errs []error
	for _, p := range s.parts {
		if p.lifeline != nil {
			errs = append(errs, f(p.lifeline))
		}
	}
	return errors.Join(errs...)
}

// remove takes away the redirecting rules, and then the lifelines.
func (s *set) remove() (l Leftovers, err error) {
	errs := []error{s.cut()}
	for _, p := range s.parts {
		gone, err := p.tool.remove("nat", func(chain string) bool { return chain == s.chain() })
		l.add(gone)
		if errs = append(errs, err); err == nil && len(gone.Kept) == 0 && p.lifeline != nil {
			errs = append(errs, p.lifeline.remove())
		}
	}
	return l, errors.Join(errs...)
}

// unrefuse takes away the rules of refuse.
func (s *set) unrefuse() error {
	var errs []error
	for _, p := range s.parts {
		_, err := p.tool.remove("filter", func(chain string) bool { return chain == s.chain() })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Install puts rules in place that have no guard: they stay until [Sweep]. It is for a sidecar, whose bridge
// has no privileges; if that dies, calls are refused until it is back. Rules that it finds are replaced.
//
// It needs CAP_NET_ADMIN, and with legacy tables CAP_NET_RAW. Nothing is left behind by an error.
func Install(r Rules) (Report, error) {
	if err := r.check(); err != nil {
		return Report{}, err
	}
	l, err := sweep(r.Tools, func(chain string) bool { return chain == chainPrefix })
	if err == nil && len(l.Kept) > 0 {
		err = fmt.Errorf("foreign rules are in the way, remove them: %s", strings.Join(l.Kept, ", "))
	}
	if err != nil {
		return Report{}, err
	}
	s, err := newSet(r, "")
	if err != nil {
		return Report{}, err
	}
	return s.report, nil
}

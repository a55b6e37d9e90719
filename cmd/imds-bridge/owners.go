package main

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"

	"github.com/imds-bridge/imds-bridge/redirect"
	"github.com/imds-bridge/imds-bridge/redirect/iptables"
	"github.com/imds-bridge/imds-bridge/redirect/owner"
)

// owners find out whose connections they are that no hook recorded.
type owners struct {
	iptables.Finder
	close func() error
	spare func()
	log   *slog.Logger
	said  sync.Once
}

func newOwners(o owner.Options, log *slog.Logger) (*owners, error) {
	finder, err := owner.New(o)
	if err != nil {
		return nil, err
	}
	return &owners{Finder: finder, close: finder.Close, spare: finder.Spare, log: log}, nil
}

// Find is that of the finder. It says once what privileges are missing: the process gets no others.
func (o *owners) Find(ctx context.Context, client, server netip.AddrPort) (redirect.Connection, error) {
	c, err := o.Finder.Find(ctx, client, server)
	o.warn(client, c, err)
	return c, err
}

// Begin is likewise.
func (o *owners) Begin(client, server netip.AddrPort) (bool, func() (redirect.Connection, error), bool) {
	own, found, ok := o.Finder.Begin(client, server)
	return own, func() (redirect.Connection, error) {
		c, err := found()
		o.warn(client, c, err)
		return c, err
	}, ok
}

func (o *owners) warn(client netip.AddrPort, c redirect.Connection, err error) {
	if lacking := (*owner.PermissionError)(nil); errors.As(err, &lacking) {
		o.said.Do(func() {
			seen := []any{"missing", strings.Join(lacking.Missing, " "), "client", client.String()}
			if c.NetNS != 0 {
				seen = append(seen, "network_namespace", c.NetNS)
			}
			o.log.Warn("not every caller can be named: processes of other users may not be looked into (said once)", seen...)
		})
	}
}

func (o *owners) Close() error { return o.close() }

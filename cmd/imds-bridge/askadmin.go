package main

import (
	"context"
	"net"
	"net/http"
	"strings"
)

// askAdmin gets a page of the admin listener of a running bridge.
func askAdmin(ctx context.Context, listen, page string) (*http.Response, error) {
	network, address := "tcp", listen
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		network, address = "unix", path
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+page, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

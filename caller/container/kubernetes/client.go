package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
)

// Bounds of what is read.
const (
	maxLine   = 4 << 20 // of a watch
	maxOwner  = 1 << 20
	maxStatus = 64 << 10
	maxFile   = 1 << 20 // of a token or certificates
)

// client reaches the server of a source, and nothing else: it knows no proxies of the environment, and
// follows no redirections.
type client struct {
	*Source
	transport *http.Transport
}

func (s *Source) connect() (*client, error) {
	certificates, err := readFile(s.options.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the API server's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certificates) {
		return nil, fmt.Errorf("read the API server's CA: no certificate in %s", s.options.CAFile)
	}
	return &client{Source: s, transport: &http.Transport{
		// A watch may be silent for minutes: this is how a server is noticed that is gone.
		DialContext: (&net.Dialer{Timeout: s.times.answer, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
		}}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    s.times.answer,
		ResponseHeaderTimeout:  s.times.answer,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		IdleConnTimeout:        time.Minute,
	}}, nil
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return text, err
}

// statusError is an answer other than 200.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string {
	if e.message == "" {
		return fmt.Sprintf("status %d", e.status)
	}
	return e.message
}

func isStatus(err error, status int) bool {
	var answered *statusError
	return errors.As(err, &answered) && answered.status == status
}

// open returns the body of the answer for a path, which ends with ctx.
func (c *client) open(ctx context.Context, path string, query url.Values, accept string) (io.ReadCloser, error) {
	token, err := readFile(c.options.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the token of the service account: %w", err)
	}
	target := *c.server
	target.Path, target.RawQuery = path, query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", accept)
	request.Header.Set("User-Agent", "imds-bridge")
	request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	answer, err := c.transport.RoundTrip(request) // an http.Client would follow redirections
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxStatus)) // what is there of it will do
	return nil, c.refusal(answer.StatusCode, text)
}

// refusal is the error for an object of kind Status.
func (c *client) refusal(status int, text []byte) error {
	var said struct{ Message string }
	_ = json.Unmarshal(text, &said) // something before the server may have answered
	e := &statusError{status: status, message: caller.Printable(said.Message, 512)}
	if status == http.StatusUnauthorized {
		e.message = fmt.Sprintf("the API server does not know the token in %s", c.options.TokenFile)
	}
	return e
}

// explain says in our words that the server took too long, or is down. It does not say that there is none,
// as a refused connection would of another source: a node has an API server.
func (c *client) explain(ctx context.Context, err error) error {
	var slow net.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout():
		return fmt.Errorf("no answer from %s in time", c.server.Host)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s refuses connections: is the API server running?", c.server.Host)
	}
	return err
}

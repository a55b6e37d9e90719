package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/imds-bridge/imds-bridge/caller"
)

// maxAnswer bounds an answer, and a container of a list.
const maxAnswer = 4 << 20

// newTransport makes one that reaches the daemon and nothing else, whatever the daemon answers. Each
// request has a connection of its own: that is cheap here, and a daemon may restart at any time.
func (s *Source) newTransport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: s.patience}).DialContext(ctx, "unix", s.socket)
		},
		ResponseHeaderTimeout:  3 * s.patience,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}
}

// statusError is an answer other than 200.
type statusError struct {
	path, message string
	status        int
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("GET %s: status %d", e.path, e.status)
	if e.message != "" {
		text += ": " + e.message
	}
	return text
}

func isStatus(err error, status int) bool {
	var answered *statusError
	return errors.As(err, &answered) && answered.status == status
}

// get reads the answer for a path into what v points to.
func (s *Source) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	body, err := s.open(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("GET %s from %s: %w", path, s.socket, s.inTime(ctx, err))
	}
	return nil
}

// ping returns an error if nobody lives at the socket.
func (s *Source) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	body, err := s.open(ctx, "/_ping")
	var answered *statusError
	if errors.As(err, &answered) && answered.status < http.StatusInternalServerError {
		return nil // a proxy does not let it through
	}
	if err != nil {
		return err
	}
	return body.Close()
}

// open returns the body of the answer for a path, which ends with ctx.
func (s *Source) open(ctx context.Context, path string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.transport.RoundTrip(request) // a client would follow redirections
	if err != nil {
		return nil, s.explain(s.inTime(ctx, err))
	}
	if answer.StatusCode == http.StatusOK {
		return answer.Body, nil
	}
	defer answer.Body.Close()
	refusal := &statusError{path: request.URL.Path, status: answer.StatusCode}
	var said struct{ Message string }
	if text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10)); err == nil && json.Unmarshal(text, &said) == nil {
		refusal.message = caller.Printable(said.Message, 256)
	}
	return nil, refusal
}

// inTime says in our words that a daemon took too long.
func (s *Source) inTime(ctx context.Context, err error) error {
	var slow interface{ Timeout() bool }
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout() {
		return fmt.Errorf("no answer from %s in time", s.socket)
	}
	return err
}

// explain adds to an error of connect(2) what can be done about it. That there is no such socket, or
// nobody who listens, can be told by [fs.ErrNotExist] and [syscall.ECONNREFUSED].
func (s *Source) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run the bridge with the group of the socket%s, or give it the socket of a proxy that lets its GET requests through", err, s.group())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: is the daemon running?", err)
	}
	return err
}

// group names the group that may use the socket, where that can be seen and is not root's.
func (s *Source) group() string {
	about, err := os.Stat(s.socket)
	if err != nil {
		return ""
	}
	owner, ok := about.Sys().(*syscall.Stat_t)
	if !ok || owner.Gid == 0 {
		return ""
	}
	gid := strconv.FormatUint(uint64(owner.Gid), 10)
	if group, err := user.LookupGroupId(gid); err == nil {
		return " (" + group.Name + ")"
	}
	return " (" + gid + ")"
}

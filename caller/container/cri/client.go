package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/imds-bridge/imds-bridge/caller"
)

// maxAnswer bounds an answer, as the kubelet does.
const maxAnswer = 16 << 20

// client is one connection to a runtime.
type client struct {
	*Source
	conn           *grpc.ClientConn
	runtimeService criapi.RuntimeServiceClient
	imageService   criapi.ImageServiceClient
	// refusal is why there was no connection at last: gRPC tells it as text alone.
	refusal atomic.Pointer[error]
}

// dial connects with the first question.
func (s *Source) dial() (*client, error) {
	c := &client{Source: s}
	var err error
	c.conn, err = grpc.NewClient("passthrough:///"+s.socket,
		grpc.WithContextDialer(c.connect),
		grpc.WithAuthority("localhost"), // else it would be the path
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithMaxHeaderListSize(64<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", s.socket, err)
	}
	c.runtimeService, c.imageService = criapi.NewRuntimeServiceClient(c.conn), criapi.NewImageServiceClient(c.conn)
	return c, nil
}

func (c *client) close() { _ = c.conn.Close() } // fails for one that is closed alone

func (c *client) connect(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: c.pace.patience}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		c.refusal.Store(&err)
	} else {
		c.refusal.Store(nil)
	}
	return conn, err
}

// call asks a question.
func call[Q, A any](ctx context.Context, c *client, what string, ask func(context.Context, *Q, ...grpc.CallOption) (*A, error), question *Q) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, c.pace.patience)
	defer cancel()
	answer, err := ask(ctx, question)
	if err != nil {
		return nil, c.failed(what, err)
	}
	return answer, nil
}

// failure is what a question led to that was not answered.
type failure struct {
	code  codes.Code
	cause error
}

func (f *failure) Error() string { return f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// refused tells whether the runtime has answered that it does not answer this question. It may others.
func refused(err error) bool {
	var f *failure
	if !errors.As(err, &f) {
		return false
	}
	return f.code != codes.Unavailable && f.code != codes.DeadlineExceeded && f.code != codes.Canceled
}

// failed says in our words why a question was not answered, and what can be done about it. That there is
// no such socket, or nobody who listens, can be told by [fs.ErrNotExist] and [syscall.ECONNREFUSED].
func (c *client) failed(what string, err error) *failure {
	f := &failure{code: status.Code(err)}
	refusal := c.refusal.Load()
	switch {
	case f.code == codes.Unavailable && refusal != nil:
		f.cause = c.explain(*refusal)
	case f.code == codes.DeadlineExceeded:
		f.cause = fmt.Errorf("%s: no answer from %s in time", what, c.socket)
	case f.code == codes.Unimplemented && what == "Version":
		f.cause = fmt.Errorf("%s does not speak CRI v1: is the plugin cri of containerd disabled (disabled_plugins of its configuration), or older than 1.6?", c.socket)
	default:
		f.cause = fmt.Errorf("%s of %s: %s: %s", what, c.socket, f.code, caller.Printable(status.Convert(err).Message(), 256))
	}
	return f
}

func (c *client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run the bridge with the group of the socket%s; containerd gives it the one of gid in the section grpc of its configuration", err, c.group())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: is the runtime running?", err)
	}
	return err
}

// group names the group that may use the socket, where that can be seen.
func (c *client) group() string {
	about, err := os.Stat(c.socket)
	if err != nil {
		return ""
	}
	owner, ok := about.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	gid := strconv.FormatUint(uint64(owner.Gid), 10)
	if group, err := user.LookupGroupId(gid); err == nil {
		return " (" + group.Name + ")"
	}
	return " (" + gid + ")"
}

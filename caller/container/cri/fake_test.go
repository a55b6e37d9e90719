package cri

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fake is a runtime that answers as a test wants it to.
type fake struct {
	criapi.UnimplementedRuntimeServiceServer
	criapi.UnimplementedImageServiceServer
	t        *testing.T
	socket   string
	log      log
	envelope chan []byte                         // of containerd
	events   chan *criapi.ContainerEventResponse // of CRI; nil ends them
	end      func()                              // of the runtime

	mu           sync.Mutex
	name, number string
	containers   map[string]*criapi.Container
	sandboxes    map[string]*criapi.PodSandboxStatus
	imagesByRef  map[string]*criapi.Image
	instead      map[string]func(ctx context.Context) error // by method: what is done before it is answered
	asked        map[string]int
}

// log is what is logged. It is safe for concurrent use.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fake{
		t: t, socket: filepath.Join(dir, "socket"), name: "containerd", number: "1.6.20",
		envelope: make(chan []byte, 100), events: make(chan *criapi.ContainerEventResponse, 100),
		containers: make(map[string]*criapi.Container), sandboxes: make(map[string]*criapi.PodSandboxStatus),
		imagesByRef: make(map[string]*criapi.Image),
		instead:     make(map[string]func(context.Context) error), asked: make(map[string]int),
	}
	f.end = f.listen()
	t.Cleanup(func() { f.end() })
	return f
}

// listen serves until what it returns is called.
func (f *fake) listen() (end func()) {
	f.t.Helper()
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		f.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxSendMsgSize(2*maxAnswer),
		grpc.UnaryInterceptor(func(ctx context.Context, request any, about *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := f.before(ctx, about.FullMethod); err != nil {
				return nil, err
			}
			return handle(ctx, request)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, about *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := f.before(stream.Context(), about.FullMethod); err != nil {
				return err
			}
			return handle(server, stream)
		}))
	criapi.RegisterRuntimeServiceServer(server, f)
	criapi.RegisterImageServiceServer(server, f)
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "containerd.services.events.v1.Events", Streams: []grpc.StreamDesc{
		{StreamName: "Subscribe", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error { return f.subscribe(stream) }},
	}}, nil)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	return sync.OnceFunc(func() {
		server.Stop()
		running.Wait()
	})
}

// before sees to it that nothing is asked for that would change something.
func (f *fake) before(ctx context.Context, path string) error {
	method := path[strings.LastIndexByte(path, '/')+1:]
	switch method {
	case "Version", "ListContainers", "PodSandboxStatus", "ImageStatus", "GetContainerEvents", "Subscribe":
	default:
		f.t.Errorf("%s: something would be changed", path)
	}
	f.mu.Lock()
	f.asked[method]++
	instead := f.instead[method]
	f.mu.Unlock()
	if instead != nil {
		return instead(ctx)
	}
	return nil
}

// hang answers nothing.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) do(method string, instead func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.instead[method] = instead
}

func (f *fake) times(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[method]
}

func (f *fake) Version(context.Context, *criapi.VersionRequest) (*criapi.VersionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &criapi.VersionResponse{RuntimeName: f.name, RuntimeVersion: f.number}, nil
}

func (f *fake) ListContainers(_ context.Context, question *criapi.ListContainersRequest) (*criapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := &criapi.ListContainersResponse{}
	for id, c := range f.containers {
		if wanted := question.Filter.GetId(); wanted == "" || wanted == id {
			answer.Containers = append(answer.Containers, c)
		}
	}
	return answer, nil
}

func (f *fake) PodSandboxStatus(_ context.Context, question *criapi.PodSandboxStatusRequest) (*criapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, ok := f.sandboxes[question.PodSandboxId]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &criapi.PodSandboxStatusResponse{Status: found}, nil
}

func (f *fake) ImageStatus(_ context.Context, question *criapi.ImageStatusRequest) (*criapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &criapi.ImageStatusResponse{Image: f.imagesByRef[question.Image.Image]}, nil
}

func (f *fake) GetContainerEvents(_ *criapi.GetEventsRequest, stream grpc.ServerStreamingServer[criapi.ContainerEventResponse]) error {
	for {
		select {
		case e := <-f.events:
			if e == nil {
				return nil
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (f *fake) subscribe(stream grpc.ServerStream) error {
	var filters emptypb.Empty
	if err := stream.RecvMsg(&filters); err != nil {
		return err
	}
	if text := string(filters.ProtoReflect().GetUnknown()); strings.Count(text, "namespace==k8s.io") != 2 {
		f.t.Errorf("filters %q", text)
	}
	for {
		select {
		case text := <-f.envelope:
			var envelope emptypb.Empty
			envelope.ProtoReflect().SetUnknown(text)
			if err := stream.SendMsg(&envelope); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// task is an event of containerd about a process of a container.
func task(topic, container, process string) []byte {
	text := func(b []byte, number protowire.Number, value string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), value)
	}
	about := text(nil, 1, container)
	if process != "" {
		about = text(about, 2, process)
		about = protowire.AppendVarint(protowire.AppendTag(about, 3, protowire.VarintType), 4711)
	}
	packed := text(text(nil, 1, "containerd.events.Task"), 2, string(about))
	return text(text(text(text(nil, 1, ""), 2, "k8s.io"), 3, topic), 4, string(packed))
}

func (f *fake) begins(id string) { f.envelope <- task("/tasks/create", id, "") }
func (f *fake) ends(id string)   { f.envelope <- task("/tasks/exit", id, id) }

// has adds a container, as containerd tells of those that a kubelet made.
func (f *fake) has(id, sandbox, name string) *criapi.Container {
	c := &criapi.Container{
		Id: id, PodSandboxId: sandbox, Metadata: &criapi.ContainerMetadata{Name: name}, State: criapi.ContainerState_CONTAINER_RUNNING,
		Image: &criapi.ImageSpec{Image: "sha256:" + digits(9)}, ImageRef: "sha256:" + digits(9),
		Labels: map[string]string{containerName: name, podName: "web-1", podNamespace: "shop", podUID: "u-1"},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers[id] = c
	return c
}

func (f *fake) hasNot(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
}

func (f *fake) hasPod(sandbox, name, uid string, network criapi.NamespaceMode) *criapi.PodSandboxStatus {
	p := &criapi.PodSandboxStatus{
		Id: sandbox, Metadata: &criapi.PodSandboxMetadata{Name: name, Namespace: "shop", Uid: uid},
		Labels: map[string]string{"app": "web", podName: name, podNamespace: "shop", podUID: uid},
		Linux:  &criapi.LinuxPodSandboxStatus{Namespaces: &criapi.Namespace{Options: &criapi.NamespaceOption{Network: network}}},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sandboxes[sandbox] = p
	return p
}

func (f *fake) hasImage(reference string, i *criapi.Image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.imagesByRef[reference] = i
}

// source is one that has patience with a busy machine, and leaves the most to the events.
func (f *fake) source() *Source {
	return f.paced(pace{patience: 20 * time.Second, pulse: time.Minute, soon: time.Minute, lists: 20 * time.Millisecond})
}

// impatient is one for a runtime that hangs.
func (f *fake) impatient() *Source {
	return f.paced(pace{patience: 300 * time.Millisecond, pulse: 20 * time.Millisecond, soon: 20 * time.Millisecond, lists: 20 * time.Millisecond})
}

func (f *fake) paced(p pace) *Source {
	return newSource(slog.New(slog.NewTextHandler(&f.log, nil)), f.socket, p)
}

// digits are those of a container, a sandbox or an image.
func digits(n int) string { return fmt.Sprintf("%064x", n) }

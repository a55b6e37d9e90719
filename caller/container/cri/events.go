package cri

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
	criapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// event says that a container, or a sandbox, came or ended.
type event struct {
	id    string
	ended bool
}

// subscription tells of events until they end.
type subscription func(ctx context.Context, tell func(event)) error

// subscription is nil where a runtime has no events that are also for us.
//
// Each of CRI's own events goes to one subscriber alone in containerd 1.7 (containerd#7318) and in CRI-O
// before 1.28 (cri-o#6838): whoever listened would take it from the kubelet. So containerd is asked for the
// events that it has always had for everybody, and an older CRI-O for none.
func (c *client) subscription() subscription {
	switch r := c.runtime.Load(); {
	case r.name == "containerd":
		return c.containerdEvents
	case r.name == "cri-o" && atLeast(r.version, 1, 28):
		return c.criEvents
	}
	return nil
}

func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	gotMajor, errMajor := strconv.Atoi(parts[0])
	gotMinor, errMinor := strconv.Atoi(parts[1])
	return errMajor == nil && errMinor == nil && (gotMajor > major || gotMajor == major && gotMinor >= minor)
}

func (c *client) criEvents(ctx context.Context, tell func(event)) error {
	stream, err := c.runtimeService.GetContainerEvents(ctx, &criapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		ended := e.ContainerEventType == criapi.ContainerEventType_CONTAINER_STOPPED_EVENT ||
			e.ContainerEventType == criapi.ContainerEventType_CONTAINER_DELETED_EVENT
		if isDigits(e.ContainerId) {
			tell(event{e.ContainerId, ended})
		}
	}
}

// What follows is of containerd.services.events.v1 (api/services/events/v1/events.proto) and
// containerd.events (api/events/task.proto): of four messages seven fields, which are read by their
// numbers. containerd's module would bring ttrpc, typeurl and logrus.

// wanted are the events of containers that begin, before their program runs, and that end. CRI's
// are in the namespace k8s.io.
var wanted = []string{`namespace==k8s.io,topic=="/tasks/create"`, `namespace==k8s.io,topic=="/tasks/exit"`}

func (c *client) containerdEvents(ctx context.Context, tell func(event)) error {
	var filters []byte
	for _, filter := range wanted {
		filters = protowire.AppendString(protowire.AppendTag(filters, 1, protowire.BytesType), filter)
	}
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/containerd.services.events.v1.Events/Subscribe")
	if err != nil {
		return err
	}
	// An empty message carries all fields, as unknown ones.
	var request, envelope emptypb.Empty
	request.ProtoReflect().SetUnknown(filters)
	if err := stream.SendMsg(&request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&envelope); err != nil {
			return err
		}
		e, ok, err := readEnvelope(envelope.ProtoReflect().GetUnknown())
		if err != nil {
			return err
		}
		if ok {
			tell(e)
		}
	}
}

var errMalformed = errors.New("an event is malformed")

// readEnvelope is not ok for an event that tells us nothing.
func readEnvelope(text []byte) (e event, ok bool, err error) {
	envelope, err := fields(text, 3, 4) // topic, event
	if err != nil {
		return e, false, err
	}
	packed, err := fields(envelope[1], 2) // value of an Any
	if err != nil {
		return e, false, err
	}
	// TaskCreate has container_id, TaskExit id too: the same for the container, another for an exec in it.
	task, err := fields(packed[0], 1, 2)
	if err != nil {
		return e, false, err
	}
	e.id = string(task[0])
	switch string(envelope[0]) {
	case "/tasks/create":
	case "/tasks/exit":
		e.ended = true
		if string(task[1]) != e.id {
			return e, false, nil
		}
	default:
		return e, false, nil
	}
	return e, isDigits(e.id), nil
}

// fields returns the last values of some fields that are text or messages, nil for those that are not there.
func fields(message []byte, wanted ...protowire.Number) ([][]byte, error) {
	values := make([][]byte, len(wanted))
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		length := protowire.ConsumeFieldValue(number, kind, message[n:])
		if length < 0 {
			return nil, fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(length))
		}
		if kind == protowire.BytesType {
			for i, one := range wanted {
				if one == number {
					values[i], _ = protowire.ConsumeBytes(message[n:])
				}
			}
		}
		message = message[n+length:]
	}
	return values, nil
}

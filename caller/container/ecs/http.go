package ecs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
)

// statusError is an answer other than 200.
type statusError struct {
	path   string
	status int
}

func (e *statusError) Error() string { return fmt.Sprintf("GET %s: status %d", e.path, e.status) }

// get reads the answer for a path into what v points to.
func (s *Source) get(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.endpoint+path, nil)
	if err != nil {
		return err
	}
	answer, err := s.transport.RoundTrip(request) // an http.Client would follow redirections
	if err != nil {
		return s.explain(ctx, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return &statusError{path: request.URL.Path, status: answer.StatusCode}
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	if err == nil && len(text) > maxAnswer {
		err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("GET %s: %w", request.URL.Path, s.explain(ctx, err))
	}
	return nil
}

// explain says what an error means.
func (s *Source) explain(ctx context.Context, err error) error {
	var slow net.Error
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.As(err, &slow) && slow.Timeout():
		return fmt.Errorf("no answer from the ECS agent at %s in time", s.endpoint)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: is the ECS agent running?", err)
	}
	return err
}

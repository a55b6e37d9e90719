package report

import (
	"context"
	"log/slog"
	"time"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/policy"
)

// logCall writes one line of a call: v1 calls and refusals for all to see, the rest at debug.
func logCall(ctx context.Context, logger *slog.Logger, c *Call, known *attribution.Attribution) {
	level := levelOf(c)
	if !logger.Enabled(ctx, level) {
		return
	}
	a := make([]slog.Attr, 0, 16)
	a = append(a,
		slog.String("version", c.Kind.String()),
		slog.String("method", shorten(c.Method)),
		slog.String("path", shorten(c.Path)),
		slog.String("route", c.Route.Pattern),
		slog.String("verdict", string(c.Decision.Verdict)),
		slog.String("reason", string(c.Decision.Reason)),
		slog.Bool("upgraded", c.Upgraded),
		slog.Bool("sensitive", c.Route.Sensitive),
		slog.Int("status", c.Status),
		slog.Int64("duration_us", c.End.Sub(c.Start).Microseconds()),
		slog.String("client", c.Client.String()),
		slog.String("user_agent", shorten(c.UserAgent)),
	)
	if c.RelaySign != "" {
		a = append(a, slog.String("relay_sign", c.RelaySign))
	}
	if c.Error != "" {
		a = append(a, slog.String("error", c.Error))
	}
	if c.Cause != nil {
		a = append(a, slog.String("cause", shorten(c.Cause.Error())))
	}
	if len(known.Waste) > 0 {
		a = append(a, slog.Any("waste", findings(known.Waste)))
	}
	logger.LogAttrs(ctx, level, "imds call", a...)
}

func levelOf(c *Call) slog.Level {
	switch {
	case c.Error == ErrorUpstream, c.Error == ErrorNotRecorded, c.Decision.Verdict == policy.Deny, c.Decision.Reason == Bypassed:
		return slog.LevelWarn
	case c.Kind == imds.V1:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func callerValue(who person) slog.Value {
	a := make([]slog.Attr, 0, 32)
	if who.hasProcess() {
		a = append(a, slog.Int("pid", int(who.PID)), slog.Int("ppid", int(who.PPID)))
		a = append(a, pairs{{"comm", who.Comm}, {"exe", who.Executable}}.log()...)
		if len(who.Args) > 0 {
			a = append(a, slog.Any("args", who.Args))
		}
		a = append(a, slog.Int("gid", int(who.GID)))
		a = append(a, pairs{{"user", who.User}, {"group", who.Group}, {"cgroup", who.Cgroup}}.log()...)
	}
	if who.ExecutableDeleted {
		a = append(a, slog.Bool("exe_deleted", true))
	}
	if who.hasSocket() {
		a = append(a,
			slog.Int("uid", int(who.UID)),
			slog.Int64("netns", int64(who.NetNS)),
		)
	}
	a = append(a,
		slog.Bool("host_network", who.hostNetwork),
		slog.Bool("complete", who.Complete),
	)
	if who.hasProcess() && !who.Started.IsZero() {
		a = append(a, slog.Time("started", who.Started.Round(time.Millisecond)))
	}
	if who.ContainerID != "" {
		a = append(a, slog.String("container_id", who.ContainerID), slog.String("container_runtime", runtimeOf(who)))
	}
	if who.ambiguous {
		a = append(a, slog.Bool("ambiguous", true))
	}
	if len(who.Ancestors) > 0 {
		a = append(a, slog.Any("ancestors", ancestors(who.Ancestors)))
	}
	return slog.GroupValue(append(a, whoValues(who)...)...)
}

type ancestor struct {
	PID    int    `json:"pid"`
	Comm   string `json:"comm"`
	Exe    string `json:"exe"`
	Script string `json:"script,omitempty"`
}

func ancestors(chain []caller.Process) []ancestor {
	list := make([]ancestor, len(chain))
	for i, p := range chain {
		list[i] = ancestor{p.PID, p.Comm, p.Executable, p.Script}
	}
	return list
}

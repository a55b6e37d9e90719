package main

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// feedWatchdog tells systemd that the bridge does its work, where the unit asks for that with
// WatchdogSec=: one that hangs is started again.
func (b *bridge) feedWatchdog(ctx context.Context) {
	patience, err := daemon.SdWatchdogEnabled(false)
	if err != nil || patience == 0 {
		return
	}
	tick := time.NewTicker(patience / 3)
	defer tick.Stop()
	for {
		if b.proxy == nil || b.pulse.isAlive() {
			notify(b.log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

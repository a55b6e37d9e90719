package main

import (
	"errors"
	"time"
)

// starting is how long the bridge takes from its exec until it is ready: medians.
type starting struct {
	Starts int
	Ready  time.Duration // /readyz says so
	Notice time.Duration // it has told systemd
}

func (p *place) starting(o options) (s starting, err error) {
	note("start to ready")
	var ready, notice []time.Duration
	for range o.starts {
		b, err := p.bridge(o.bridge, byHook)
		if err != nil {
			return s, err
		}
		select {
		case at := <-b.notified:
			notice = append(notice, at.Sub(b.started))
		case <-time.After(time.Second):
			return s, errors.Join(errors.New("the bridge is ready, but does not tell systemd"), b.stop())
		}
		ready = append(ready, b.ready.Sub(b.started))
		if err := b.stop(); err != nil {
			return s, err
		}
	}
	return starting{o.starts, median(ready), median(notice)}, nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

// calls are what the bridge knows of a process's calls, as /callers?pid= of its admin listener says it.
type calls struct {
	V1      uint64        `json:"v1"`
	V2      uint64        `json:"v2"`
	Tokens  uint64        `json:"tokens"` // requests for one
	Last    time.Time     `json:"last"`
	Client  calledBy      `json:"client"`
	Advice  *calledAdvice `json:"advice,omitempty"` // of the last v1 call
	Waste   []calledWaste `json:"waste,omitempty"`  // of about the last hour
	Owner   calledOwner   `json:"owner"`
	Service string        `json:"service,omitempty"`
	Facts   []fact        `json:"facts,omitempty"` // of the process at the last call
}

// calledBy is the client of the last call.
type calledBy struct {
	Name          string `json:"name"`
	Title         string `json:"title"` // with its version
	Version       string `json:"version,omitempty"`
	Kind          string `json:"kind"`
	Confidence    string `json:"confidence"`
	From          string `json:"from,omitempty"` // the evidence
	SDK           string `json:"sdk,omitempty"`
	SDKVersion    string `json:"sdk_version,omitempty"`
	SpeaksV2      string `json:"speaks_v2"`
	Contradiction string `json:"contradiction,omitempty"`
}

type calledAdvice struct {
	Code     string   `json:"code"`
	Text     string   `json:"text"`
	Commands []string `json:"commands,omitempty"` // to put in the place of a curl
	Link     string   `json:"link,omitempty"`
}

type calledWaste struct {
	Code    string  `json:"code"`
	Route   string  `json:"route,omitempty"`
	Count   uint32  `json:"count"`
	Of      uint32  `json:"of,omitempty"`
	WindowS float64 `json:"window_s"`
	Text    string  `json:"text"`
}

type calledOwner struct {
	Name string `json:"name,omitempty"`
	From string `json:"from,omitempty"`
}

// called is what /callers says of a process; false if it made no call that is remembered.
func (a *attributor) called(pid uint32) (any, bool) {
	r := a.Known(pid)
	if r == nil {
		return nil, false
	}
	by := r.Client
	c := calls{
		V1: r.V1, V2: r.V2, Tokens: r.Tokens, Last: r.Last,
		Client: calledBy{
			Name: by.Name, Title: by.Title(), Version: by.Version, Kind: by.Kind.String(),
			Confidence: by.Confidence.String(), From: by.From.String(), SDK: by.SDK, SDKVersion: by.SDKVersion,
			SpeaksV2: by.SpeaksV2().String(), Contradiction: by.Contradiction,
		},
		Waste: wasted(r.Waste),
		Owner: calledOwner(r.Owner), Service: r.Service, Facts: calledFacts(r),
	}
	if d := r.Advice; d != nil {
		c.Advice = &calledAdvice{Code: string(d.Code), Text: d.Text, Commands: d.Commands, Link: d.Link}
	}
	return c, true
}

func wasted(findings []client.Finding) (list []calledWaste) {
	for _, f := range findings {
		list = append(list, calledWaste{string(f.Code), f.Route, f.Count, f.Of, f.Window.Seconds(), f.String()})
	}
	return list
}

var errNoCalls = errors.New("it has made no call since the bridge began, or none that is remembered")

// askAll asks the running bridge about each process.
func (e *explainer) askAll(ctx context.Context, x *explanation) {
	if e.config.Admin.Listen == "" {
		x.Missing = append(x.Missing, "calls: admin.listen is off, so the running bridge cannot be asked what was called")
		return
	}
	for i := range x.Processes {
		p := &x.Processes[i]
		answer, err := askCalls(ctx, e.config.Admin.Listen, p.PID)
		// A process that had the pid before may have called.
		if c, running := e.callers.Running(int(p.PID)); err == nil && running == nil && answer.Last.Before(c.Started.Add(-time.Second)) {
			err = errNoCalls
		}
		switch {
		case err == nil:
			answer.Facts = nil // explain has them newer
			p.Calls = answer
			p.Facts = append(without(p.Facts, factClient, factAdvice, factLink), answer.facts(p)...)
		case errors.Is(err, errNoCalls):
			f := facts{pid: p.PID}
			f.add(factCalls, none, "the running bridge: "+err.Error())
			p.Facts = append(p.Facts, f.list...)
		default: // so it is for the others
			x.Missing = append(x.Missing, "calls: "+err.Error())
			return
		}
	}
}

const (
	factCalls = "calls"
	ofBridge  = "the running bridge"
)

// facts say in lines what was called.
func (c *calls) facts(p *explained) []fact {
	f := facts{pid: p.PID}
	f.add(factCalls, fmt.Sprintf("%d v1, %d v2, %d for a token; the last at %s", c.V1, c.V2, c.Tokens, c.Last.UTC().Format(time.RFC3339)), ofBridge)
	by := c.Client
	if by.Confidence == client.None.String() {
		f.unknown(factClient, "neither its User-Agent nor its libraries tell")
	} else {
		f.add(factClient, clientText(by.Title, by.Confidence, by.SpeaksV2), by.From)
	}
	f.known("sdk", strings.TrimSpace(by.SDK+" "+by.SDKVersion), "what the client is built on")
	f.known("contradiction", by.Contradiction, ofBridge)
	if c.Advice != nil {
		f.add(factAdvice, c.Advice.Text, "its last v1 call")
		for _, command := range c.Advice.Commands {
			f.add("instead", command, "the path it read")
		}
		f.known(factLink, c.Advice.Link, "the vendor")
	}
	for _, w := range c.Waste {
		f.add("waste", w.Text, "its calls of about the last hour")
	}
	// The bridge knows the tags of the instance too.
	for _, known := range p.Facts {
		if known.Name == "owner" && known.Value != caller.Printable(c.Owner.Name, maxShown) {
			f.known("owner (bridge)", c.Owner.Name, c.Owner.From)
		}
	}
	return f.list
}

const (
	callsPatience = 2 * time.Second
	maxCalls      = 1 << 20
)

// askCalls asks the bridge that listens there about a process.
func askCalls(ctx context.Context, listen string, pid uint32) (*calls, error) {
	ctx, cancel := context.WithTimeout(ctx, callsPatience)
	defer cancel()
	answer, err := askAdmin(ctx, listen, fmt.Sprintf("/callers?pid=%d", pid))
	if err != nil {
		return nil, fmt.Errorf("no bridge answers at admin.listen (%s), so what was called is not known: %w", listen, errors.Unwrap(err))
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxCalls))
	if err != nil {
		return nil, fmt.Errorf("read the bridge's answer: %w", err)
	}
	isJSON := answer.Header.Get("Content-Type") == "application/json"
	switch {
	case answer.StatusCode == http.StatusNotFound && isJSON:
		return nil, errNoCalls
	case answer.StatusCode != http.StatusOK || !isJSON:
		return nil, fmt.Errorf("what listens at admin.listen (%s) does not tell of callers: %s (another version?)", listen, answer.Status)
	}
	c := &calls{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("read the bridge's answer: %w", err)
	}
	c.clean()
	return c, nil
}

// clean makes what came from the listener harmless to terminals, should that be another's.
func (c *calls) clean() {
	by := &c.Client
	texts := []*string{
		&by.Name, &by.Title, &by.Version, &by.Kind, &by.Confidence, &by.From, &by.SDK, &by.SDKVersion, &by.SpeaksV2,
		&by.Contradiction, &c.Owner.Name, &c.Owner.From, &c.Service,
	}
	if a := c.Advice; a != nil {
		texts = append(texts, &a.Code, &a.Text, &a.Link)
		for i := range a.Commands {
			texts = append(texts, &a.Commands[i])
		}
	}
	for i := range c.Waste {
		texts = append(texts, &c.Waste[i].Code, &c.Waste[i].Route, &c.Waste[i].Text)
	}
	for i := range c.Facts {
		f := &c.Facts[i]
		texts = append(texts, &f.Name, &f.Value, &f.From, &f.Why)
	}
	for _, text := range texts {
		*text = caller.Printable(*text, maxShown)
	}
}
